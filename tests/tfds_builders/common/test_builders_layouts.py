"""All six published layouts from end to end: the pixels and rows that went in come out, and nothing damaged does."""

import functools
import io
import os
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from builders_tools import flat, read_csv, set_aside
from PIL import Image

from rxrx_jax.simulate import layouts
from rxrx_jax.simulate.design import Screen, sites
from rxrx_jax.simulate.render import render_site
from tfds_builders import prepare, verify
from tfds_builders.common import plates

SCREEN = Screen(
    treatments=4, replicates=2, positive_controls=1, positive_wells=1, untreated_wells=2, image_size=32, plates=2,
    train=("SIMA-01",), val=("SIMB-01",), test=("SIMA-02",),
)  # fmt: skip
SIX, FIVE = list(range(6)), [0, 1, 2, 3, 5]
LAYOUTS = {  # writer, dataset, sites per well, channels
    "rxrx2": (layouts.write_rxrx2, "rxrx2", 2, SIX),
    "rxrx19a": (layouts.write_rxrx19a, "rxrx19a", 2, FIVE),
    "rxrx19b": (layouts.write_rxrx19b, "rxrx19b", 1, SIX),
    "rxrx3": (layouts.write_rxrx3, "rxrx3", 1, SIX),
    "rxrx3_core": (layouts.write_rxrx3_core, "rxrx3_core", 1, SIX),
    "rxrx3_core webdataset": (functools.partial(layouts.write_rxrx3_core, form="webdataset"), "rxrx3_core", 1, SIX),
}


@pytest.fixture(scope="module", autouse=True)
def rendered():
    """site_id of the simulator -> its pixels; every site is rendered once for all tests."""
    found = {row["site_id"]: render_site(SCREEN, row) for row in sites(SCREEN)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "render_site", lambda screen, row: found[row["site_id"]])
        yield found


def expected(layout: str, rendered) -> dict[str, np.ndarray]:
    """Returns the pixels [H, W, C] of every site of a layout by its site_id."""
    _, _, per_well, channels = LAYOUTS[layout]
    return {
        f"{row['experiment']}_{row['plate']}_{layouts.address(row['well'])}_{row['site']}": pixels[..., channels]
        for row, pixels in ((row, rendered[row["site_id"]]) for row in sites(SCREEN))
        if row["site"] <= per_well
    }


def build(tree, out, layout, **more):
    return prepare.prepare(LAYOUTS[layout][1], tree, out, 1, progress=False, **more)


