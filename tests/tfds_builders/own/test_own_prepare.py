"""Plates of a user's own, from files to records: two screens that were written without the reader."""

import contextlib
import gzip
import io
import json
import shutil

import numpy as np
import plates_tools
import pytest
import tifffile
from array_record.python.array_record_module import ArrayRecordReader
from builders_tools import SCREEN_FIELDS, build, digests, flat, read_csv, same, set_aside, write_csv
from PIL import Image

from rxrx_jax.data.records import image_bytes
from rxrx_jax.simulate import export
from rxrx_jax.simulate.screen import Screen
from tfds_builders import prepare, verify
from tfds_builders.common import finish
from tfds_builders.own import depth

JUMP, COMPOUNDS = plates_tools.JUMP, plates_tools.COMPOUNDS


def run(options, out, *more):
    """Runs the command; returns the folder and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        prepare.main(["images", *options, f"--out={out}", "--workers=1", *more])
    name = next(option[7:] for option in options if option.startswith("--name="))
    (folder,) = (out / name).glob("*/[0-9]*")  # a version, not TFDS's .config
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def jump(tmp_path_factory):
    root = tmp_path_factory.mktemp("jump")
    options = plates_tools.jump(root)
    return root, options, *run(options, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    root = tmp_path_factory.mktemp("nine")
    options = plates_tools.nine(root)
    return root, options, *run(options, tmp_path_factory.mktemp("out"))


def mapped(values, low, high):
    """16 bits to 8, in floats: no value of this range is nearer to a half than they can tell."""
    return np.floor(255 * (np.clip(values.astype(float), low, high) - low) / (high - low) + 0.5)


def about(folder):
    return json.loads((folder / "metadata.json").read_text())


def test_a_jump_screen_becomes_what_is_in_its_files(jump):
    """Every pixel is the file's, mapped by the recorded range of its channel; columns were found by themselves."""
    _, _, folder, said = jump
    facts, found = about(folder), flat(folder)
    names = [row["perturbation"] for row in read_csv(folder / "perturbations.csv")]
    assert verify.verify(folder, 1) == [] and "set aside  0" in said
    expected = {}
    for batch, plates in JUMP.items():
        for plate in plates:
            for i, (well, compound) in enumerate(COMPOUNDS.items()):
                for site in (1, 2):
                    expected[f"{batch}_{plate}_{well}_{site}"] = batch, plate, well, site, compound or "EMPTY", i
    assert found.keys() == expected.keys() and len(found) == 24
    assert facts["channels"] == ["DNA", "ER", "RNA", "AGP", "Mito"] and list(plates_tools.CHANNELS) == [5, 4, 3, 2, 1]
    for site_id, (batch, plate, well, site, compound, i) in expected.items():
        record = found[site_id]
        assert [record[key] for key in ("experiment", "plate", "well", "site")] == [batch, plate, well, site]
        assert names[record["perturbation_id"]] == compound
        assert record["split"] == ("test" if "Batch2" in batch else "train")
        assert record["well_type"] == ("negative_control" if compound == "EMPTY" else "treatment")
        for channel, (key, name) in enumerate(plates_tools.CHANNELS.items()):
            values = plates_tools.pixels(plate, well, site, key, width=2 + 1.5 * i)
            low, high = facts["ranges_16_bit"][name]
            assert np.array_equal(record["image"][..., channel], mapped(values, low, high))
    assert facts["channels_left"] == {"6": 24}
    assert [row["file"].rpartition("/")[2] for row in read_csv(folder / "unlisted.csv")] == ["Index.idx.xml"] * 3


def test_the_range_is_of_training_images_and_what_it_clips_is_counted(jump):
    facts = about(jump[2])
    train = {name: [] for name in facts["channels"]}
    clipped = {name: [0, 0] for name in facts["channels"]}
    for batch, plates in JUMP.items():
        for plate in plates:
            for i, well in enumerate(COMPOUNDS):
                for site in (1, 2):
                    for key, name in plates_tools.CHANNELS.items():
                        values = plates_tools.pixels(plate, well, site, key, width=2 + 1.5 * i)
                        low, high = facts["ranges_16_bit"][name]
                        clipped[name][0] += int((values < low).sum())
                        clipped[name][1] += int((values > high).sum())
                        if "Batch1" in batch:
                            train[name].append(values)
    for name, values in train.items():
        expected = np.percentile(np.stack(values), depth.PERCENTILES, method="inverted_cdf")
        assert facts["ranges_16_bit"][name] == expected.tolist()
        assert [facts["pixels_below_range"][name], facts["pixels_above_range"][name]] == clipped[name]
        assert min(clipped[name]) > 0


