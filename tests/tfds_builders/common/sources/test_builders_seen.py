"""Links out of a source, and what stands in place of its images: followed where asked, named where not."""

import os
import pathlib

import pytest
from builders_tools import SCREEN, build, digests, read_csv, set_aside

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import layouts
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare, verify
from tfds_builders.common import sources
from tfds_builders.common.sources import seen


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("seen") / "tree"
    root.mkdir()
    simulate.write_published(SCREEN, root)
    return root


@pytest.fixture(scope="module")
def expected(tree, tmp_path_factory):
    return digests(build(tree, tmp_path_factory.mktemp("expected")))


def linked(tree, root, level):
    """A tree of links to another one, as a hub's cache (files), or an experiment on a second disk (folders)."""
    root.mkdir()
    for path in [*tree.glob("*.csv"), *(tree / "images").glob("/".join("*" * level))]:
        target = root / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return root


@pytest.mark.parametrize("level", [1, 2, 3])
def test_links_out_are_followed_where_asked_and_named_where_not(tree, expected, tmp_path, level):
    root = linked(tree, tmp_path / "links", level)
    with pytest.raises(UserError, match=r"; images/SIMA-01\S* is a link out of .* --follow-links reads$"):
        build(root, tmp_path / "refused")
    folder = prepare.prepare("rxrx1", root, tmp_path / "out", 1, progress=False, follow_links=True)
    assert digests(folder) == expected and set_aside(folder) == []


@pytest.mark.parametrize("kind, write", [
    (sources.Parquet, layouts.write_rxrx3_core), (sources.Tars, layouts.write_rxrx3),
])  # fmt: skip
def test_files_of_many_images_are_followed_too(tmp_path, kind, write):
    write(layouts.Screen(image_size=32, treatments=2, plates=1, train=("SIMA-01",), val=(), test=()), tmp_path / "tree")
    for path in [*(tmp_path / "tree").rglob("*.tar"), *(tmp_path / "tree").rglob("*.parquet")]:
        target = tmp_path / "links" / path.relative_to(tmp_path / "tree")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    (tmp_path / "links/round").symlink_to(tmp_path / "links")
    try:
        assert kind(tmp_path / "links").size() is None
    except UserError as error:
        assert "which --follow-links reads" in str(error)
    assert kind(tmp_path / "links", True).plates() == kind(tmp_path / "tree").plates() != []
    assert kind(tmp_path / "links", True).size() == (32, 32)


NEARLY = {
    "B02_s1.png": "one file for all channels of a site", "B02_s1_w1.jpg": "a copy in another format",
    "Plate8 (1).tar": "a further download or copy: rename it to PlateN.tar", "Plate8.tar.gz": "compressed: unpack it",
    "images.zip": "an archive that is not unpacked",
}  # fmt: skip


@pytest.mark.parametrize("name", NEARLY)
def test_the_last_line_names_what_was_seen(tree, tmp_path, name):
    place = tmp_path / "source/images/SIMA-01/Plate1"
    place.mkdir(parents=True)
    (tmp_path / "source/metadata.csv").write_bytes((tree / "metadata.csv").read_bytes())
    (place / name).write_bytes(b"")
    cause = f"; images/SIMA-01/Plate1/{name} is {NEARLY[name]}"
    with pytest.raises(UserError) as error:
        build(tmp_path / "source", tmp_path / "out")
    assert cause in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError) as error:
        sources.choose(tmp_path / "source", sources.Tars, sources.WebDataset)
    assert str(error.value).count(cause) == 1
    with sources.Folders(tmp_path / "source").open("SIMA-01", 1) as files:
        assert files.others == [f"images/SIMA-01/Plate1/{name} ({seen.nearly(name)})"]


def test_what_cannot_be_written_is_refused_before_the_first_site(tree, expected, tmp_path):
    no_text = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    for source, out in ((no_text, tmp_path / "out"), (tree, no_text)):
        with pytest.raises(UserError, match=r"\\udcff\S*: a name that is not UTF-8, which no table can hold"):
            build(source, out)
        assert not list(tmp_path.rglob("*.building"))
    copy = linked(tree, tmp_path / "copy", 3)
    for name in (b"no\xff", "é".encode() * 120):  # experiments that no row names: one has no text, one fills its name
        place = copy / "images" / os.fsdecode(name) / "Plate1"
        place.mkdir(parents=True)
        (place / "B02_s1_w1.png").write_bytes(b"")
    folder = prepare.prepare("rxrx1", copy, tmp_path / "out", 1, progress=False, follow_links=True)
    assert [row["file"] for row in read_csv(folder / "unlisted.csv")] == [
        "images/no\\udcff (a name that is not UTF-8)", f"images/{'é' * 120}/Plate1/B02_s1_w1.png"
    ]  # fmt: skip
    unlisted = "unlisted.csv"
    assert {**digests(folder), unlisted: ""} == {**expected, unlisted: ""} and verify.verify(folder, 1) == []


def test_names_of_images_are_not_nearly_images():
    for name in ("B02_s1_w1.png", "a/Plate1/AA02_s1_w6.png", "Plate8.tar", "Plate12.tar", "A01_s1_1.jp2", "x.csv"):
        assert seen.nearly(name) == ""
    assert seen.cause(pathlib.Path(os.devnull)) == ""
