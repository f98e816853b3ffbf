"""Images and channels that occur twice, and constant ones: counted and named in the build, the report and verify."""

import shutil

import numpy as np
import pytest
from builders_tools import SCREEN, VERSION, build, read_csv, sign, write_csv
from PIL import Image

from rxrx_jax.base import command
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare, verify
from tfds_builders.common import repeats

SITES = [row for row in simulate.sites(SCREEN) if row["plate"] == 1]
FIRST = {split: [row for row in SITES if row["split"] == split] for split in ("train", "id_test", "val")}


def image_file(root, row, channel):
    return root / f"images/{row['experiment']}/Plate{row['plate']}/{row['well']}_s{row['site']}_w{channel}.png"


def copy(root, row, other, channels=range(1, 7), to=0):
    for channel in channels:
        shutil.copy(image_file(root, other, channel), image_file(root, row, to or channel))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One image in two wells, one in two splits, a channel twice in a site, one in two sites, a constant one."""
    root = tmp_path_factory.mktemp("repeats")
    simulate.write_published(SCREEN, root)
    train, val = FIRST["train"], FIRST["val"]
    copy(root, train[1], train[0])
    copy(root, val[0], train[0])
    copy(root, train[2], train[2], channels=[1], to=4)
    copy(root, train[3], val[1], channels=[5])
    for channel in (2, 3):  # of one value, not of another
        Image.fromarray(np.full((32, 32), channel, np.uint8)).save(image_file(root, val[2], channel))
    return build(root, root / "out")


def test_each_is_named_once(made):
    train, val = FIRST["train"], FIRST["val"]
    name = lambda row: (row["site_id"], row["split"])  # noqa: E731
    found = [tuple(row.values()) for row in read_csv(made / repeats.NAME)]
    assert found == [
        ("equal image", *name(train[1]), "", *name(train[0]), ""),
        ("equal image", *name(val[0]), "", *name(train[0]), ""),
        ("equal channel", *name(train[2]), "w4", *name(train[2]), "w1"),
        ("equal channel", *name(val[1]), "w5", *name(train[3]), "w5"),
        ("constant channel", *name(val[2]), "w2", "", "", ""),
        ("constant channel", *name(val[2]), "w3", "", "", ""),
    ]


def test_the_build_the_report_and_verify_say_so(made, capsys):
    notes = prepare.details(made)["notes"]
    assert notes[0].startswith("WARNING: 1 images and 1 channels in one split equal another in a different split")
    assert FIRST["train"][0]["site_id"] in notes[0] and FIRST["val"][0]["site_id"] in notes[0]
    assert notes[1].startswith("2 images equal that of another record, such as ")
    assert notes[2].startswith("2 channels equal another channel") and notes[3].startswith("2 channels have one value")
    assert f"{FIRST['val'][2]['site_id']} w2 endoplasmic reticulum (val)" in notes[3]
    assert "WARNING: 1 images and 1 channels" in (made / "report.html").read_text()
    assert command.run(verify.main, [str(made), "--workers=1"]) == 0
    printed = capsys.readouterr().out
    assert all(f"note: {note}" in printed for note in notes[:4])
    assert verify.examine(made, 2, False)[1] == notes[:4]


def test_a_changed_list_is_noticed(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / VERSION)
    write_csv(folder / repeats.NAME, read_csv(folder / repeats.NAME)[1:])
    sign(folder)
    assert verify.verify(folder, 1) == ["repeats.csv is not what the records give"]
    (folder / repeats.NAME).unlink()
    sign(folder)
    assert verify.verify(folder, 1) == []  # of an earlier version


def test_nothing_is_said_where_nothing_repeats(tmp_path):
    digests = repeats.Digests(2)
    random = np.random.default_rng(0)
    for _ in range(9):
        digests.add("train", [int(value) | repeats.VARIED for value in random.integers(2**62, size=2)])
    assert digests.repeats(tmp_path / "none") == [] and list(repeats.notes([])) == []
    assert repeats.Digests(6).repeats(tmp_path / "none") == []