def same_pixels(records, pixels):
    return records.keys() == pixels.keys() and all(
        np.array_equal(record["image"], pixels[site_id]) for site_id, record in records.items()
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_pixels_and_rows_in_and_out(tmp_path, layout, rendered):
    write, dataset, per_well, channels = LAYOUTS[layout]
    write(SCREEN, tmp_path / "tree")
    folder = build(tmp_path / "tree", tmp_path, layout)
    records, pixels = flat(folder), expected(layout, rendered)
    assert len(records) == 2 * 2 * per_well * len({r["well_id"] for r in sites(SCREEN)}) // 4
    assert same_pixels(records, pixels)
    assert set_aside(folder) == [] and read_csv(folder / "unlisted.csv") == []
    assert verify.verify(folder, 1) == []
    splits = {"SIMA-01": "train", "SIMB-01": "val", "SIMA-02": "test"}
    published = {row["well_id"]: row for row in read_csv(next((tmp_path / "tree").glob("metadata*.csv")))}
    for row, original in zip(read_csv(folder / "sites.csv"), read_csv(folder / "original.csv"), strict=True):
        assert row["split"] == splits[row["experiment"]]
        assert {**original}.items() >= published[row["well_id"]].items() or per_well > 1
        record = records[row["site_id"]]
        for key, value in record.items():
            if key == "concentration_um" or key == "concentration_mg_ml":
                written = original.get("treatment_conc", original.get("concentration"))
                assert (np.isnan(value) and written == "") or float(written) == pytest.approx(value)
            elif key not in ("image", "split"):
                assert str(value) == row[key]
    classes = [row["perturbation"] for row in read_csv(folder / "perturbations.csv")]
    assert len(set(classes)) == len(classes) == prepare.details(folder)["classes"]
    assert {row["perturbation"]: row["perturbation_id"] for row in read_csv(folder / "sites.csv")} == {
        name: str(i) for i, name in enumerate(classes)
    }
    assert (folder / "LICENSE").read_text()


def test_16_bits_can_be_kept(tmp_path, rendered):
    layouts.write_rxrx3(SCREEN, tmp_path / "tree")
    pixels = {key: layouts.sixteen_bits(value) for key, value in expected("rxrx3", rendered).items()}
    for encoding in ("delta", "zstd", "source"):
        folder = build(tmp_path / "tree", tmp_path, "rxrx3", bits=16, encoding=encoding)
        records = flat(folder)
        assert same_pixels(records, pixels)
        assert {record["image"].dtype for record in records.values()} == {np.dtype(np.uint16)}
        assert verify.verify(folder, 1) == []


def test_core_keeps_the_published_files(tmp_path, rendered):
    """Its default is the JPEG 2000 files as they are; another encoding holds the same pixels."""
    layouts.write_rxrx3_core(SCREEN, tmp_path / "tree")
    folder = build(tmp_path / "tree", tmp_path, "rxrx3_core")
    assert prepare.details(folder)["settings"]["encoding"] == "source"
    other = build(tmp_path / "tree", tmp_path, "rxrx3_core", encoding="delta")
    assert other != folder
    assert same_pixels(flat(other), expected("rxrx3_core", rendered))


def test_a_part_has_the_records_of_the_whole(tmp_path, rendered):
    layouts.write_rxrx2(SCREEN, tmp_path / "tree")
    whole = flat(build(tmp_path / "tree", tmp_path, "rxrx2"))
    for choice in (
        {"experiments": "SIMA-01,SIMB-01"},
        {"plates": 2},
        {"cell_types": "SIMA", "plates": (1, 2)},
        {"experiments": ("SIMA-02",), "plates": (1,)},
    ):
        folder = build(tmp_path / "tree", tmp_path, "rxrx2", **choice)
        part = flat(folder)
        assert folder.parent.name != "default" and 0 < len(part) < len(whole)
        assert read_csv(folder / "unlisted.csv") == [] and set_aside(folder) == []
        for key, record in part.items():
            assert np.array_equal(record.pop("image"), whole[key]["image"])
            assert record == {k: v for k, v in whole[key].items() if k != "image"} or np.isnan(
                record["concentration_mg_ml"]
            )  # the labels too: they do not depend on the choice
    with pytest.raises(prepare.UserError, match="experiments=SIMA-09: the source has no such experiment; it has"):
        build(tmp_path / "tree", tmp_path, "rxrx2", experiments="SIMA-09")


def test_one_plate_is_read_without_the_others(tmp_path, rendered, monkeypatch):
    monkeypatch.setattr(plates, "SHARD_BYTES", 3 * 32 * 32 * 6)
    layouts.write_rxrx2(SCREEN, tmp_path / "tree")
    folder = build(tmp_path / "tree", tmp_path, "rxrx2")
    info = tfds.builder_from_directory(folder).info
    rows = [row for row in read_csv(folder / "sites.csv") if row["split"] == "train"]
    names = [(row["experiment"], row["plate"]) for row in rows]
    start, held = 0, []
    for length in info.splits["train"].shard_lengths:
        assert len(set(names[start : start + length])) == 1  # a shard never holds two plates
        held.append(names[start])
        start += length
    for path, plate in zip(sorted(folder.glob("*-train.*")), held, strict=True):
        if plate != ("SIMA-01", "2"):
            path.unlink()
    source = tfds.builder_from_directory(folder).as_data_source("train")
    pixels = expected("rxrx2", rendered)
    for i, row in enumerate(rows):
        if row["plate"] == "2":
            assert np.array_equal(source[i]["image"], pixels[row["site_id"]])


def png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


GREY = np.full((32, 32), 7, np.uint8)


def test_faults_in_folders_are_set_aside(tmp_path, rendered):
    """One fault per well, of every kind: each is named, and the other sites come out unharmed."""
    layouts.write_rxrx19b(SCREEN, tmp_path / "tree")
    plate = tmp_path / "tree/images/SIMA-01/Plate1"
    wells = iter(sorted({path.name.split("_")[0] for path in plate.iterdir()}))
    reasons = {}

    def fault(reason):
        well = next(wells)
        reasons[f"SIMA-01_1_{well}_1"] = reason
        return lambda channel: plate / f"{well}_s1_w{channel}.png"

    file = fault("w2: truncated PNG")(2)
    file.write_bytes(file.read_bytes()[:-20])
    fault("w3: empty file")(3).write_bytes(b"")
    fault("missing w6")(6).unlink()
    fault("unexpected w7")(7).write_bytes(png(GREY))
    fault("w1: 16-bit grey in place of 8-bit grey")(1).write_bytes(png(GREY.astype(np.uint16)))
    file = fault("w4: a link out of the source folder, which --follow-links reads")(4)
    shutil.move(file, tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", file)
    file = fault("w5: 60000x60000 pixels in place of 32x32")(5)
    data = png(GREY)
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + data[24:29]
    import zlib

    file.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])
    folder = build(tmp_path / "tree", tmp_path, "rxrx19b")
    assert dict(set_aside(folder)) == reasons
    pixels = expected("rxrx19b", rendered)
    assert same_pixels(flat(folder), {key: value for key, value in pixels.items() if key not in reasons})
    assert verify.verify(folder, 1) == []


