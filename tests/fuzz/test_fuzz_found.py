"""What the fuzzer found, one test per kind of fault."""

import json
import os
import shutil

import builders_tools
import checkpoint_tools
import numpy as np
import pyarrow as pa
import pytest

from rxrx_jax import weights
from rxrx_jax.base import embeddings, files, seen
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.dataset import fingerprint, read_dataset
from rxrx_jax.evaluate import protocols
from rxrx_jax.training import metrics
from rxrx_jax.training.checkpoint import Checkpoints, stored_parameters
from rxrx_jax.weights import layout
from tfds_builders import prepare, verify
from tfds_builders.common.rows import splits
from tfds_builders.own import table
from tfds_builders.own.spec import Spec


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    return prepare.prepare("rxrx_sim", None, out, 1, progress=False, **builders_tools.SCREEN_FIELDS)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / builders_tools.VERSION)


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def line(function, *arguments) -> str:
    """The one line of a UserError."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 4000
    return str(caught.value)


@pytest.mark.parametrize(
    "name, read",
    [
        (metrics.NAME, lambda folder: metrics.read(folder / metrics.NAME)),
        (seen.NAME, lambda folder: seen.read(folder / seen.NAME)),
        (embeddings.NAME, embeddings.read),
        (embeddings.NAME, embeddings.read_provenance),
        ("config.json", weights.about),
        ("config.json", protocols.of_run),
    ],
)
def test_a_pipe_in_place_of_a_file_of_a_run_is_refused(tmp_path, name, read):
    pipe(tmp_path / name)
    assert f"{name} is not a regular file" in line(read, tmp_path)


def test_a_pipe_in_place_of_records_is_refused(folder):
    pipe(next(folder.glob("*-val.array_record-00000*")))
    assert "is not a regular file" in line(read_dataset, folder)
    assert any("not a regular file" in text for text in verify.verify(folder, 1))


def test_a_pipe_beside_the_records_is_refused(folder):
    found = read_dataset(folder)
    pipe(folder / "unlisted.csv")
    assert "unlisted.csv is not a regular file" in line(fingerprint, found)


def test_a_pipe_within_a_checkpoint_is_damage(tmp_path, capsys):
    checkpoint_tools.save(tmp_path, 7, 8, keep=2)
    pipe(tmp_path / "checkpoints/8/state/manifest.ocdbt")
    assert "8 is damaged (state/manifest.ocdbt is not a regular file)" in line(stored_parameters, tmp_path)
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        state, _ = checkpoints.restore(checkpoint_tools.shapes_of(checkpoint_tools.make_state(0)))
    assert int(state.step) == 7 and "is not a regular file): set aside" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]", "3"])
def test_a_manifest_that_is_another_file_is_damage(tmp_path, content):
    checkpoint_tools.save(tmp_path, 7)
    (tmp_path / "checkpoints/7/manifest/data.json").write_text(content)
    assert "checkpoints/7 is damaged (" in line(stored_parameters, tmp_path)


def test_splits_that_cannot_be_read_are_not_no_splits(tmp_path):
    (tmp_path / "splits.csv").symlink_to("gone.csv")
    assert "splits.csv cannot be read" in line(splits.read_file, tmp_path)
    spec = Spec(name="mine", metadata="a.csv", pattern="{plate}_{well}_{site}_{channel}.png", channels="1:DNA")
    assert spec.splits_table(tmp_path) == tmp_path / "splits.csv"
    (tmp_path / "splits.csv").unlink()
    assert splits.read_file(tmp_path) is None and spec.splits_table(tmp_path) is None


def test_messages_quote_a_bounded_part_of_a_table(tmp_path):
    long = "9" * 5000
    (tmp_path / "splits.csv").write_text(f"experiment,split\nA,{long}\n")
    assert "'999" in line(splits.read_file, tmp_path)
    (tmp_path / "a.csv").write_text(f"plate,{long}\n1,2\n")
    spec = Spec(name="mine", metadata="a.csv", pattern="{plate}_{well}_{site}_{channel}.png", channels="1:DNA")
    assert "it has plate, 999" in line(table.columns, tmp_path / "a.csv", spec)


@pytest.mark.parametrize(
    "keep", [lambda _: False, lambda text: "LICENSE" not in text, lambda text: "sites" not in text]
)
def test_verify_knows_what_sha256sums_should_name(folder, keep):
    sums = folder / files.SUMS
    sums.write_text("".join(text for text in sums.read_text().splitlines(True) if keep(text)))
    assert any(f"is not named in {files.SUMS}" in text for text in verify.verify(folder, 1))


@pytest.mark.parametrize("content", [b"\xff", b"a\nb,c\n", b"\0", b'kind\n"'])
def test_a_damaged_table_of_repeats_is_a_difference(folder, content):
    (folder / "repeats.csv").write_bytes(content)
    builders_tools.sign(folder)
    assert verify.verify(folder, 1) == ["repeats.csv is not what the records give"]


def test_a_control_character_of_a_table_is_not_a_line_of_a_message(folder):
    with (folder / "sites.csv").open("a") as file:
        file.write("a,\x1cb\n")
    builders_tools.sign(folder)
    assert "sites.csv cannot be read" in line(read_dataset, folder)


def test_no_bit_of_what_was_seen_changes_unnoticed():
    columns = {"site_id": ["A_1_B02_1"] * 3, "pixels": [1, 2, 3], "labels": ["erm", None, "mae"]}
    columns |= {"images": [True, False, True], "controls": [False] * 3}
    whole = seen.Seen(pa.table(columns, seen.FORM), ("other.pt",))
    content, noticed = whole.to_bytes(), 0
    for i in np.random.default_rng(0).permutation(len(content))[:300].tolist():
        try:
            assert seen.from_bytes(content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :]) == whole
        except (OSError, ValueError, LookupError, pa.ArrowException):
            noticed += 1
    assert noticed > 100


def test_a_file_of_an_earlier_version_has_no_sum():
    table = pa.table({name: [] for name in seen.FORM.names}, seen.FORM).replace_schema_metadata({seen.UNKNOWN: b"a.pt"})
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    assert seen.from_bytes(sink.getvalue().to_pybytes()).unknown == ("a.pt",)


@pytest.mark.parametrize("value", ["1e999", "1" * 400, "[" * 5000, "NaN", "-1"])
def test_an_absurd_number_in_an_exported_config_is_one_line(tmp_path, value):
    sizes = {"width": 8, "depth": 1, "mlp": 8, "heads": 1, "patch": 8}
    text = json.dumps({"encoder": sizes, "channels": 6, "crop": 16, "normalisation": "image"})
    (tmp_path / "config.json").write_text(text.replace('"crop": 16', f'"crop": {value}'))
    from safetensors.numpy import save_file

    save_file({"encoder/embed/bias": np.zeros(8, np.float32)}, tmp_path / "model.safetensors")
    assert "config.json" in line(weights.load, tmp_path)


def test_blocks_of_other_tensors_are_named():
    with pytest.raises(UserError, match="a.pt: block 1 has other tensors, or of other shapes, than block 0"):
        layout.stack("a.pt", [{"kernel": np.zeros(2)}, {"kernel": np.zeros(2), "bias": np.zeros(2)}])
    with pytest.raises(UserError, match="block 2 has other"):
        layout.stack("a.pt", [{"kernel": np.zeros(2)}, {"kernel": np.zeros(2)}, {"kernel": np.zeros(3)}])


def test_embeddings_of_which_rows_are_gone_are_damaged(tmp_path, monkeypatch):
    """A footer that lost a row group and still says how many rows there are."""
    values = np.zeros((3, 2), np.float32)
    embeddings.write(tmp_path / embeddings.NAME, {"site_id": np.array(["a", "b", "c"], object)}, values)
    content = (tmp_path / embeddings.NAME).read_bytes()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
    at = content.rindex(footer) + footer.index(bytes([0x16, 6]))  # thrift: an i64 field that is 3
    (tmp_path / embeddings.NAME).write_bytes(content[: at + 1] + bytes([8]) + content[at + 2 :])
    assert "is damaged (its parts have not as many rows as the whole)" in line(embeddings.read, tmp_path)
