"""Files of weights: both containers, and whatever a file may do wrong, on purpose or not."""

import builtins
import functools
import io
import os
import pathlib
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from torch_files import ORDERED, archive, number, program, tensor, text

from rxrx_jax.base.errors import UserError
from rxrx_jax.weights.read import read_tensors


def refused(path, message):
    """The line of the error, which names the file."""
    with pytest.raises(UserError, match=message) as caught:
        read_tensors(path)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line
    return line


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("DoubleStorage", np.float64),
        ("FloatStorage", np.float32),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", jnp.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_strides_offsets_and_dtypes(tmp_path, kind, dtype):
    values = np.arange(6) > 2 if dtype is np.bool_ else np.arange(6).astype(dtype)
    of = dict(kind=kind, count=6)
    code = program(
        whole=tensor((2, 3), (3, 1), **of),
        turned=tensor((3, 2), (1, 3), **of),
        part=tensor((2, 2), (3, 1), 1, **of),
        scalar=tensor((), (), 5, **of),
        empty=tensor((0, 4), (4, 1), **of),
        parameter=b"ctorch._utils\n_rebuild_parameter\n(" + tensor((6,), (1,), **of) + b"\x88" + ORDERED + b"tR",
    )
    found = read_tensors(archive(tmp_path / "a.pt", code, {"0": values.tobytes()}))
    assert {array.dtype for array in found.values()} == {np.dtype(dtype)}
    np.testing.assert_array_equal(found["whole"], values.reshape(2, 3))
    np.testing.assert_array_equal(found["turned"], values.reshape(2, 3).T)
    np.testing.assert_array_equal(found["part"], values.reshape(2, 3)[:, 1:])
    np.testing.assert_array_equal(found["parameter"], values)
    assert found["scalar"] == values[5] and found["empty"].shape == (0, 4)
    assert not any(array.flags.writeable for array in found.values() if array.size)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_the_state_dict_of_a_training_program(tmp_path, key):
    inner = b"}(" + text("a") + tensor((6,), (1,)) + b"u"
    found = read_tensors(
        archive(tmp_path / "a.pt", program(epoch=number(3), **{key: inner}, dtype=b"ctorch\nfloat16\n"))
    )
    assert list(found) == ["a"] and found["a"].shape == (6,)


def test_what_holds_no_tensors_by_name(tmp_path):
    refused(
        archive(tmp_path / "a.pt", program(epoch=number(3), optimizer=b"}")), "no tensors by name; its keys are 'epoch'"
    )
    refused(archive(tmp_path / "b.pt", b"\x80\x02]."), "holds a list and not tensors by name")
    refused(archive(tmp_path / "c.pt", program(a=tensor((6,), (1,)), b=number(1))), "'b' is not a tensor")


def test_files_of_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; archives made by hand are read in any case")
    base = torch.arange(24.0).reshape(2, 3, 4)
    module = torch.nn.Linear(3, 2)
    saved = {
        "turned": base.permute(2, 0, 1),
        "part": base[1:, ::2],
        "half": base.half(),
        "low": base.bfloat16(),
        "parameter": torch.nn.Parameter(base),
        "count": torch.tensor(7),
        **module.state_dict(),
    }
    for protocol in (2, 4):
        torch.save(
            {"state_dict": saved, "version": "1.0", "size": [1.5, None, True]}, tmp_path / "a", pickle_protocol=protocol
        )
        found = read_tensors(tmp_path / "a")
        assert list(found) == list(saved)
        for name, value in saved.items():
            np.testing.assert_array_equal(found[name].astype(np.float64), value.detach().double().numpy(), err_msg=name)
    torch.save(module.state_dict(), tmp_path / "b")  # an OrderedDict with attributes
    np.testing.assert_array_equal(read_tensors(tmp_path / "b")["weight"], module.weight.detach().numpy())
    torch.save(module, tmp_path / "module")
    refused(tmp_path / "module", "wants 'torch.nn.modules.linear.Linear'")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["system", "eval", "exec", "partial", "getattr", "Path", "numpy"])
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(tmp_path, kind, protocol):
    touched = tmp_path / "touched"
    evil = {
        "system": Call(os.system, f"touch {touched}"),
        "eval": Call(eval, f"__import__('os').mkdir({str(touched)!r})"),
        "exec": Call(exec, f"__import__('os').mkdir({str(touched)!r})"),
        "partial": Call(functools.partial, os.system, f"touch {touched}"),
        "getattr": Call(builtins.getattr, pathlib.Path(touched), "touch"),
        "Path": Call(pathlib.Path, "."),
        "numpy": np.float32(1),
    }[kind]
    path = archive(tmp_path / "model.safetensors", pickle.dumps({"weight": evil}, protocol=protocol))
    line = refused(path, "is refused: its pickle")
    if protocol >= 2:
        name = {"os.system": "system", "pathlib.Path": "Path", "builtins.getattr": "getattr"}.get(
            kind, kind.split(".")[-1]
        )
        assert name in line and "nothing in it was run" in line
    assert not touched.exists()
    pickle.loads(pickle.dumps(evil, protocol=protocol))  # the attack itself is real
    assert touched.exists() == (kind in ("system", "eval", "exec"))


