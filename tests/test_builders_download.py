"""Downloads against a local server that cuts, changes and misreports, and archives that must not be unpacked."""

import errno
import http.server
import io
import json
import re
import stat
import struct
import threading
import zipfile

import numpy as np
import pytest

from rxrx_jax.errors import UserError
from tfds_builders import download, prepare
from tfds_builders.downloads import fetch as fetch_lib
from tfds_builders.downloads import unpack as unpack_lib
from tfds_builders.downloads.fetch import NotThere, fetch
from tfds_builders.downloads.unpack import unpack

CONTENT = np.random.default_rng(0).bytes(100_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes) with ETags and ranges; `script` holds a behaviour per request, in order."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.script, self.requests = {}, [], []
        self.version, self.strong, self.ranges = 1, True, True
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request, client_address):
        pass  # a connection that was cut on purpose


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        behaviour = server.script.pop(0) if server.script else {}
        if "before" in behaviour:
            behaviour["before"]()
        content = server.files.get(self.path)
        status = behaviour.get("status", 200 if content is not None else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = f'"v{server.version}"' if server.strong else f'W/"v{server.version}"'
        start, total = 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and server.ranges and self.headers.get("If-Range") in (None, etag, "Sat, 01 Jan 2000 00:00:00 GMT"):
            start = int(asked[1])
            if start >= total:
                self.send_response(416)
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", behaviour.get("range", f"bytes {start}-{total - 1}/{total}"))
        else:
            self.send_response(200)
        self.send_header("ETag", behaviour.get("etag", etag))
        if behaviour.get("modified", server.strong):
            self.send_header("Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT")
        if not behaviour.get("no_length"):
            self.send_header("Content-Length", str(behaviour.get("length", total - start)))
        self.end_headers()
        self.wfile.write(content[start : start + behaviour.get("cut", total)])


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.files["/file"] = CONTENT
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server, path, **kwargs):
    fetch(server.url + "file", path, progress=False, pause=0.0, **kwargs)
    assert path.read_bytes() == server.files["/file"]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]  # no part, no state


def test_a_fetch_of_one_piece(server, tmp_path):
    get(server, tmp_path / "a")
    assert server.requests == [("/file", None, None)]


def test_cut_connections_go_on_where_they_were(server, tmp_path):
    server.script = [{"cut": 30_000}, {"cut": 0}, {"cut": 50_000}, {}]
    get(server, tmp_path / "a")
    assert server.requests == [
        ("/file", None, None),
        ("/file", "bytes=30000-", '"v1"'),
        ("/file", "bytes=30000-", '"v1"'),
        ("/file", "bytes=80000-", '"v1"'),
    ]


def test_another_process_goes_on(server, tmp_path, monkeypatch):
    """The first gives up after two cuts; the second asks for the rest only."""
    server.script = [{"cut": 30_000}, {"cut": 0}, {"cut": 0}]
    monkeypatch.setattr(fetch_lib, "RETRIES", 2)
    with pytest.raises(UserError, match="30,000 of 100,000 bytes; gave up after 2 tries.*run the same command again"):
        get(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    server.script = []
    get(server, tmp_path / "a")
    assert server.requests[-1] == ("/file", "bytes=30000-", '"v1"')


def test_progress_resets_the_count_of_failures(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_lib, "RETRIES", 3)
    server.script = [{"cut": 10_000}] * 9
    get(server, tmp_path / "a")
    assert len(server.requests) == 10


def test_a_server_that_ignores_ranges_starts_again(server, tmp_path):
    server.ranges = False
    server.script = [{"cut": 60_000}]
    get(server, tmp_path / "a")
    assert server.requests[1] == ("/file", "bytes=60000-", '"v1"')


@pytest.mark.parametrize("longer", [True, False])
def test_a_file_that_changed_on_the_server_starts_again(server, tmp_path, longer):
    def change():
        server.version, server.files["/file"] = 2, CONTENT[::-1] + b"more" * longer

    server.script = [{"cut": 60_000}, {"before": change, "cut": 70_000}, {}]
    get(server, tmp_path / "a")
    assert server.requests[2] == ("/file", "bytes=70000-", '"v2"')


@pytest.mark.parametrize(
    "lie",
    [
        {"etag": '"v2"'},  # of a server that ignores If-Range
        {"range": "bytes 60000-99999/100001"},
        {"range": "bytes 0-99999/100000"},
        {"range": "bytes 60000-/100000"},
        {"status": 416},
        {"status": 412},
    ],
)
def test_a_range_of_something_else_starts_again(server, tmp_path, lie):
    server.script = [{"cut": 60_000}, lie, {}]
    get(server, tmp_path / "a")
    assert server.requests[2] == ("/file", None, None)


def test_a_file_that_always_changes_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_lib, "RETRIES", 3)
    server.script = [{"cut": 60_000}, {"etag": '"x"'}] * 20
    with pytest.raises(UserError, match="changed on the server.*gave up"):
        get(server, tmp_path / "a")


