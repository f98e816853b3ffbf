"""Records by their number: the wire format, damaged and missing files, and what must be equal on all hosts."""

import json
import os
import resource
import shutil
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from builders_tools import VERSION, sign
from tensorflow_datasets.proto import tf_example_pb2

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import records
from rxrx_jax.data.records import image_bytes, label_of
from rxrx_jax.simulate.screen import Screen, write_published
from tfds_builders import prepare

SCREEN = dict(image_size=32, treatments=2, positive_controls=1, replicates=1, untreated_wells=1, plates=1,
              train=("SIMA-01", "SIMA-02"), val=("SIMA-03",), test=("SIMB-01",))  # fmt: skip
ENCODINGS = ("delta", "zstd", "raw", "source")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder by encoding, each prepared once."""
    folders = {}

    def get(encoding):
        if encoding not in folders:
            out, name, tree, settings = tmp_path_factory.mktemp(encoding), "rxrx_sim", None, SCREEN
            if encoding == "source":  # which needs files
                write_published(Screen(**SCREEN), tree := out / "tree")
                name, settings = "rxrx1", dict(image_size=32, classes=Screen(**SCREEN).classes)
            folders[encoding] = prepare.prepare(name, tree, out, 1, progress=False, **settings, encoding=encoding)
        return folders[encoding]

    return get


@pytest.fixture
def folder(prepared, tmp_path):
    """Returns a function encoding -> a copy of its folder."""
    return lambda encoding="raw": shutil.copytree(prepared(encoding), tmp_path / encoding)


def shard(folder, split="train", number=0):
    return sorted(folder.glob(f"*-{split}.array_record-*"))[number]


def unreadable(folder, split="train"):
    """{index: reason} of a split's records."""
    found, source = {}, data.read_dataset(folder).sources[split]
    for index in range(len(source)):
        try:
            source[index][:, :]
        except ValueError as error:
            found[index] = str(error)
    return found


def rewrite(path, change):
    """Rewrites a shard with change(record number, bytes) -> bytes in place of every record."""
    reader = ArrayRecordReader(str(path))
    old = [reader.read([i])[0] for i in range(reader.num_records())]
    writer = ArrayRecordWriter(str(path), reader.writer_options_string().partition(",transpose")[0] + ",uncompressed")
    for i, record in enumerate(old):
        writer.write(change(i, record))
    writer.close()


# The wire format.


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features):
    message = tf_example_pb2.Example()
    for name, value in features.items():
        feature = message.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value[0], float):
            feature.float_list.value.extend(value)
        else:
            feature.int64_list.value.extend(value)
    return message.SerializeToString()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 20_000, 3_000_000])  # lengths of one to four bytes
def test_the_image_is_what_protobuf_reads_wherever_it_stands(length):
    random = np.random.default_rng(length)
    image = random.bytes(length)
    others = {"a": b"image", "floats": [0.5, 2.0], "packed": [1, -1, 2**40], "images": b"x" * 200, "imag": b""}
    names = ["image", *others]
    for _ in range(6):
        record = example(**{name: (others | {"image": image})[name] for name in random.permutation(names)})
        assert tf_example_pb2.Example.FromString(record).features.feature["image"].bytes_list.value[0] == image
        found = image_bytes(record)
        assert found == image and found.obj is record  # not copied


def test_the_label_is_what_protobuf_reads():
    for label in (0, 1, 127, 128, 1138, 2**40, -1):
        assert label_of(example(image=b"x", perturbation_id=[label], plate=[7])) == label
    for record in (example(image=b"x"), example(perturbation_id=b"x"), b"\n"):
        with pytest.raises(ValueError, match="no perturbation_id|ends within"):
            label_of(record)


def test_fields_of_any_order_and_kind_are_skipped():
    image = b"pixels"
    value = field(1, field(1, image))
    unknown = varint(9 << 3) + varint(2**60) + varint(10 << 3 | 1) + b"8 bytes." + varint(11 << 3 | 5) + b"4by."
    unknown += field(17, b"image") + field(1000, b"image") + varint(1 << 3) + varint(5)  # the last one no string
    entry = field(2, unknown + value + unknown) + field(1, b"image")  # the value before its key
    other = field(1, field(1, b"other") + field(2, field(3, field(1, b"\x01\x02"))))
    record = unknown + field(1, unknown + other + field(1, entry) + other) + unknown
    assert image_bytes(record) == image
    assert tf_example_pb2.Example.FromString(record).features.feature["image"].bytes_list.value[0] == image