def test_an_unreadable_folder_sets_its_plate_aside(tmp_path, rendered, monkeypatch):
    layouts.write_rxrx19b(SCREEN, tmp_path / "tree")
    original = os.scandir

    def scandir(path="."):
        if str(path).endswith("SIMA-01/Plate2"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    folder = build(tmp_path / "tree", tmp_path, "rxrx19b")
    bad = set_aside(folder)
    pixels = expected("rxrx19b", rendered)
    assert {site for site, _ in bad} == {key for key in pixels if key.startswith("SIMA-01_2_")}
    assert all("Permission denied" in reason for _, reason in bad)
    assert flat(folder).keys() == pixels.keys() - {site for site, _ in bad}


def rewrite(tar_path, change):
    """Passes every (name, data) of a tar through `change`, which yields members."""
    with tarfile.open(tar_path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar if member.isfile()]
    with tarfile.open(tar_path, "w") as tar:
        for name, data in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_faults_in_tars_are_set_aside(tmp_path, rendered):
    layouts.write_rxrx3(SCREEN, tmp_path / "tree")
    first, second = (tmp_path / f"tree/images/SIMA-01/Plate{plate}.tar" for plate in (1, 2))
    pixels = expected("rxrx3", rendered)

    def change(members):
        (name, data), *rest = members
        yield f"../{name.split('/')[-1]}", data  # out of the archive: refused, so that its site lacks a channel
        yield from rest
        yield rest[6]  # the same member again, equal: fine
        yield rest[12][0], rest[11][1]  # again, and different

    rewrite(first, change)
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    folder = build(tmp_path / "tree", tmp_path, "rxrx3")
    bad = dict(set_aside(folder))
    plate_1 = {site: reason for site, reason in bad.items() if site.startswith("SIMA-01_1_")}
    assert len(plate_1) == 2 and any("missing w" in reason for reason in plate_1.values())
    assert any("two files that differ" in reason for reason in plate_1.values())
    plate_2 = {site: reason for site, reason in bad.items() if site.startswith("SIMA-01_2_")}
    whole_2 = [site for site in flat(folder) if site.startswith("SIMA-01_2_")]
    assert plate_2 and whole_2 and all("cut short" in reason for reason in plate_2.values())
    assert same_pixels(flat(folder), {key: value for key, value in pixels.items() if key not in bad})
    assert any(".." in row["file"] for row in read_csv(folder / "unlisted.csv"))


def test_tables_in_other_spellings_give_the_same_records(tmp_path, rendered):
    """A BOM, Windows line ends and quotes around everything."""
    layouts.write_rxrx3(SCREEN, tmp_path / "tree")
    whole = build(tmp_path / "tree", tmp_path / "whole", "rxrx3")
    table = tmp_path / "tree/metadata.csv"
    rows = read_csv(table)
    lines = [",".join(f'"{value}"' for value in row) for row in [list(rows[0]), *[list(r.values()) for r in rows]]]
    table.unlink()
    (tmp_path / "tree/metadata_rxrx3.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    other = build(tmp_path / "tree", tmp_path / "other", "rxrx3")
    for name in ("sites.csv", "original.csv", "manifest.csv", "perturbations.csv"):
        assert (whole / name).read_text() == (other / name).read_text()


def test_a_table_that_is_not_utf_8_is_one_line(tmp_path):
    layouts.write_rxrx2(SCREEN, tmp_path / "tree")
    table = tmp_path / "tree/metadata.csv"
    table.write_bytes(table.read_bytes() + b"\xff\xfe,,\n")
    with pytest.raises(prepare.UserError, match="metadata.csv.*UTF-8"):
        build(tmp_path / "tree", tmp_path, "rxrx2")
