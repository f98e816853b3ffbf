"""Downloads against a local server that cuts, changes and misreports."""

import errno
import json
import socket

import pytest
from download_tools import CONTENT, serve

from rxrx_jax.base.errors import UserError
from tfds_builders.downloads import fetch as fetch_lib
from tfds_builders.downloads.fetch import NotThere, fetch


@pytest.fixture
def server():
    with serve() as server:
        yield server


def get(server, path, **kwargs):
    fetch(server.url + "file", path, progress=False, pause=0.0, **kwargs)
    assert path.read_bytes() == server.files["/file"]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]  # no part, no state


def test_a_fetch_of_one_piece(server, tmp_path):
    get(server, tmp_path / "a")
    assert server.requests == [("/file", None, None)]


def test_cut_connections_resume_where_they_were(server, tmp_path):
    server.script = [{"cut": 30_000}, {"cut": 0}, {"cut": 50_000}, {}]
    get(server, tmp_path / "a")
    assert server.requests == [
        ("/file", None, None),
        ("/file", "bytes=30000-", '"v1"'),
        ("/file", "bytes=30000-", '"v1"'),
        ("/file", "bytes=80000-", '"v1"'),
    ]


def test_another_process_resumes(server, tmp_path, monkeypatch):
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


def test_a_weak_etag_is_not_a_validator(server, tmp_path):
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
def test_a_broken_state_is_not_a_state(server, tmp_path, state):
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


@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_AGAIN])  # the latter is said without any network
def test_a_name_that_cannot_be_resolved_is_said_at_once(tmp_path, monkeypatch, number):
    tried = []

    def resolve(host, *arguments, **more):
        tried.append(host)
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(UserError, match=r"the name nowhere.invalid cannot be resolved \(Name or .*proxy.*resumes$"):
        fetch("https://nowhere.invalid/file", tmp_path / "a", progress=False)
    assert tried == ["nowhere.invalid"]
