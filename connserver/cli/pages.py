"""A small file server for the page of a game under development.

Guards one rule: it shows the files of one folder, to this machine, and nothing else. It listens on
the loopback address only; a name that leads out of the folder (by `..`, a link, or a hidden file)
does not exist; and a request under a foreign host name is refused, so that no web page elsewhere can
have a browser read it.
"""

from __future__ import annotations

import mimetypes
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from connserver.errors import ClusterError
from connserver.limits import PAGE_BYTES

LOOPBACK: Final = "127.0.0.1"
HOSTS: Final = frozenset({"127.0.0.1", "localhost"})
INDEX: Final = "index.html"

# Not left to the machine's own table: a module script of the wrong type is not run.
TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


def find(root: Path, target: str) -> Path | None:
    """The file that a request's target means, or None: only what lies within `root` is there."""
    try:
        names = unquote(urlsplit(target).path, errors="strict").split("/")
    except (ValueError, UnicodeDecodeError):
        return None
    parts = [name for name in names if name]
    if any(name.startswith(".") or "\\" in name or not name.isprintable() for name in parts):
        return None
    try:
        path = root.joinpath(*parts).resolve(strict=True)
        if path.is_dir():
            path = (path / INDEX).resolve(strict=True)
    except OSError:
        return None
    inside = path.is_relative_to(root.resolve()) and path.is_file() and path.stat().st_size <= PAGE_BYTES
    return path if inside else None


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD for one folder."""

    timeout = 10
    protocol_version = "HTTP/1.1"
    server_version = "connserver"
    sys_version = ""

    def do_GET(self) -> None:
        """A file, or 404."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without the file."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in HOSTS:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        assert isinstance(self.server, PageServer)
        path = find(self.server.folder, self.path)
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = path.read_bytes()
        kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: whoever develops a page has the browser's own view of its requests."""


class PageServer(ThreadingHTTPServer):
    """Serves `folder` on a loopback port (0: any) from a thread of its own, until closed."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        try:
            super().__init__((LOOPBACK, port), Handler)
        except OSError as error:
            raise ClusterError(
                f"the page cannot be served on port {port} ({error.strerror}); choose another with --port"
            ) from None
        self._thread = threading.Thread(target=self.serve_forever, name="pages", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()
        self._thread.join()
