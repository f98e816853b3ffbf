"""The download command: what it fetches, unpacks, says and leaves to be done by hand."""

import io
import zipfile

import pytest
from download_tools import CONTENT, archive, serve, tree

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from tfds_builders import download, prepare
from tfds_builders.downloads import fetch as fetch_lib

TABLE = b"site_id,well_id\n"


def published(name="rxrx1"):
    """{path on the server: zip} of a tiny dataset."""
    contents = {
        "metadata": {f"{name}/metadata.csv": TABLE},
        "embeddings": {f"{name}/embeddings.csv": b"site_id,feature_0\n"},
        "images": {f"{name}/images/HUVEC-01/Plate1/B02_s1_w1.png": CONTENT},
    }
    files = {}
    for part, members in contents.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for member, content in members.items():
                file.writestr(member, content)
        files["/" + download.OBJECTS[name][part][-1]] = buffer.getvalue()
    return files


@pytest.fixture
def server():
    with serve() as server:
        yield server


@pytest.fixture
def base(server, monkeypatch):
    monkeypatch.setattr(download, "BASE", server.url)
    server.files |= published()
    return server


def run(*arguments):
    return command.run(download.main, [str(argument) for argument in arguments])


def test_the_command(base, tmp_path, capsys):
    assert run("rxrx1", "--to", tmp_path / "to") == 0
    out = capsys.readouterr().out
    about = prepare.builder_class("rxrx1").about
    assert out.index(about["license"]) < out.index(download.BASE) and "title={RxRx1:" in out.splitlines()[2]
    assert f"python -m tfds_builders.prepare rxrx1 --source={tmp_path / 'to'}" in out and "believed" not in out
    found = tree(tmp_path / "to")
    assert found["metadata.csv"] == TABLE and found["images/HUVEC-01/Plate1/B02_s1_w1.png"] == CONTENT
    assert found["embeddings.csv"] == b"site_id,feature_0\n"

    requests = len(base.requests)
    (tmp_path / "to/metadata.csv").write_text("mine")
    assert run("rxrx1", "--to", tmp_path / "to") == 0
    out = capsys.readouterr().out
    assert len(base.requests) == requests  # the archives are there
    assert "metadata: 1 files unpacked, 0 were there" in out and "images: 0 files unpacked, 1 were there" in out
    assert "1 files in" in out and "differed from those in rxrx1-metadata.zip and were replaced" in out

    for path in (tmp_path / "to").glob("*.zip"):
        path.unlink()  # to save room, as may be done
    assert run("rxrx1", "--to", tmp_path / "to") == 0
    assert len(base.requests) == requests and "images: unpacked before" in capsys.readouterr().out


def test_only_some_parts(base, tmp_path, capsys):
    assert run("rxrx1", "--to", tmp_path, "--only=embeddings, metadata") == 0
    out = capsys.readouterr().out
    assert (
        f"tfds_builders.prepare_embeddings rxrx1 --source={tmp_path}" in out
        and "tfds_builders.prepare rxrx1" not in out
    )
    assert [path for path, *_ in base.requests] == ["/rxrx1/rxrx1-metadata.zip", "/rxrx1/rxrx1-dl-embeddings.zip"]
    assert not (tmp_path / "images").exists()


def test_an_archive_that_was_fetched_by_hand(base, tmp_path, capsys):
    (tmp_path / "rxrx1-metadata.zip").write_bytes(base.files["/rxrx1/rxrx1-metadata.zip"])
    assert run("rxrx1", "--to", tmp_path, "--only=metadata") == 0
    assert base.requests == [] and (tmp_path / "metadata.csv").read_bytes() == TABLE


def test_an_archive_under_its_other_spelling(tmp_path, monkeypatch):
    about = {"license": "CC", "homepage": "here", "citation": "@a"}
    monkeypatch.setattr(prepare, "builder_class", lambda name: type("Builder", (), {"about": about}))
    (tmp_path / "RxRx19b-metadata.zip").write_bytes(published("rxrx19b")["/RxRx19b/RxRx19b-metadata.zip"])
    assert run("rxrx19b", "--to", tmp_path, "--only=metadata") == 0
    assert (tmp_path / "metadata.csv").read_bytes() == TABLE


