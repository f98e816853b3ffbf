"""Archives as torch.save writes them, without PyTorch."""

import pickle
import struct
import zipfile

import numpy as np

ORDERED = b"ccollections\nOrderedDict\n)R"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else pickle.dumps(value, 2)[2:-1]


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key="0", count=6, kind="FloatStorage"):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(size, stride, offset=0, **of):
    """The opcodes of a tensor as torch.save writes them."""
    place = storage(**of) + number(offset) + numbers(size) + numbers(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"\x89" + ORDERED + b"tR"


def items(**values):
    """The opcodes of a dict; each value is opcodes."""
    return b"}(" + b"".join(text(name) + code for name, code in values.items()) + b"u"


def program(**values):
    """A pickle of a dict; each value is opcodes."""
    return b"\x80\x02" + items(**values) + b"."


def archive(path, code, storages=None, compression=zipfile.ZIP_STORED):
    storages = {"0": np.arange(6, dtype=np.float32).tobytes()} if storages is None else storages
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", code)
        file.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
    return path


def former(path, code, storages=None, little_endian=True):
    """A file as torch.save wrote them before PyTorch 1.6. Args: storages, {key: float32 array}."""
    storages = {"0": np.arange(6, dtype=np.float32)} if storages is None else storages
    about = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little_endian})
    parts = [pickle.dumps(part, 2) for part in about] + [code.replace(b"tQ", b"NtQ"), pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", len(array)) + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


def save(path, tree):
    """A file of nested dicts of float32 arrays and ints."""
    storages = {}

    def code(value):
        if isinstance(value, dict):
            return items(**{name: code(inner) for name, inner in value.items()})
        if isinstance(value, int):
            return number(value)
        array, key = np.ascontiguousarray(value, np.float32), str(len(storages))
        storages[key] = array.tobytes()
        stride = [step // array.itemsize for step in array.strides]
        return tensor(array.shape, stride, key=key, count=array.size)

    return archive(path, b"\x80\x02" + code(tree) + b".", storages)
