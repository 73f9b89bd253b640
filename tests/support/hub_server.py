"""A Hugging Face hub on the loopback: models and datasets in commits, and errors in place of answers.

It implements the requests of huggingface_hub's snapshot_download and of the datasets library: info, tree, paths, files
with ranges.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<at>[^/]+)(?P<below>/.*)?)?$"
)
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<at>[^/]+)/(?P<path>.+)$")


@dataclass
class Fault:
    """An error in place of the answers to requests that match `where`, `times` times or always."""

    code: int | None = None  # of the answer; None: see `cut` and `hang`
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "no"
    where: str = ""  # a pattern of method and path: "GET .*safetensors"
    times: int | None = None
    cut: int | None = None  # bytes after which the body ends, of each answer
    hang: bool = False

    def strikes(self, request: str) -> bool:
        if self.times == 0 or not re.search(self.where, request):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Hub:
    """Repositories by kind and id, each a list of commits; `main` is the last. token: others are refused."""

    def __init__(self, port: int = 0) -> None:
        self.commits: dict[tuple[str, str], dict[str, Files]] = {}
        self.faults: list[Fault] = []
        self.token: str | None = None
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Asked", (_Asked,), {"hub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def push(self, hub_id: str, files: Files, kind: str = "models") -> str:
        """Makes a commit the newest; returns its name."""
        commits = self.commits.setdefault((kind, hub_id), {})
        name = hashlib.sha1(f"{hub_id} {len(commits)}".encode()).hexdigest()
        commits[name] = files
        return name

    def find(self, kind: str, hub_id: str, at: str) -> tuple[str, Files] | None:
        commits = self.commits.get((kind, hub_id), {})
        name = next(reversed(commits), "") if at == "main" else at
        return (name, commits[name]) if name in commits else None

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Asked(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        asked = f"{self.command} {unquote(urlsplit(self.path).path)}"
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        with self.hub.lock:
            self.hub.requests.append(asked)
            fault = next((each for each in self.hub.faults if each.strikes(asked)), None)
        if fault and fault.hang:
            time.sleep(30)
        elif self.hub.token and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self._send(401, b'{"error": "Invalid username or password."}')
        elif fault and fault.code:
            self._send(fault.code, json.dumps({"error": fault.message}).encode(), fault.headers)
        else:
            self._serve(asked.partition(" ")[2], body, fault.cut if fault else None)

    def _serve(self, path: str, body: bytes, cut: int | None) -> None:
        found = _API.match(path) or _FILE.match(path)
        parts = found.groupdict() if found else {}
        kind = "datasets" if (parts.get("kind") or "").startswith("datasets") else "models"
        repository = (kind, parts.get("id") or "")
        if repository not in self.hub.commits:
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return
        commit = self.hub.find(*repository, parts.get("at") or "main")
        if commit is None:
            self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        elif parts.get("below") and not any(path.startswith(parts["below"][1:] + "/") for path in commit[1]):
            self._send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"})
        elif "path" in parts:
            self._send_file(*commit, parts["path"] or "", cut)
        else:
            self._send_json(parts.get("what"), repository[1], *commit, body)

    def _send_json(self, what: str | None, hub_id: str, name: str, files: Files, body: bytes) -> None:
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
            for path, content in files.items()
        ]
        if what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
            self._send(200, json.dumps([each for each in entries if each["path"] in wanted]).encode())
        elif what == "tree":
            self._send(200, json.dumps(entries).encode())
        else:
            info = {"id": hub_id, "sha": name, "private": False, "gated": False, "tags": [], "downloads": 0}
            siblings = [{"rfilename": path} for path in files]
            self._send(200, json.dumps(info | {"siblings": siblings}).encode())

    def _send_file(self, name: str, files: Files, path: str, cut: int | None) -> None:
        about = {"X-Repo-Commit": name, "Accept-Ranges": "bytes"}
        if path not in files:
            self._send(404, b'{"error": "Entry not found"}', about | {"X-Error-Code": "EntryNotFound"})
            return
        content, code = files[path], 200
        about["ETag"] = f'"{_etag(content)}"'
        if found := re.match(r"bytes=(\d+)-(\d*)$", self.headers["Range"] or ""):
            first, last = int(found[1]), int(found[2] or len(content) - 1)
            about["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, code = content[first : last + 1], 206
        self._send(code, content, about, cut)

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(code)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub(port: int = 0) -> Iterator[Hub]:
    """Provides a hub without repositories, until the end of the block. port: 0 chooses a free one."""
    served = Hub(port)
    try:
        yield served
    finally:
        served.stop()


def files_of(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
