"""What the tests of downloads share: a server that cuts, changes and misreports, archives, and a look at a folder."""

import contextlib
import http.server
import re
import threading
import zipfile

import numpy as np

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


@contextlib.contextmanager
def serve():
    """A running server that has CONTENT at /file."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.files["/file"] = CONTENT
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