def test_licence_and_citation_are_the_users(jump):
    folder = jump[2]
    info = (folder / "dataset_info.json").read_text()
    assert json.loads(info)["redistributionInfo"]["license"] == "CC0 1.0" and "Us (2026)" in info
    for path in (folder / "dataset_info.json", folder / "metadata.json", folder / "report.html"):
        assert "CC0 1.0" in path.read_text()
        assert "Recursion" not in path.read_text() and "rxrx.ai" not in path.read_text()
    assert prepare.builder_class("my_plates", folder.parents[2]).about["license"] == "CC0 1.0"


def test_what_is_built_does_not_depend_on_a_stop(jump, tmp_path, monkeypatch):
    _, options, folder, _ = jump
    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(finish, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(options, again)
    other, said = run(options, again)
    assert "resuming: 3 plates are done" in said and digests(other) == digests(folder)
    assert about(other) == about(folder)


def test_a_part_is_built_with_the_labels_and_ranges_of_the_whole(jump, tmp_path):
    _, options, folder, _ = jump
    part, _ = run(options, tmp_path, "--plates=BR00117007")
    whole, few = flat(folder), flat(part)
    assert part.parent.name == "plates_BR00117007" and len(few) == 8
    assert all(np.array_equal(record["image"], whole[name]["image"]) for name, record in few.items())
    assert all(record["perturbation_id"] == whole[name]["perturbation_id"] for name, record in few.items())
    assert about(part)["ranges_16_bit"] == about(folder)["ranges_16_bit"]


def test_another_screen_needs_no_other_code(nine):
    """Nine channels in folders, TIFF of 16 bits, PNG and JPEG of 8, sites 0 and 3, rectangular images."""
    root, _, folder, _ = nine
    found, facts = flat(folder), about(folder)
    assert verify.verify(folder, 1) == [] and facts["image_shape"] == [40, 56, 9]
    assert sorted(set_aside(folder)) == [
        ("exp-01_Set_2_A02_0", "missing c9"),
        ("exp-01_Set_2_C03_3", "no image files"),
        ("exp-1_Set_1_A01_3", "missing c4"),
        ("exp-1_Set_1_C03_3", "no image files"),
        ("exp-2_Set_3_C03_3", "no image files"),
    ]
    assert len(found) == 22
    for record in found.values():
        well = "a2" if record["well"] == "A02" else record["well"].replace("A01", "A1")
        stem = f"{well}-{record['plate']}-{record['experiment']}@{record['site']:02d}.img"
        for channel, name in enumerate(plates_tools.NINE):
            path = root / name / "raw" / stem
            if channel % 3:
                with Image.open(path) as image:
                    assert np.array_equal(record["image"][..., channel], np.asarray(image))
            else:
                low, high = facts["ranges_16_bit"][name]
                assert np.array_equal(record["image"][..., channel], mapped(tifffile.imread(path), low, high))
    assert facts["images_8_bit"] == {name: 22 * (i % 3 > 0) for i, name in enumerate(plates_tools.NINE)}
    assert facts["images_16_bit"] == {name: 22 * (i % 3 == 0) for i, name in enumerate(plates_tools.NINE)}


def test_names_stay_as_they_are_and_missing_labels_are_none(nine):
    """exp-1 and exp-01 are two experiments; NaN is not a class, and 'none' is the control that it is said to be."""
    rows = read_csv(nine[2] / "sites.csv")
    splits = {row["experiment"]: row["split"] for row in rows}
    assert splits == {"exp-1": "train", "exp-01": "val", "exp-2": "test"}
    labels = {(row["well"], row["perturbation"], row["perturbation_id"], row["well_type"]) for row in rows}
    assert labels == {
        ("A01", "TP53", "1", "treatment"),
        ("A02", "KRAS", "0", "treatment"),
        ("B01", "", "-1", "treatment"),
        ("H12", "EMPTY", "2", "negative_control"),
    }
    assert "6 sites have no label (perturbation_id -1): what is 'NaN' 6." in about(nine[2])["notes"]


def test_the_same_pixels_in_the_layout_of_rxrx1_are_the_same_bytes(tmp_path):
    """Some channels as TIFF of 16 bits whose given range is 0 to 255, some as OME-TIFF of 8, some as PNG."""
    few = {"plates": 1, "train": ("SIMA-01",), "val": (), "test": ("SIMB-02",)}
    export.write_published(Screen(**{**SCREEN_FIELDS, **few}), tmp_path / "rxrx1")
    published = build(tmp_path / "rxrx1", tmp_path / "out")
    own = tmp_path / "own"
    own.mkdir()
    for path in (tmp_path / "rxrx1" / "images").rglob("*.png"):
        experiment, plate = path.parts[-3:-1]
        with Image.open(path) as image:
            image = np.asarray(image)
        name, channel = path.stem[:-1], int(path.stem[-1])
        stem = own / f"{experiment}={plate[5:]}={name}"
        if channel < 3:
            tifffile.imwrite(f"{stem}{channel}.x", image.astype(np.uint16), compression="zlib")
        elif channel < 5:
            tifffile.imwrite(f"{stem}{channel}.x", image, ome=True)
        else:
            shutil.copy(path, f"{stem}{channel}.x")
    rows = [
        {"batch": row["experiment"], "plate": row["plate"], "well": row["well"], "field": row["site"]}
        for row in read_csv(tmp_path / "rxrx1" / "metadata.csv")
    ]
    write_csv(own / "t.csv", rows)
    pattern = "--pattern={experiment}={plate}={well}_s{site}_w{channel}.x"
    options = [f"--source={own}", "--metadata=t.csv", "--name=own", pattern, "--channels=1,2,3,4,5,6"]
    folder, _ = run([*options, "--range=0-255"], tmp_path / "out")
    assert image_records(folder) == image_records(published) and len(image_records(folder)) == 24
    assert sum(about(folder)["pixels_above_range"].values()) == 0


def image_records(folder):
    """The bytes of the image of every record, by site."""
    found = {}
    for row in read_csv(folder / "manifest.csv"):
        (path,) = folder.glob(f"*-{row['split']}.array_record-00000-of-*") if row["index"] == "0" else [None]
        if path:
            records = [image_bytes(record) for path in sorted(folder.glob(f"*-{row['split']}.array_record-*"))
                       for record in ArrayRecordReader(str(path)).read_all()]  # fmt: skip
        found[row["site_id"]] = bytes(records[int(row["index"])])
    return found


def test_a_stack_of_channels_per_file(tmp_path):
    """One OME-TIFF a site with four channels, of which two are read, in another order."""
    stack = np.stack([plates_tools.pixels(i) for i in range(4)])
    for well in ("A1", "A2"):
        tifffile.imwrite(tmp_path / f"p_{well}.ome.tif", stack, ome=True, metadata={"axes": "CYX"})
    write_csv(tmp_path / "t.csv", [{"batch": "b", "plate": "p", "row": "1", "col": str(i)} for i in (1, 2)])
    options = [f"--source={tmp_path}", "--metadata=t.csv", "--name=stacks", "--pattern={plate}_{well}.ome.tif"]
    folder, said = run([*options, "--channels=3:a,1:b", "--range=0-4095"], tmp_path / "out")
    records = flat(folder).values()
    for channel, plane in enumerate((stack[2], stack[0])):
        assert all(np.array_equal(record["image"][..., channel], mapped(plane, 0, 4095)) for record in records)
    assert about(folder)["planes_left"] == 4 and "4 planes of the stacks are not named" in said


def test_a_gzipped_table_gives_the_same_records(jump, tmp_path):
    root, options, folder, _ = jump
    (root / "profiles.csv.gz").write_bytes(gzip.compress((root / "profiles.csv").read_bytes()))
    changed = [option.replace("profiles.csv", "profiles.csv.gz") for option in options]
    other, _ = run(changed, tmp_path, "--plates=BR00117007")
    (root / "profiles.csv.gz").unlink()
    whole, few = flat(folder), flat(other)
    assert len(few) == 8 and all(same(record, whole[name]) for name, record in few.items())
