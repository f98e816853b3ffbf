"""Fetches one large file over HTTP: resumed, checked for its size, renamed when it is complete."""

import dataclasses
import errno
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import tqdm

from rxrx_jax.base.errors import UserError

CHUNK = 2**20  # bytes read at a time
TIMEOUT = 60  # seconds without a byte
RETRIES = 8  # failures in a row that bring no byte
LONGEST_PAUSE = 60.0  # seconds between two tries
PASSING = (408, 425, 429, 500, 502, 503, 504)  # responses that another try may change
# What a broken connection raises, apart from OSError (which also covers URLError and time-outs).
BROKEN = (http.client.HTTPException, OSError)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)


class NotThere(UserError):
    """The server has no such file, or does not give it to everyone."""


@dataclasses.dataclass
class State:
    """What is known of a partial file; kept beside it as NAME.part.json."""

    url: str
    validator: str  # strong ETag, or Last-Modified: what If-Range compares
    size: int


class _Restart(Exception):
    """What is on disk is unusable: start from the first byte."""


def fetch(url: str, path: pathlib.Path, room: float = 0.0, progress: bool = True, pause: float = 1.0) -> None:
    """Fetches `url` to `path`, resuming from path.part if an earlier fetch was cut short.

    A server that ignores ranges, or whose file has changed since, is read again from the first byte. Raises NotThere,
    or UserError when the disk is full or the server fails RETRIES times in a row; path.part is kept for the next try.

    Args:
      url: http or https.
      path: the file to make; it appears when it is complete.
      room: what must be free on the disk besides the file, in sizes of the file.
      progress: show a progress bar on stderr.
      pause: seconds before the first new try; doubled for every further one.
    """
    part = path.with_name(path.name + ".part")
    # Shown from the first byte on: an address that is not there leaves no empty bar.
    with tqdm.tqdm(desc=path.name, unit="B", unit_scale=True, disable=not progress, delay=9e9, leave=False) as bar:
        failures, restarts, reached = 0, 0, 0
        while True:
            try:
                _attempt(url, part, room, bar)
                break
            except _Restart as reason:
                _forget(part)
                restarts, reached = restarts + 1, 0
                problem = str(reason)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                error.close()
                if error.code in (401, 403, 404, 410):
                    raise NotThere(f"{url}: {problem}") from error
                if error.code not in PASSING:
                    raise UserError(f"{url}: {problem}") from error
            except BROKEN as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                if isinstance(cause, socket.gaierror) and not reached:  # later it is a network that comes and goes
                    host = urllib.parse.urlsplit(url).hostname
                    raise UserError(
                        f"{url}: the name {host} cannot be resolved ({cause.strerror}): is this machine on the "
                        "internet, or does it need a proxy (https_proxy)? The same command resumes"
                    ) from error
                if getattr(error, "errno", None) in DISK:
                    raise UserError(
                        f"{part}: {error.strerror}; once it can be written, the same command resumes from there"
                    ) from error
                problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            size = _size(part)
            failures = 1 if size > reached else failures + 1
            reached = max(reached, size)
            if max(failures, restarts) >= RETRIES:
                raise UserError(
                    f"{url}: {problem}; gave up after {max(failures, restarts)} tries, {size:,} bytes are kept: "
                    "run the same command again to resume"
                )
            seconds = min(pause * 2 ** (failures - 1), LONGEST_PAUSE)
            if progress:
                say = tqdm.tqdm.write if bar.leave else print  # the former shows the bar again
                say(f"{path.name}: {problem}; next try in {seconds:.0f} s", file=sys.stderr)
            time.sleep(seconds)
    part.replace(path)
    _state_path(part).unlink(missing_ok=True)


def _attempt(url: str, part: pathlib.Path, room: float, bar: tqdm.tqdm) -> None:
    """Reads what is missing of `part`; raises unless it is complete afterwards."""
    state, offset = _read_state(part), _size(part)
    if state is None or state.url != url or not state.validator or offset > state.size:
        state, offset = None, 0
    elif offset and offset == state.size:
        return
    # identity: a compressed transfer would have another size than the file
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "rxrx_jax"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", state.validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if offset and error.code in (412, 416):  # the range is not satisfiable: not the file that was begun
            error.close()
            raise _Restart(f"HTTP {error.code} for bytes {offset}-") from error
        raise
    with response:
        if offset and response.status == 206:
            _check_range(response, state, offset)
        else:
            offset, state = 0, _new_state(url, response)
        need, free = state.size * (1 + room) - offset, shutil.disk_usage(part.parent).free
        if need > free:
            what = "the file and what is in it" if room else "the file"
            raise UserError(
                f"{part.parent}: {what} need {need / 1e9:,.1f} GB more and {free / 1e9:,.1f} GB are free: free some or "
                "use another folder"
            )
        if not offset:
            _write_state(part, state)
        bar.delay, bar.leave = 0, True
        bar.reset(total=state.size)
        bar.initial = bar.n = offset  # not counted in the speed
        with part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = _size(part)
    if size > state.size:
        raise _Restart(f"{size:,} bytes came in place of {state.size:,}")
    if size < state.size:
        raise ConnectionError(f"the connection ended after {size:,} of {state.size:,} bytes")


def _new_state(url: str, response) -> State:
    length = response.headers.get("Content-Length", "")
    if response.status != 200 or not re.fullmatch(r"\d+", length):
        raise UserError(f"{url}: the server answers {response.status} without a size, so nothing can be checked")
    etag = response.headers.get("ETag", "")
    strong = etag if etag.startswith('"') else ""  # If-Range may not hold a weak one
    return State(url, strong or response.headers.get("Last-Modified", ""), int(length))


def _check_range(response, state: State, offset: int) -> None:
    """Raises _Restart unless the answer is the rest of the very file that was begun."""
    given = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", given.strip())
    if not match or tuple(map(int, match.groups())) != (offset, state.size - 1, state.size):
        raise _Restart(f"the server answers {given!r} for bytes {offset}-{state.size - 1}/{state.size}")
    etag = response.headers.get("ETag")
    if etag and state.validator.startswith('"') and etag != state.validator:
        raise _Restart(f"the file changed on the server (ETag {state.validator}, now {etag})")


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state_path(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(part.name + ".json")


def _read_state(part: pathlib.Path) -> State | None:
    try:
        return State(**json.loads(_state_path(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(part: pathlib.Path, state: State) -> None:
    # An older part must not be taken for the beginning of the new file.
    part.unlink(missing_ok=True)
    _state_path(part).write_text(json.dumps(dataclasses.asdict(state)) + "\n")


def _forget(part: pathlib.Path) -> None:
    _state_path(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)
