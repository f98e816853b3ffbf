"""Record encodings: lossless, readable through TFDS, safe against damage, and the 8-bit mapping."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zstandard
from builders_tools import SCREEN, SCREEN_FIELDS, records
from paths import ROOT

from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare
from tfds_builders.common import encodings, settings
from tfds_builders.common.reading import from_8_bits, to_8_bits


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(6, 64, 64), (5, 37, 50), (1, 1, 1), (3, 32, 7), (2, 33, 1), (6, 31, 64)])
def test_delta_is_lossless(shape, dtype):
    random = np.random.default_rng(0)
    channels, height, width = shape
    for image in (
        random.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype),
        np.full(shape, np.iinfo(dtype).max, dtype),
        np.zeros(shape, dtype),
        random.integers(0, 9, (height, width, channels)).astype(dtype).transpose(2, 0, 1),  # not contiguous
    ):
        data = encodings.encode_delta(image)
        decoded = encodings.decode_delta(data, (height, width, channels), dtype)
        assert decoded.dtype == dtype and np.array_equal(decoded, image)


def test_delta_is_what_its_docstring_says():
    """An independent, slow decoder: zstd, then both sums in Python."""
    import zstandard

    image = np.random.default_rng(1).integers(0, 256, (2, 40, 5)).astype(np.uint8)
    delta = np.frombuffer(zstandard.decompress(encodings.encode_delta(image)), np.uint8).reshape(image.shape)
    expected = np.zeros_like(image)
    for channel, row, column in np.ndindex(image.shape):
        value = sum(int(d) for d in delta[channel, row, : column + 1])  # to the pixel minus the one above
        above = 0 if row % 32 == 0 else int(expected[channel, row - 1, column])
        expected[channel, row, column] = (value + above) % 256
    assert np.array_equal(expected, image)


@pytest.mark.parametrize("damage", ["flip", "cut", "other size"])
def test_a_damaged_record_does_not_decode(damage):
    image = np.random.default_rng(2).integers(0, 30, (6, 64, 64)).astype(np.uint8)
    data = encodings.encode_delta(image)
    shape = (64, 64, 6)
    if damage == "flip":  # zstd's checksum finds what still decompresses
        data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
    elif damage == "cut":
        data = data[:-20]
    else:
        shape = (64, 32, 6)
    with pytest.raises((ValueError, RuntimeError)):
        encodings.decode_delta(data, shape, np.uint8)


def build(out, **fields):
    return prepare.prepare("rxrx_sim", None, out, 1, progress=False, **{**SCREEN_FIELDS, **fields})


@pytest.mark.parametrize("encoding", ["delta", "zstd", "raw"])
def test_every_encoding_reads_back_the_same_pixels(tmp_path, encoding):
    folder = build(tmp_path, encoding=encoding)
    found = {record["site_id"]: record["image"] for split in records(folder).values() for record in split}
    rows = simulate.sites(SCREEN)
    assert len(found) == len(rows)
    for row in rows:
        image = found[row["site_id"]]
        assert image.dtype == np.uint8 and np.array_equal(image, simulate.render_site(SCREEN, row))
    options = {"delta": "uncompressed", "zstd": "zstd:3", "raw": "uncompressed"}
    assert options[encoding] in encodings.writer_options(encoding)


def test_delta_is_smaller_than_zstd_and_zstd_than_raw(tmp_path):
    size = {}
    for encoding in ("delta", "zstd", "raw"):
        folder = build(tmp_path, encoding=encoding, image_size=128)
        size[encoding] = sum(path.stat().st_size for path in folder.glob("*.array_record-*"))
    assert size["delta"] < size["zstd"] < size["raw"]


@pytest.mark.parametrize("encoding", ["zstd", "raw"])
def test_plain_encodings_open_without_this_package(tmp_path, encoding):
    folder = build(tmp_path, encoding=encoding)
    code = f"""
import sys
sys.modules["tfds_builders"] = sys.modules["rxrx_jax"] = None  # as if they were not installed
import tensorflow_datasets as tfds
source = tfds.builder_from_directory({str(folder)!r}).as_data_source("val")
assert source[0]["image"].shape == (32, 32, 6) and len(source) == 16
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, cwd=ROOT)


def test_the_feature_survives_its_description():
    for kind in (encodings.DeltaImage, encodings.SourceImage):
        feature = kind(shape=(32, 16, 5), dtype=np.uint16)
        again = tfds.features.FeatureConnector.from_json(json.loads(json.dumps(feature.to_json())))
        assert type(again) is kind and again.shape == (32, 16, 5) and again.np_dtype == np.uint16


def test_8_bits_are_a_fixed_square_root():
    values = np.arange(65536, dtype=np.uint16)
    mapped = to_8_bits(values)
    assert mapped.dtype == np.uint8 and np.all(np.diff(mapped.astype(int)) >= 0)  # monotonic
    exact = np.array([round(255 * (v / 65535) ** 0.5) for v in range(65536)])
    assert np.array_equal(mapped, exact)
    assert set(mapped.tolist()) == set(range(256))
    # the inverse is within half a step, which is as wide as the square root of the value is steep
    step = np.sqrt(values / 65535) * 2 / 255 * 65535 + 65535 / 255**2
    assert np.all(np.abs(from_8_bits(mapped) - values) <= 0.5 * step + 1)
    assert np.array_equal(to_8_bits(np.round(from_8_bits(mapped)).astype(np.uint16)), mapped)


def test_records_are_compressed_alone_and_deltas_have_a_checksum():
    assert all("group_size:1," in encodings.writer_options(name) for name in settings.ENCODINGS)
    data = encodings.encode_delta(np.zeros((2, 4, 6), np.uint8))
    assert zstandard.get_frame_parameters(data).has_checksum
    with pytest.raises(ValueError, match="does not hold"):
        encodings.decode_delta(data, (4, 7, 2), np.uint8)
