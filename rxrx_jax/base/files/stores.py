"""Objects in a store, gs:// or s3://, by fsspec: the only place that talks to one. What passes, such as 503,
throttling, a reset connection or a body that is cut short, is tried again with jitter; what does not is one line that
names bucket and object.
"""

import concurrent.futures
import functools
import importlib
import logging
import os
import pathlib
import random
import time
import typing
from collections.abc import Callable, Iterable

from rxrx_jax.base.errors import UserError, missing_extra, shortened

EXTRAS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # by the scheme of an address: package, extra of pyproject.toml
TRIES = 8
FIRST, LONGEST = 0.5, 30.0  # seconds: the longest wait before the second try, which doubles, and before any
AT_ONCE = 32  # requests of one process; each waits for the network, not for a core
LIBRARIES = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "json", "requests", "urllib3")
DENIED = ("forbidden", "access denied", "accessdenied", "unauthorized", "not authorized")
EXPIRED = ("expired", "invalid credentials", "invalid authentication credentials")


class Unreachable(UserError):
    """What is in an object store cannot be had: denied, not there, or no answer after all tries."""


class Short(OSError):
    """A body has fewer bytes than were asked for."""


@functools.cache
def client(scheme: str) -> typing.Any:
    """The file system of fsspec for addresses of a scheme, with its own retries off where it can be told."""
    if scheme not in EXTRAS:
        raise UserError(f"{scheme}:// is not a store that is read here: use gs:// or s3://")
    package, extra = EXTRAS[scheme]
    try:
        # Of gcsfs the plain one: its other asks every bucket by gRPC what kind it is, with rights that readers lack.
        kind = importlib.import_module(f"{package}.core")
    except ImportError as error:
        raise missing_extra(package, extra) from error
    logging.getLogger(package).setLevel(logging.CRITICAL)  # it prints the traceback of what is told in a line here
    if scheme == "gs":
        return kind.GCSFileSystem(use_listings_cache=False)
    once = {"retries": {"mode": "standard", "total_max_attempts": 1}, "max_pool_connections": 2 * AT_ONCE}
    found = kind.S3FileSystem(use_listings_cache=False, config_kwargs=once)
    found.retries = 1
    return found


def read(address: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of an object, from `start` to before `end`. Raises Unreachable."""

    def get(store):
        found = store.cat_file(address, start=start, end=end)
        if start is not None and end is not None and len(found) != end - start:
            raise Short(f"{len(found)} of {end - start} bytes")
        return found

    return tried(address, get)


def size(address: str) -> int | None:
    """Bytes of an object; None where there is none. Raises Unreachable."""
    found = tried(address, lambda store: store.info(address), missing=None)
    return None if found is None or found["type"] != "file" else int(found["size"])


def sizes(folder: str, names: Iterable[str]) -> dict[str, int | None]:
    """Bytes of objects in a folder, asked for one by one, so that it is right where a listing is behind."""
    names = list(names)
    return dict(zip(names, parallel(lambda name: size(f"{folder}/{name}"), names)))


def listed(folder: str) -> dict[str, int]:
    """Bytes of each object in a folder, by name, as a listing has them; {} where there is none. Raises Unreachable."""
    found = tried(folder, lambda store: store.ls(folder, detail=True), missing=[])
    return {entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in found if entry["type"] == "file"}


def matching(pattern: str) -> list[str]:
    """The addresses of objects that a pattern of names with * fits, sorted. Raises Unreachable."""
    scheme = pattern.partition("://")[0]
    return [f"{scheme}://{name}" for name in sorted(tried(pattern, lambda store: store.glob(pattern), missing=[]))]


def download(address: str, path: pathlib.Path) -> None:
    """Copies an object to a file, which appears when complete. Raises Unreachable."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")

    def get(store):
        expected = int(store.info(address)["size"])
        store.get_file(address, str(partial))
        if (found := partial.stat().st_size) != expected:
            raise Short(f"{found} of {expected} bytes")

    try:
        tried(address, get)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def upload(path: pathlib.Path, address: str) -> None:
    """Copies a file to an object, which appears when complete. Raises Unreachable."""

    def put(store):
        store.put_file(str(path), address)
        if (found := store.info(address)["size"]) != path.stat().st_size:
            raise Short(f"{found} of {path.stat().st_size} bytes arrived")

    tried(address, put)


def upload_folder(folder: pathlib.Path, address: str, last: str) -> None:
    """Copies the files of a folder, `last` after all others: who finds it finds everything. Started again after a stop,
    it leaves out what the file beside the folder says was copied."""
    done = folder.with_name(f"{folder.name}.uploaded")
    already = set(done.read_text().splitlines()) if done.exists() else {address}
    if address not in already:
        already = {address}  # that was another place
        done.unlink()
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in already)
    with done.open("a") as log:
        log.write(f"{address}\n")

        def copy(name):
            upload(folder / name, f"{address}/{name}")
            log.write(f"{name}\n")
            log.flush()

        parallel(copy, [name for name in names if name != last])
        copy(last)
    done.unlink()


def parallel(call: Callable, items: Iterable) -> list:
    """call(item) of all, many at once, in their order. The first error is raised, and what has not begun is left."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE, "store") as pool:
        try:
            return list(pool.map(call, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


RAISE = object()


def tried(address: str, call: Callable, missing: typing.Any = RAISE) -> typing.Any:
    """call(client of the address), again after what may pass: up to TRIES times, waits of a random part of a time that
    doubles ("full jitter", Brooker 2015, "Exponential backoff and jitter", AWS Architecture Blog), so that the hosts
    of a pod do not come back all at once.

    Args: missing, what to return where the object does not exist; else that, too, is tried again, as a store may be
    behind. Raises Unreachable."""
    scheme, _, place = str(address).partition("://")
    bucket, _, name = place.partition("/")
    where = f"object {name} in bucket {scheme}://{bucket}"
    store = client(scheme)
    for number in range(TRIES):
        try:
            return call(store)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and missing is not RAISE and "NoSuchBucket" not in _words(error):
                return missing
            if not isinstance(error, (OSError, TimeoutError)) and not type(error).__module__.startswith(LIBRARIES):
                raise
            if why := denial(error):
                raise Unreachable(f"{where} is denied ({_words(error)}): {why}") from error
            if number + 1 == TRIES or "NoSuchBucket" in _words(error):
                what = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be had after {TRIES} tries"
                raise Unreachable(f"{where} {what} ({_words(error)}); the same command resumes") from error
        time.sleep(random.uniform(0, min(LONGEST, FIRST * 2**number)))


def denial(error: Exception) -> str:
    """What to do about an error that another try does not help against; "" for any other."""
    text, code = f"{type(error).__name__} {_words(error)}".lower(), str(getattr(error, "code", ""))
    if any(words in text for words in EXPIRED) or "refresherror" in text:
        return "renew the credentials (`gcloud auth application-default login`, `aws sso login`) and start it again"
    if isinstance(error, PermissionError) or code in ("401", "403") or "credentials" in text:
        return "check who is logged in and what this account may do there"
    if any(words in text for words in DENIED):
        return "check who is logged in and what this account may do there"
    return ""


def _words(error: Exception) -> str:
    cause = f": {error.__cause__}" if error.__cause__ is not None else ""
    return shortened(f"{error}{cause}" or type(error).__name__)