@pytest.mark.parametrize(
    "code, name",
    [
        (b"cos\nsystem\n(" + text("touch {}") + b"tR", "os.system"),
        (b"(" + text("touch {}") + b"ios\nsystem\n", "os system"),  # INST
        (b"(cos\nsystem\n" + text("touch {}") + b"o", "os.system"),  # OBJ
        (b"\x8c\x02os\x8c\x06system\x93(" + text("touch {}") + b"tR", "os.system"),  # STACK_GLOBAL
        (b"ctrap\nspring\n", "trap.spring"),
        (b"c__main__\nx\n", "__main__.x"),
        (b"ctorch\nload\n", "torch.load"),
        (b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n", "_rebuild_device_tensor_from_numpy"),
        (b"ccollections\nOrderedDict.__init__.__globals__\n", "__globals__"),
        (b"\x82\x01", "EXT1"),
        (b"ccollections\nOrderedDict\n)\x81", "NEWOBJ"),
        (b"Pcos\n", "PERSID"),
        (b"ctorch\nFloatStorage\n)R", "calls 'torch.FloatStorage'"),
        (tensor((6,), (1,)) + b"}b", "state of what is not an OrderedDict"),
        (b"ccollections\nOrderedDict\n}b", "state of what is not an OrderedDict"),
    ],
)
def test_opcodes_by_hand_are_refused_and_nothing_is_imported(tmp_path, monkeypatch, code, name):
    touched = tmp_path / "touched"
    (tmp_path / "trap.py").write_text(f"open({str(touched)!r}, 'w')\ndef spring(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = f"touch {touched}"
    code = code.replace(text("touch {}"), text(command))
    line = refused(archive(tmp_path / "a.pt", program(weight=code)), "is refused")
    assert name in line
    assert not touched.exists()


@pytest.mark.parametrize(
    "code, message",
    [
        (tensor((7,), (1,)), r"size \(7,\) reaches outside"),
        (tensor((6,), (1,), 1), "reaches outside"),
        (tensor((2, 3), (4, 1)), "reaches outside"),
        (tensor((1 << 40,), (0,)), "reaches outside"),  # a terabyte of one number
        (tensor((2, 2), (1, 1 << 40)), "reaches outside"),
        (tensor((6,), (1,), -1), "not a count"),
        (tensor((6,), (-1,), 5), "not a count"),
        (tensor((-6,), (1,)), "not a count"),
        (tensor((6,), (1, 1)), "described wrongly"),
        (tensor((6,), (1,), count=5), "storage 0 claims 5 float32 and has 24 bytes"),
        (tensor((6,), (1,), count=1 << 60), "claims 1152921504606846976 float32"),
        (tensor((6,), (1,), key="1"), "storage 1 is missing"),
        (tensor((6,), (1,), key="../data.pkl"), "storage ../data.pkl is missing"),
        (tensor((6,), (1,), kind="float32"), "unknown storage"),
        (tensor((6,), (1,)) + text("b") + tensor((3,), (1,), kind="IntStorage"), "storage 0 is of two types"),
        (tensor((6,), (1,)) + text("weight") + tensor((3,), (1,)), "it holds 'weight' twice"),
        (b"h\x05", "damaged or not an archive"),  # a memo that was never put
        (b"R", "damaged or not an archive"),
        (b"]]u", "damaged or not an archive"),
        (b"(]}tQ", "damaged or not an archive"),
        (b"}]" + number(1) + b"s", "a key is neither a name nor a number"),
        (b"X\xff\xff\xff\xffab", "damaged or not an archive"),
        (b"\x8e" + b"\xff" * 8, "damaged or not an archive"),  # bytes of 2^64
        (b"r\xff\xff\xff\xff", None),  # LONG_BINPUT, which makes Python's own unpickler allocate 64 GB
    ],
)  # fmt: skip
def test_descriptions_that_are_not_true(tmp_path, code, message):
    path = archive(tmp_path / "a.pt", program(weight=code))
    if message is None:
        with pytest.raises(UserError):
            read_tensors(path)
    else:
        refused(path, message)


def test_compressed_doubled_and_overlapping_entries(tmp_path):
    bomb = {"0": bytes(1 << 24)}
    path = archive(tmp_path / "bomb.pt", program(weight=tensor((6,), (1,))), bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    refused(path, "is compressed or encrypted")
    path = archive(tmp_path / "twice.pt", program(weight=tensor((6,), (1,))))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data.pkl", program(weight=b"cos\nsystem\n"))
    refused(path, "holds 'archive/data.pkl' twice")
    path = archive(tmp_path / "claims.pt", program(weight=tensor((6,), (1,))))
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02")  # the last entry of the directory: the sizes of data/0
    path.write_bytes(data[: at + 20] + struct.pack("<II", 1 << 30, 1 << 30) + data[at + 28 :])
    refused(path, "claims to hold 1,073,74.* bytes and has")
    path = archive(tmp_path / "big.pt", b"\x80\x02" + bytes((1 << 24) + 1))
    refused(path, "data.pkl is larger than")


def test_other_zip_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("a.npy", b"")
    refused(tmp_path / "a.npz", "is a zip file but not an archive of torch.save")
    path = tmp_path / "big-endian.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program())
        file.writestr("archive/byteorder", "big")
    refused(path, "little-endian")


def test_a_file_cut_anywhere_or_with_a_wrong_byte_is_an_error(tmp_path):
    whole = archive(tmp_path / "a.pt", program(weight=tensor((6,), (1,)))).read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path, ".")
    expected = read_tensors(tmp_path / "a.pt")["weight"]
    for at in range(len(whole)):  # every byte: an error of ours or the same numbers, never another exception
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            found = read_tensors(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert all(np.array_equal(value, expected) for value in found.values())


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
ARRAYS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(3, dtype=np.float16),
    "low": np.arange(3).astype(jnp.bfloat16),
    "scalar": np.array(3.0),
}


def test_safetensors_of_every_dtype(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a.bin", metadata={"format": "np"})  # the name does not matter
    found = read_tensors(tmp_path / "a.bin")
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("length", [0x80, 0x4B50])  # as a pickle and as a zip file begin
def test_a_header_whose_length_looks_like_another_format(tmp_path, length):
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    (tmp_path / "a").write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 2.0))
    assert read_tensors(tmp_path / "a")["a"] == 2.0


def test_safetensors_that_are_damaged(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        refused(path, ".")
    one = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    for header, data, message in (
        (b"{" + one + b"," + one + b"}", bytes(4), "its header holds a name twice"),
        (b"{" + one + b"}", bytes(3), "damaged or not a safetensors file"),
        (b"{" + one.replace(b"[1]", b"[9999999999]") + b"}", bytes(4), "damaged or not a safetensors file"),
        (b"{" + one.replace(b"[0,4]", b"[4,8]") + b"}", bytes(4), "damaged or not a safetensors file"),
        (b"{nonsense", b"", "damaged or not a safetensors file"),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)
        refused(path, message)


def test_what_is_not_a_file_of_weights(tmp_path):
    refused(tmp_path / "none", "cannot be read: No such file")
    refused(tmp_path, "cannot be read: Is a directory")
    (tmp_path / "a").write_text("hello, world")
    refused(tmp_path / "a", "not a file of weights: neither safetensors nor of torch.save")
    os.mkfifo(tmp_path / "fifo")  # nobody writes into it
    refused(tmp_path / "fifo", "is not a regular file")
    (tmp_path / "pointer").write_text(POINTER)
    refused(tmp_path / "pointer", "is a Git LFS pointer and not the file itself; in its repository, run `git lfs pull`")
    buffer = io.BytesIO()
    pickle.dump({"weight": Call(os.system, f"touch {tmp_path}/touched")}, buffer)
    (tmp_path / "b").write_bytes(buffer.getvalue())
    refused(tmp_path / "b", "is a pickle, and not a file of weights")
    assert not (tmp_path / "touched").exists()