def test_a_weak_etag_is_no_validator(server, tmp_path):
    """RFC 9110, 13.1.5: If-Range needs a strong one. Without any, the part cannot be trusted."""
    server.strong = False
    server.script = [{"cut": 60_000}, {}]
    get(server, tmp_path / "a")
    assert server.requests[1] == ("/file", None, None)


def test_the_date_is_a_validator_where_there_is_no_strong_etag(server, tmp_path):
    server.strong = False
    server.script = [{"cut": 60_000, "modified": True}, {}]
    get(server, tmp_path / "a")
    assert server.requests[1] == ("/file", "bytes=60000-", "Sat, 01 Jan 2000 00:00:00 GMT")


def test_a_part_of_another_url_or_without_its_state_is_not_used(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 500)
    get(server, tmp_path / "a")
    assert server.requests[0] == ("/file", None, None)
    (tmp_path / "a").unlink()
    (tmp_path / "a.part").write_bytes(b"x" * 500)
    state = {"url": server.url + "other", "validator": '"v1"', "size": 100_000}
    (tmp_path / "a.part.json").write_text(json.dumps(state))
    get(server, tmp_path / "a")
    assert server.requests[1] == ("/file", None, None)


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"url": 1}', "not json"])
def test_a_broken_state_is_no_state(server, tmp_path, state):
    (tmp_path / "a.part").write_bytes(b"x" * 500)
    (tmp_path / "a.part.json").write_text(state)
    get(server, tmp_path / "a")


def test_a_new_state_ends_the_old_part(tmp_path):
    """Killed between the two writes, the old bytes must not pass for the beginning of the new file."""
    (tmp_path / "a.part").write_bytes(b"x" * 500)
    fetch_lib._write_state(tmp_path / "a.part", fetch_lib.State("url", '"v2"', 1000))
    assert [path.name for path in tmp_path.iterdir()] == ["a.part.json"]


