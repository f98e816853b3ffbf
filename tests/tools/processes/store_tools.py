"""Object stores on this machine: moto's server for s3:// and gcp-storage-emulator for gs://, each behind a proxy that
can break what passes through it."""

import collections
import contextlib
import http.client
import http.server
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator

import fsspec

from rxrx_jax.base.files import stores

BUCKET = "bucket"
DROPPED = ("connection", "transfer-encoding", "content-length", "host", "server", "date")
ERRORS = {  # status, S3's code, GCS's message
    "503": (503, "SlowDown", "backend error"),
    "429": (429, "TooManyRequests", "rate limit exceeded"),
    "denied": (403, "AccessDenied", "storage.objects.get access denied"),
    "expired": (401, "ExpiredToken", "Request had invalid authentication credentials"),
}


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a port. `breaks` holds [regular expression of the path, kind, how often]; kinds are those
    of ERRORS, reset, cut (half of the body), short (the same, as if that were all) and behind (a listing without record
    files). `broken` counts what was done, `asked` has the requests with a range."""

    daemon_threads = True

    def __init__(self, port: int, scheme: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.scheme, self.lock = port, scheme, threading.Lock()
        self.reset()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.breaks, self.broken, self.asked = [], collections.Counter(), []

    def handle_error(self, request, client_address):
        """A client that went away is not news."""

    def fault(self, path: str) -> str:
        with self.lock:
            for entry in self.breaks:
                if entry[2] > 0 and re.search(entry[0], path):
                    entry[2] -= 1
                    self.broken[entry[1]] += 1
                    return entry[1]
        return ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        server, body = self.server, self.body()
        kind = server.fault(f"{self.command} {self.path}")
        if kind in ERRORS:
            return self.refuse(*ERRORS[kind])
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        passed = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "transfer-encoding")}
        if body is not None:
            headers["Content-Length"] = str(len(body))
        passed.request(self.command, self.path, body, headers)
        with contextlib.closing(passed):
            got = passed.getresponse()
            content = got.read()
        if "range" in self.headers:
            server.asked.append((self.path, self.headers["range"]))
        if kind == "behind":
            content = unlisted(server.scheme, content)
        if kind == "short":
            content = content[: len(content) // 2]
        self.send_response(got.status)
        for key, value in got.getheaders():
            if key.lower() not in DROPPED:
                self.send_header(key, value)
        length = got.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if kind == "cut":
            content, self.close_connection = content[: len(content) // 2], True
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        length = self.headers.get("Content-Length")
        return None if length is None else self.rfile.read(int(length))

    def refuse(self, status: int, code: str, message: str) -> None:
        if self.server.scheme == "s3":
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        else:
            text = json.dumps({"error": {"code": status, "message": message}})
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/xml" if self.server.scheme == "s3" else "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())


def unlisted(scheme: str, content: bytes) -> bytes:
    """A listing without its record files."""
    if scheme == "s3":
        return re.sub(rb"<Contents>(?:(?!</Contents>).)*array_record-.*?</Contents>", b"", content, flags=re.S)
    found = json.loads(content)
    found["items"] = [item for item in found.get("items", []) if "array_record-" not in item["name"]]
    return json.dumps(found).encode()


@contextlib.contextmanager
def emulated(scheme: str) -> Iterator[Proxy]:
    """A store with an empty bucket, that `stores` talks to meanwhile."""
    with _s3() if scheme == "s3" else _gs() as port:
        proxy = Proxy(port, scheme)
        known = {
            "s3": {"endpoint_url": proxy.address, "key": "key", "secret": "secret"},
            "gs": {"endpoint_url": proxy.address, "token": "anon", "project": "project"},
        }
        before = dict(fsspec.config.conf)
        fsspec.config.conf[scheme] = known[scheme]
        stores.client.cache_clear()
        try:
            if scheme == "s3":
                stores.client("s3").mkdir(BUCKET)
            yield proxy
        finally:
            fsspec.config.conf.clear()
            fsspec.config.conf.update(before)
            stores.client.cache_clear()
            proxy.shutdown()
            proxy.server_close()


@contextlib.contextmanager
def _s3() -> Iterator[int]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/moto-api/reset")  # it keeps what it holds for the whole process
        connection.getresponse().read()
    try:
        yield port
    finally:
        server.stop()


@contextlib.contextmanager
def _gs() -> Iterator[int]:
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        yield port
    finally:
        server.stop()
