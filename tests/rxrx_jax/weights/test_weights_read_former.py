"""Files of torch.save before PyTorch 1.6: pickles one after the other, then the bytes of the storages."""

import struct

import numpy as np
import pytest
from torch_files import former, program, tensor, text

from rxrx_jax.base.errors import UserError
from rxrx_jax.weights.read import read_tensors


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_share_storages_in_the_order_of_the_file(tmp_path):
    storages = {"7": np.arange(6, dtype=np.float32), "3": np.array([9.0], np.float32)}
    code = program(
        last=tensor((1,), (1,), key="3", count=1),
        whole=tensor((2, 3), (3, 1), key="7"),
        turned=tensor((3, 2), (1, 3), key="7"),
        empty=tensor((0, 4), (4, 1), key="7"),
    )
    found = read_tensors(former(tmp_path / "a.pth", code, storages))
    np.testing.assert_array_equal(found["whole"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["turned"], found["whole"].T)
    assert found["last"] == 9 and found["empty"].shape == (0, 4)
    assert not any(array.flags.writeable for array in found.values() if array.size)


def test_files_of_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; files made by hand are read in any case")
    base = torch.arange(24.0).reshape(2, 3, 4)
    saved = {"turned": base.permute(2, 0, 1), "part": base[1:, ::2], "half": base.half(), "low": base.bfloat16(),
             "count": torch.tensor(7), **torch.nn.BatchNorm2d(3).state_dict()}  # fmt: skip
    for protocol in (2, 4):
        torch.save(saved, tmp_path / "a", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
        found = read_tensors(tmp_path / "a")
        assert list(found) == list(saved)
        for name, value in saved.items():
            np.testing.assert_array_equal(found[name].astype(np.float64), value.double().numpy(), err_msg=name)


@pytest.mark.parametrize(
    "code, message",
    [
        (tensor((7,), (1,)), "reaches outside"),
        (tensor((5,), (1,), count=5), "storage 0 claims 5 values and has 6"),
        (tensor((6,), (1,), count=1 << 60), "its storages claim 4,611,686,018,427,387,904 bytes and the file has"),
        (tensor((6,), (1,), key="1"), "its storages are not those that it names"),
        (b"cos\nsystem\n(" + text("true") + b"tR", "wants 'os.system'"),
    ],
)
def test_descriptions_that_are_not_true(tmp_path, code, message):
    refused(former(tmp_path / "a.pth", program(weight=code)), message)


def test_a_view_of_another_storage_and_another_machine(tmp_path):
    path = former(tmp_path / "a.pth", program(weight=tensor((6,), (1,))))
    path.write_bytes(path.read_bytes().replace(b"NtQ", b"}tQ"))
    refused(path, "unknown storage")
    refused(former(path, program(weight=tensor((6,), (1,))), little_endian=False), "little-endian")


def test_a_file_cut_anywhere_or_with_a_wrong_byte_is_an_error(tmp_path):
    whole = former(tmp_path / "a.pth", program(weight=tensor((6,), (1,)))).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path, ".")
    path.write_bytes(whole + b"\0")
    refused(path, "there is more after its last storage")
    numbers = range(len(whole) - 24, len(whole))  # of a storage: nothing tells that one is another
    for at in set(range(len(whole))) - set(numbers):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            found = read_tensors(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert all(np.array_equal(value, np.arange(6)) for value in found.values())
    assert struct.unpack("<q", whole[-32:-24]) == (6,)