def test_a_record_without_an_image_or_cut_anywhere_says_so():
    record = example(well=b"B02", site=[1, 2], image=b"0123456789" * 20, plate=[3])
    with pytest.raises(ValueError, match="no image in its 38 bytes"):
        image_bytes(example(well=b"image", images=b"x"))
    for end in range(len(record)):
        try:
            assert image_bytes(record[:end]) == b"0123456789" * 20  # it was before the cut
        except ValueError as error:
            assert "no image" in str(error) or "ends within a field" in str(error)
    with pytest.raises(ValueError, match="ends within a field"):
        image_bytes(field(1, b"")[:-1] + b"\xff")
    for kind in (3, 4, 6, 7):
        with pytest.raises(ValueError, match=f"wire type {kind}"):
            image_bytes(varint(1 << 3 | kind) + b"\x01\x00")
    with pytest.raises(ValueError, match="ends within a field"):  # an image that is not of bytes
        image_bytes(field(1, field(1, field(1, b"image") + field(2, field(1, b"")))))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_images_are_those_of_tfds(prepared, encoding):
    source = tfds.builder_from_directory(prepared(encoding)).as_data_source("train")
    found = data.read_dataset(prepared(encoding)).sources["train"]
    assert len(found) == len(source) > 0
    for index in range(len(source)):
        np.testing.assert_array_equal(found[index][:, :], source[index]["image"])
        np.testing.assert_array_equal(found[index][3:20, 5:9], source[index]["image"][3:20, 5:9])


# Damage.


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_flipped_bit_loses_one_record_and_no_other(folder, encoding):
    folder = folder(encoding)
    path = shard(folder)
    whole = path.read_bytes()
    lost = {}
    for offset in range(1000, 9000, 997):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
        found = unreadable(folder)
        assert len(found) == 1, (offset, found)
        lost |= found
    assert len(lost) > 1 and all("Corrupted" in reason or "Invalid" in reason for reason in lost.values())

    dataset = data.read_dataset(folder)
    rows = data.select(dataset, splits="train")
    samplers = {"train": data.make_sampler(dataset, rows, len(rows), "experiment", 0, 0)}
    missing = [m["train"]["valid"] for m in data.training_minibatches(dataset, samplers, 1, 0, 20, 0)]
    assert (~np.concatenate(missing)).sum() == 1
    reads = list(data.evaluation_minibatches(dataset, rows, 4, None, True))
    assert rows[~np.concatenate([m["valid"] for m in reads])[: len(rows)]].tolist() == [rows[max(found)]]
    path.write_bytes(whole)
    assert unreadable(folder) == {}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "noise", "gone"])
def test_a_record_that_holds_another_image_cannot_be_read(folder, encoding, damage):
    """It went wrong before its checksum was written."""
    random = np.random.default_rng(0)
    folder = folder(encoding)

    def change(number, record):
        if number != 2:
            return record
        message = tf_example_pb2.Example.FromString(record)
        (image,) = message.features.feature["image"].bytes_list.value
        other = {"cut": image[:-7], "empty": b"", "longer": image + b"1234567", "noise": random.bytes(len(image) - 1)}
        if damage == "gone":
            del message.features.feature["image"]
        else:
            message.features.feature["image"].bytes_list.value[0] = other[damage]
        return message.SerializeToString()

    rewrite(shard(folder), change)
    correct_sizes(folder)
    if (damage, encoding) == ("longer", "source"):
        assert unreadable(folder) == {}  # it says where its files end
    else:
        assert list(unreadable(folder)) == [2]


@pytest.mark.parametrize("opened", [True, False])
def test_records_of_a_file_that_is_cut_short_under_the_reader_cannot_be_read(folder, opened):
    folder = folder()
    dataset = data.read_dataset(folder)
    source, count = dataset.sources["train"], ArrayRecordReader(str(shard(folder))).num_records()
    if opened:
        source[0][:, :]
    os.truncate(shard(folder), 10_000)  # within the second record
    with pytest.raises(ValueError, match="no image in its 0 bytes|at least 64KB"):
        source[count - 1]
    assert source[count][:, :].shape == (32, 32, 6)  # of the next file