def test_a_complete_part_is_only_renamed(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    state = {"url": server.url + "file", "validator": '"v1"', "size": 100_000}
    (tmp_path / "a.part.json").write_text(json.dumps(state))
    get(server, tmp_path / "a")
    assert server.requests == []


def test_the_wrong_size_is_never_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_lib, "RETRIES", 2)
    server.script = [{"length": 100_001}] * 3
    with pytest.raises(UserError, match="100,000 of 100,001 bytes|bytes 100000-"):
        get(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_no_size_is_refused(server, tmp_path):
    server.script = [{"no_length": True}]
    with pytest.raises(UserError, match="without a size"):
        get(server, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_not_tried_again(server, tmp_path, status):
    server.script = [{"status": status}]
    with pytest.raises(NotThere, match=f"file: HTTP {status}"):
        get(server, tmp_path / "a")
    assert len(server.requests) == 1 and not list(tmp_path.iterdir())


def test_a_bad_request_is_not_tried_again(server, tmp_path):
    server.script = [{"status": 400}]
    with pytest.raises(UserError, match="HTTP 400"):
        get(server, tmp_path / "a")
    assert len(server.requests) == 1


def test_a_busy_server_is_tried_again_with_growing_pauses(server, tmp_path, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(fetch_lib.time, "sleep", pauses.append)
    server.script = [{"status": 503}, {"status": 429}, {"status": 500}]
    fetch(server.url + "file", tmp_path / "a", pause=2.0)
    assert (tmp_path / "a").read_bytes() == CONTENT and pauses == [2.0, 4.0, 8.0]
    shown = capsys.readouterr().err
    assert "HTTP 503 Service Unavailable; next try in 2 s" in shown and "100k/100k" in shown and "B/s" in shown


def test_no_server(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch_lib, "RETRIES", 2)
    with pytest.raises(UserError, match="http://127.0.0.1:9/file: .*refused.*gave up after 2"):
        fetch("http://127.0.0.1:9/file", tmp_path / "a", pause=0.0)
    shown = capsys.readouterr().err
    assert "refused" in shown and "B/s" not in shown and len(shown.splitlines()) == 1  # no empty bar


def test_too_little_room_is_said_before_a_byte_is_written(server, tmp_path, monkeypatch):
    usage = fetch_lib.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch_lib.shutil, "disk_usage", lambda path: usage._replace(free=150_000))
    with pytest.raises(UserError, match="the file and what is in it need 0.0 GB more"):
        get(server, tmp_path / "a", room=1)
    assert not list(tmp_path.iterdir())
    get(server, tmp_path / "a")


def test_a_full_disk_keeps_what_is_there(server, tmp_path, monkeypatch):
    class Full:
        """A file that takes 40,000 bytes."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, chunk):
            self.file.write(chunk[:40_000])
            raise OSError(errno.ENOSPC, "No space left on device")

    whole = fetch_lib.pathlib.Path.open

    def limited(path, mode="r", *args, **kwargs):
        file = whole(path, mode, *args, **kwargs)
        return Full(file) if path.suffix == ".part" else file

    monkeypatch.setattr(fetch_lib.pathlib.Path, "open", limited)
    with pytest.raises(UserError, match="a.part: No space left on device; once it can be written"):
        get(server, tmp_path / "a")
    monkeypatch.undo()
    get(server, tmp_path / "a")
    assert server.requests[-1] == ("/file", "bytes=40000-", '"v1"')


# ---------------------------------------------------------------------------------------------------- archives


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


MEMBERS = {
    "RxRx1/metadata.csv": b"site_id\n",
    "rxrx1/images/HUVEC-1/Plate1/B02_s1_w1.png": CONTENT,
    "rxrx1/images/HUVEC-1/Plate1/": b"",
    "notes/rxrx1/readme": b"elsewhere",
}


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_unpacks_without_the_top_folder(tmp_path):
    path = archive(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "to").mkdir()
    assert unpack(path, tmp_path / "to", "rxrx1", progress=False) == {"unpacked": 3, "there": 0, "replaced": 0}
    expected = {
        "metadata.csv": b"site_id\n",
        "images/HUVEC-1/Plate1/B02_s1_w1.png": CONTENT,
        "notes/rxrx1/readme": b"elsewhere",
    }
    assert tree(tmp_path / "to") == expected


def test_what_is_there_is_left_and_what_differs_is_replaced(tmp_path):
    path = archive(tmp_path / "a.zip", MEMBERS)
    to = tmp_path / "to"
    (to / "notes/rxrx1").mkdir(parents=True)
    (to / "notes/rxrx1/readme").write_bytes(b"elsewhere")
    (to / "metadata.csv").write_bytes(b"site_xx\n")  # same size, other content
    (to / "images/HUVEC-1/Plate1").mkdir(parents=True)
    (to / "images/HUVEC-1/Plate1/B02_s1_w1.png").write_bytes(CONTENT[:-1])  # a killed unzip
    before = (to / "notes/rxrx1/readme").stat().st_mtime_ns
    assert unpack(path, to, "rxrx1", progress=False) == {"unpacked": 2, "there": 1, "replaced": 2}
    assert (to / "notes/rxrx1/readme").stat().st_mtime_ns == before
    assert tree(to)["metadata.csv"] == b"site_id\n" and tree(to)["images/HUVEC-1/Plate1/B02_s1_w1.png"] == CONTENT


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../evil", "leaves the folder"),
        ("rxrx1/../../evil", "leaves the folder"),
        ("a/../b", "leaves the folder"),
        ("/etc/evil", "absolute"),
        ("C:/evil", "no plain path"),
        ("a\\..\\evil", "no plain path"),
        ("a//b", "no plain path"),
        ("./a", "no plain path"),
        (special("link", stat.S_IFLNK | 0o777), "link or a device"),
        (special("pipe", stat.S_IFIFO | 0o644), "link or a device"),
        ("rxrx1/good", "twice"),
        ("good/below", "below a file"),
    ],
)
def test_refused_members_are_named_and_nothing_is_unpacked(tmp_path, name, reason):
    path = archive(tmp_path / "a.zip", {"good": b"1", name: b"2"})
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError) as error:
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    shown = name.filename if isinstance(name, zipfile.ZipInfo) else name
    assert reason in str(error.value) and repr(shown) in str(error.value) and str(path) in str(error.value)
    assert tree(tmp_path / "to") == {} and not (tmp_path / "evil").exists()


def test_many_refused_members_are_counted(tmp_path):
    path = archive(tmp_path / "a.zip", {f"../{i}": b"" for i in range(12)})
    with pytest.raises(UserError, match="and 7 more"):
        unpack(path, tmp_path, "rxrx1", progress=False)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.zip", {"zeros": bytes(2_000_000)})
    monkeypatch.setattr(unpack_lib, "ALWAYS_FINE", 1000)
    with pytest.raises(UserError, match="declares 2,000,000 bytes.*zip bomb"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    monkeypatch.setattr(unpack_lib, "ALWAYS_FINE", 2_000_000)
    (tmp_path / "to").mkdir()
    unpack(path, tmp_path / "to", "rxrx1", progress=False)


def test_a_member_never_grows_beyond_what_it_declares(tmp_path):
    """The declared size is checked beforehand, so the content may not exceed it."""
    path = archive(tmp_path / "a.zip", {"zeros": bytes(50_000)})
    data = path.read_bytes().replace(struct.pack("<L", 50_000), struct.pack("<L", 100))
    path.write_bytes(data)
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match="a.zip: .*delete it and fetch it again"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert tree(tmp_path / "to") == {}


def test_a_wrong_crc_leaves_no_file(tmp_path):
    path = archive(tmp_path / "a.zip", {"good": b"1" * 100, "bad": CONTENT}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(CONTENT[:50]) + 10_000] ^= 1
    path.write_bytes(data)
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match="Bad CRC-32 for file 'bad'"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert tree(tmp_path / "to") == {"good": b"1" * 100}


def test_broken_archives_are_one_line_and_never_another_error(tmp_path):
    whole = archive(tmp_path / "a.zip", MEMBERS).read_bytes()
    (tmp_path / "to").mkdir()
    random = np.random.default_rng(0)
    cases = [b"", b"PK", b"not a zip", *(whole[:n] for n in random.integers(0, len(whole), 20))]
    for _ in range(200):
        data = bytearray(whole)
        # Most of the file is one member's content: the structure is at its end.
        for at in random.integers(len(data) - 500, len(data), 3):
            data[at] = random.integers(256)
        cases.append(bytes(data))
    failures = 0
    for data in cases:
        (tmp_path / "a.zip").write_bytes(data)
        try:
            unpack(tmp_path / "a.zip", tmp_path / "to", "rxrx1", progress=False)
        except UserError as error:
            assert "\n" not in str(error) and "a.zip" in str(error)
            failures += 1
    assert failures > 100
    assert not [p for p in tmp_path.rglob("*.part")]


def test_a_full_disk_while_unpacking(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "to").mkdir()
    usage = unpack_lib.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unpack_lib.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match="to: 0.0 GB more are needed"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert tree(tmp_path / "to") == {}
    monkeypatch.undo()

    def full(source, target, size):
        if "images" in target.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write(source.read())

    monkeypatch.setattr(unpack_lib.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="B02_s1_w1.png: No space left on device"):
        unpack(path, tmp_path / "to", "rxrx1", progress=False)
    assert list(tree(tmp_path / "to")) == ["metadata.csv"]
    monkeypatch.undo()
    assert unpack(path, tmp_path / "to", "rxrx1", progress=False)["there"] == 1


# ---------------------------------------------------------------------------------------------------- the command

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
def base(server, monkeypatch):
    monkeypatch.setattr(download, "BASE", server.url)
    server.files |= published()
    return server


def run(*arguments):
    return download.main([str(argument) for argument in arguments])


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

    assert run("rxrx2", "--to", tmp_path / "two", "--only=images") == 1
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
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1


def test_interrupted(base, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_lib, "fetch", interrupt)
    assert run("rxrx1", "--to", tmp_path) == 130
    assert "goes on from here" in capsys.readouterr().err