def test_images_need_room_for_the_archive_and_the_files(tmp_path, monkeypatch):
    rooms = {}

    def record(url, path, room, progress):
        rooms[url.rpartition("/")[2]] = room
        archive(path, {"rxrx1/a": b"1"})

    monkeypatch.setattr(fetch_lib, "fetch", record)
    download.download("rxrx1", tmp_path, progress=False)
    assert rooms == {"rxrx1-metadata.zip": 0, "rxrx1-dl-embeddings.zip": 0, "rxrx1-images.zip": 1}


def test_a_believed_address(server, tmp_path, monkeypatch, capsys):
    """The second spelling is tried where the first is not there; all of them missing is an error with a way out."""
    monkeypatch.setattr(download, "BASE", server.url)
    monkeypatch.setattr(prepare, "builder_class", lambda name: prepare_class)
    prepare_class = type("Builder", (), {"about": {"license": "CC", "homepage": "here", "citation": "@a\n b"}})
    server.files |= published("rxrx19b")
    assert run("rxrx19b", "--to", tmp_path, "--only=metadata") == 0
    out = capsys.readouterr().out
    assert "rxrx19b/rxrx19b-metadata.zip (this address is believed, not checked)" in out
    assert "RxRx19b/RxRx19b-metadata.zip (this address is believed, not checked)" in out
    assert (tmp_path / "metadata.csv").read_bytes() == TABLE

    assert run("rxrx2", "--to", tmp_path / "two", "--only=images") == 2
    error = capsys.readouterr().err
    assert "rxrx2/rxrx2-images.zip: HTTP 404" in error and "RxRx2/RxRx2-images.zip: HTTP 404" in error
    assert "by hand from https://www.rxrx.ai/rxrx2#Download, save them as" in error
    assert f"{tmp_path}/two/rxrx2-images.zip and run this again" in error and len(error.splitlines()) == 1


def test_every_name_that_is_not_confirmed_is_said_to_be_believed():
    known = {found for parts in download.OBJECTS.values() for objects in parts.values() for found in objects}
    assert known > download.CONFIRMED and all(set(parts) == set(download.PARTS) for parts in download.OBJECTS.values())


@pytest.mark.parametrize("name, words", [("rxrx3", "embeddings.tar"), ("rxrx3_core", "--repo-type=dataset")])
def test_datasets_to_fetch_by_hand(tmp_path, monkeypatch, capsys, name, words):
    kind = type("Builder", (), {"about": {"license": "EULA", "homepage": "here", "citation": "@a"}})
    monkeypatch.setattr(prepare, "builder_class", lambda name: kind)
    assert run(name, "--to", tmp_path / "to") == 2
    out = capsys.readouterr().out
    assert words in out and "EULA" in out and f"prepare {name} --source={tmp_path / 'to'}" in out
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing", "--to=x"], "no dataset to download is called 'nothing'; there are: rxrx1, rxrx19a"),
        (["rxrx1", "--to=x", "--only=pictures"], "--only=pictures: expected some of metadata,embeddings,images"),
        (["rxrx1", "--to=x", "--only=,"], "--only=,: expected"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_into_which_nothing_came_is_removed_unless_it_was_there(base, tmp_path, monkeypatch, there):
    def unresolved(*args, **kwargs):
        raise UserError("the name cannot be resolved")

    monkeypatch.setattr(fetch_lib, "fetch", unresolved)
    (tmp_path / "a").mkdir()
    if there:
        (tmp_path / "a/b").mkdir()
    assert run("rxrx1", "--to", tmp_path / "a/b/c") == 2
    assert (tmp_path / "a/b").exists() == there and not (tmp_path / "a/b/c").exists() and (tmp_path / "a").exists()


def test_interrupted(base, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_lib, "fetch", interrupt)
    assert run("rxrx1", "--to", tmp_path) == 130
    assert "start the same command again" in capsys.readouterr().err