def correct_sizes(folder):
    """Says in dataset_info.json what the files have now."""
    about = json.loads((folder / "dataset_info.json").read_text())
    for split in about["splits"]:
        files = folder.glob(f"*-{split['name']}.array_record-*")
        split["numBytes"] = str(sum(path.stat().st_size for path in files))
    (folder / "dataset_info.json").write_text(json.dumps(about))
    sign(folder)


def test_files_that_are_missing_or_cut_short_stop_the_opening(folder):
    folder = folder()
    path = shard(folder, number=1)
    whole = path.read_bytes()
    for cut in (whole[:-10], whole[: len(whole) // 2], whole[:-65536], b""):
        path.write_bytes(cut)
        with pytest.raises(UserError, match=f"{path} is cut short or damaged: copy it again, or rebuild"):
            data.read_dataset(folder)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path} cannot be read \(No such file or directory\): copy it again"):
        data.read_dataset(folder)
    path.write_bytes(shard(folder, number=0).read_bytes())
    rewrite(path, lambda number, record: record + field(99, bytes(100_000)))
    with pytest.raises(UserError, match=r"its split has \d+ bytes and not \d+, as dataset_info.json says: copy"):
        data.read_dataset(folder)


def test_a_file_of_fewer_records_is_found(folder):
    folder = folder()
    shutil.copy(shard(folder, "val"), shard(folder))
    rewrite_half(shard(folder))
    with pytest.raises(UserError, match=f"{shard(folder)} is cut short or damaged"):
        data.read_dataset(folder)


def rewrite_half(path):
    reader = ArrayRecordReader(str(path))
    old = [reader.read([i])[0] for i in range(reader.num_records())]
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in old[::2]:
        writer.write(record)
    writer.write(old[0] + field(99, bytes(100_000)))  # so that its size differs, too
    writer.close()


def test_as_many_files_may_be_open_as_the_system_lets():
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
        records.allow_open_files(70)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (570, hard)
        records.allow_open_files(10**9)
        most = 570 + 10**9 if hard == resource.RLIM_INFINITY else hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# What must be equal on all hosts.


def test_the_fingerprint_is_of_what_a_folder_holds_and_not_of_where_it_lies(folder, tmp_path):
    folder = folder("delta")
    fingerprint = data.fingerprint(data.read_dataset(folder))
    assert len(fingerprint) == 64 and int(fingerprint, 16)
    moved = folder.rename(tmp_path / "elsewhere")
    for path in moved.iterdir():
        os.utime(path, (time.time() - 9e6,) * 2)
    (moved / "report.html").write_text("shown to people alone")
    about = json.loads((moved / "metadata.json").read_text())
    (moved / "metadata.json").write_text(json.dumps(about | {"source": "/another/place"}))
    sign(moved)
    dataset = data.read_dataset(moved)
    assert data.fingerprint(dataset) == fingerprint

    seen = {fingerprint}
    changes = {
        "sites.csv": lambda text: text.replace(b"SIMA-01", b"SIMA-09", 1),
        "manifest.csv": lambda text: text[:-3] + b"9\r\n",
        "perturbations.csv": lambda text: text + b"77,x,treatment\n",
        "statistics.json": lambda text: text.replace(b"1", b"2", 1),
        "dataset_info.json": lambda text: text.replace(VERSION.encode(), b"9.9.9"),
        "metadata.json": lambda text: text.replace(b'"bits": 8', b'"bits": 16', 1),
        shard(moved).name: lambda text: text + b"x",
    }
    for name, change in changes.items():
        text = (moved / name).read_bytes()
        assert change(text) != text, name
        (moved / name).write_bytes(change(text))
        seen.add(data.fingerprint(dataset))
        (moved / name).write_bytes(text)
    shard(moved).rename(moved / "rxrx_sim-train.array_record-00007-of-00008")
    seen.add(data.fingerprint(dataset))
    assert len(seen) == len(changes) + 2
