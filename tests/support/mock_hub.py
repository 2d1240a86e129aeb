"""A local mock of the Hugging Face Hub: folders as repositories, with the routes and headers of huggingface_hub.

    with serving({"me/tiny": folder, "me/tiny@v1": older}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        ...
        assert hub.fetched() == ["config.json", "model.safetensors"]

With `hub.new_repositories`, a folder, clients may also create repositories and commit files to them (`mock_uploads`).

Files are read at each request, so that a repository changes with its folder. As on the real Hub, large kinds of files
are stored by their sha256 and served from another origin, which must not receive the token.
"""

import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mock_uploads import Uploads

LARGE = {".bin", ".h5", ".model", ".ot", ".safetensors"}
# The chunk that huggingface_hub writes, instead of 10 MB: the files of tests are small.
CHUNK = 50_000
_API = re.compile(r"/api/models/(?P<id>[^/]+(?:/[^/]+)??)(?:/(?P<verb>revision|tree)/(?P<revision>[^/]+))?")
_LARGE = re.compile(r"/large/(?P<sha256>[^/]+)/(?P<file>.+)")
_RESOLVE = re.compile(r"/(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Request:
    """One line of the log; `file` is None if the request is not for the content of a file."""

    method: str
    path: str
    file: str | None
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The repositories, who may read them, and the requests so far; tests may change everything while it runs."""

    LARGE = LARGE
    url: str
    repositories: dict[str, Path]
    token: str = "hf_right"
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    down: int | None = None  # the status of every response
    garbled: set[str] = field(default_factory=set)  # files served with another content of the same length
    role: str = "write"  # what the token allows
    scopes: list[dict[str, Any]] = field(default_factory=list)  # of a fine-grained token
    read_only: bool = False  # refuse every change
    new_repositories: Path | None = None
    large: dict[str, bytes] = field(default_factory=dict)  # uploaded large files by sha256
    posted: list[str] = field(default_factory=list)  # the paths of all requests to change something
    log: list[Request] = field(default_factory=list)
    cuts: dict[str, tuple[int, Callable[[], object]]] = field(default_factory=dict)

    def cut(self, file: str, after: int, then: Callable[[], object] = lambda: None) -> None:
        """Break the connection once, `after` so many bytes of a file; `then` is called just before."""
        self.cuts[file] = after, then

    def fetched(self) -> list[str]:
        """The files whose content was requested, each once."""
        return sorted({request.file for request in self.log if request.method == "GET" and request.file})

    def ranges(self, file: str) -> list[str | None]:
        """The Range of each request for a file's content, in order."""
        return [request.range for request in self.log if request.method == "GET" and request.file == file]

    def paths(self, file: str) -> list[Path]:
        """The files of this name in all repositories."""
        return [path for folder in self.repositories.values() if (path := folder / file).is_file()]

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Point huggingface_hub to this server and to an empty cache, without a token and without offline mode."""
        from huggingface_hub import constants

        for name, value in self.environment(cache).items():
            monkeypatch.setenv(name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)

    def environment(self, cache: Path) -> dict[str, str]:
        """The environment variables that point another process to this server."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


@contextlib.contextmanager
def serving(repositories: Mapping[str, str | Path]) -> Generator[Hub, None, None]:
    """Serve folders inside a `with` block; a repository is `owner/name`, another branch `owner/name@branch`."""
    server = _Server(("127.0.0.1", 0), _Answer)
    port = server.server_address[1]
    folders = {name if "@" in name else f"{name}@main": Path(folder) for name, folder in repositories.items()}
    server.hub = Hub(f"http://127.0.0.1:{port}", folders)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    hub: Hub
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects is not an error."""


class _Answer(Uploads, BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.server.hub, urllib.parse.urlsplit(self.path).path
        api, resolve, large = (pattern.fullmatch(path) for pattern in (_API, _RESOLVE, _LARGE))
        file = next((urllib.parse.unquote(match["file"]) for match in (resolve, large) if match), None)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        content = None if resolve and Path(resolve["file"]).suffix in LARGE else file
        hub.log.append(Request(self.command, path, content, self.headers.get("Range"), token))
        if hub.down is not None:
            self._refuse(hub.down, None, "the hub is down")
        elif large and file:
            self._send_file(next(path for path in hub.paths(file) if _file_info(path)["lfs"]["oid"] == large["sha256"]))
        elif path == "/api/whoami-v2":
            self.user(token)
        elif token not in (None, hub.token):
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif (match := resolve or api) is None:
            self._refuse(404, None, "no such page")
        elif (folder := self._allowed(match["id"], urllib.parse.unquote(match["revision"] or "main"), token)) is None:
            pass
        elif file is not None:
            self._resolve(match["id"], folder, file, token)
        else:
            self._describe(match["id"], folder, match["verb"] == "tree")

    do_HEAD = do_GET

    def _allowed(self, name: str, revision: str, token: str | None) -> Path | None:
        """The folder of a revision; None if the request was refused."""
        hub = self.server.hub
        branches = {key.partition("@")[2]: x for key, x in hub.repositories.items() if key.partition("@")[0] == name}
        if not branches or (name in hub.private and token is None):
            # The Hub does not reveal which of the two it is.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        folder = (branches | {_commit(folder): folder for folder in branches.values()}).get(revision)
        if folder is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return folder

    def _describe(self, name: str, folder: Path, tree: bool) -> None:
        files = [{"path": path, **_file_info(folder / path)} for path in _listing(folder)]
        if tree:
            self._send_json([{"type": "file", **file} for file in files])
            return
        siblings = [
            {"rfilename": file["path"], "size": file["size"], "blobId": file["oid"]}
            | ({"lfs": {**file["lfs"], "sha256": file["lfs"]["oid"]}} if "lfs" in file else {})
            for file in files
        ]
        sha = _commit(folder)
        self._send_json({"_id": "0", "id": name, "modelId": name, "sha": sha, "tags": [], "siblings": siblings})

    def _resolve(self, name: str, folder: Path, file: str, token: str | None) -> None:
        commit, path = {"X-Repo-Commit": _commit(folder)}, folder / file
        if name in self.server.hub.gated and token is None:
            self._refuse(401, "GatedRepo", f"Access to model {name} is restricted")
        elif not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif "lfs" not in (info := _file_info(path)):
            self._send_file(path, commit | {"ETag": f'"{info["oid"]}"'})
        else:
            sha256, size = info["lfs"]["oid"], info["size"]
            # Another name of this machine is another origin.
            location = f"http://localhost:{self.server.server_address[1]}/large/{sha256}/{file}"
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size), "Location": location}
            self._send(302, commit | linked)

    def _send_file(self, path: Path, headers: Mapping[str, str] | None = None) -> None:
        hub, content = self.server.hub, path.read_bytes()
        if path.name in hub.garbled:
            content = bytes(byte ^ 1 for byte in content)
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(requested[1]) if requested else 0
        if requested and start >= len(content):
            self._refuse(416, None, "no bytes are left")
            return
        content_range = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if requested else {}
        end, then = hub.cuts.pop(path.name, (None, None)) if self.command == "GET" else (None, None)
        self._send(
            206 if requested else 200, {**(headers or {}), **content_range}, content[start:], end and end - start
        )
        if then is not None:
            then()
            self.close_connection = True

    def _send_json(self, values: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(values).encode())

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        self._send(status, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}))

    def _send(self, status: int, headers: Mapping[str, str], content: bytes = b"", end: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:end])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are logged in `Hub.log`."""


def _listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _file_info(path: Path) -> dict[str, Any]:
    """Size, git's hash of the content and, for large kinds of files, its sha256."""
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    info = {"size": len(content), "oid": blob}
    if path.suffix not in LARGE:
        return info
    return info | {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}


def _commit(folder: Path) -> str:
    """Forty hexadecimal digits that depend on the content."""
    return hashlib.sha1(repr([(path, _file_info(folder / path)) for path in _listing(folder)]).encode()).hexdigest()
