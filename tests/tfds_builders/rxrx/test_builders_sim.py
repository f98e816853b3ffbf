"""The simulated screen's builder, and what the base does for builders that read in processes."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from builders_tools import SCREEN, SCREEN_FIELDS, VERSION, build, digests, flat, read_csv, same
from paths import ROOT

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare


def prepare_sim(out, workers=1, **fields):
    return prepare.prepare("rxrx_sim", None, out, workers, progress=False, **{**SCREEN_FIELDS, **fields})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return prepare_sim(tmp_path_factory.mktemp("sim"))


def test_records_are_the_rendered_sites(built):
    found = flat(built)
    rows = simulate.sites(SCREEN)
    assert len(found) == len(rows) == 64
    for row in rows:
        record = found[row["site_id"]]
        assert np.array_equal(record["image"], simulate.render_site(SCREEN, row))
        assert all(record[key] == row[key] for key in record if key != "image")
    assert [row["site_id"] for row in read_csv(built / "sites.csv")] == [
        row["site_id"] for split in prepare.split_sizes(built) for row in rows if row["split"] == split
    ]
    assert prepare.details(built)["classes"] == SCREEN.classes == 6


def test_processes_do_not_change_a_byte(built, tmp_path):
    assert digests(prepare_sim(tmp_path, workers=2)) == digests(built)


def test_the_same_screen_as_files_gives_the_same_records(built, tmp_path):
    simulate.write_published(SCREEN, tmp_path / "tree")
    folder = build(tmp_path / "tree", tmp_path)
    expected = flat(built)
    assert all(same(record, expected[key]) for key, record in flat(folder).items())
    for name in ("sites.csv", "perturbations.csv", "statistics.json", "set_aside.csv"):
        assert (folder / name).read_text() == (built / name).read_text()


def test_find_names_the_folder_without_making_it(tmp_path):
    assert prepare.find("rxrx_sim", tmp_path) == tmp_path / "rxrx_sim/default" / VERSION
    assert prepare.find("rxrx_sim", tmp_path, seed=1, layout="reshuffled").parent.name == "layout_reshuffled-seed_1"
    assert prepare.find("rxrx1", tmp_path) == tmp_path / "rxrx1/default/2.0.0"
    assert not list(tmp_path.iterdir())


def test_a_prepared_folder_is_left_as_it_is(built):
    before = {path.name: path.stat().st_mtime_ns for path in built.iterdir()}
    assert prepare_sim(built.parents[2]) == built
    assert {path.name: path.stat().st_mtime_ns for path in built.iterdir()} == before


def test_a_folder_of_other_settings_is_refused(tmp_path):
    folder = prepare_sim(tmp_path)
    folder.parent.rename(tmp_path / "rxrx_sim/default")
    with pytest.raises(UserError, match="was prepared with other settings"):
        prepare.prepare("rxrx_sim", out=tmp_path)
    (tmp_path / "rxrx_sim/default" / VERSION / "metadata.json").unlink()
    with pytest.raises(UserError, match="is not a folder that tfds_builders.prepare made"):
        prepare.prepare("rxrx_sim", out=tmp_path)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("rxrx_sim", {"colour": 1}, ["rxrx_sim has no setting 'colour'", "seed", "layout", "treatments"]),
        ("rxrx_sim", {"layout": "round"}, ["rxrx_sim: layout='round'"]),
        ("rxrx_sim", {"source": "/somewhere"}, ["rxrx_sim is simulated", "/somewhere"]),
        ("rxrx9", {}, ["'rxrx9'", "rxrx1,"]),
        ("rxrx1", {}, ["rxrx1-images.zip", "--source=DIR"]),
        ("rxrx1", {"image_size": 0}, ["rxrx1: image_size=0"]),
        ("rxrx_sim", {"workers": 0}, ["workers=0"]),
    ],
)
def test_mistakes_are_one_line(tmp_path, name, arguments, words):
    with pytest.raises(UserError) as error:
        prepare.prepare(name, out=tmp_path, progress=False, **arguments)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("dataset_info.json"))


def test_an_unexpected_error_is_not_a_site_set_aside(tmp_path, monkeypatch):
    def broken(screen, row):
        raise ZeroDivisionError(row["site_id"])

    monkeypatch.setattr(simulate, "render_site", broken)
    with pytest.raises(ZeroDivisionError):
        prepare_sim(tmp_path)
    assert not list(tmp_path.rglob(VERSION))


def test_simulated_images_have_no_files_to_keep(tmp_path):
    with pytest.raises(UserError, match="encoding=source keeps image files"):
        prepare_sim(tmp_path, encoding="source")


def test_two_processes_may_prepare_the_same_folder(tmp_path):
    code = f"from test_builders_sim import prepare_sim; print(prepare_sim({str(tmp_path)!r}))"
    folders = pathlib.Path(__file__).parent, ROOT / "tests" / "tools", ROOT / "tests" / "tools" / "builders"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *folders)))},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    folders = {child.communicate(timeout=100)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0] and len(folders) == 1
    folder = prepare_sim(tmp_path)
    assert len(flat(folder)) == 64 and [path.name for path in folder.parent.iterdir()] == [VERSION]


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    """Workers import the script that started them; it must not wait there for its own parent."""
    (tmp_path / "script.py").write_text(
        "from tfds_builders.prepare import prepare\n"
        f"prepare('rxrx_sim', out={str(tmp_path / 'out')!r}, workers=2, image_size=32)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "must do so under `if __name__ == '__main__':`" in done.stderr and "a worker died" in done.stderr
