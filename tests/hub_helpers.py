"""A hub on loopback that speaks the hub's protocol as far as huggingface_hub and datasets need it."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from run_helpers import environment

LARGE = (".safetensors", ".parquet", "tokenizer.json")  # kept as LFS, under their SHA-256


def hash_of(path: str, content: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub:
    """Repositories in memory; what a test sets makes trouble on purpose.

    `asked`: method, path and Range of each request. `gated`: ids that answer so many (401 or 403).
    `cut_after`: the first file that is longer is cut off after so many bytes, once.
    `pause`: seconds before each 64 kB. `lies`: paths whose bytes are sent with one flipped.
    `listed`: changes an entry of a repository's list of files.
    """

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self.refs: dict[tuple[str, str], dict[str, str]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.gated: dict[str, int] = {}
        self.cut_after: int | None = None
        self.pause = 0.0
        self.lies: set[str] = set()
        self.listed: Any = lambda entry: entry
        self.url = ""

    def commit(
        self, kind: str, name: str, files: dict[str, bytes], branch: str | None = "main"
    ) -> str:
        """Add a commit; return it."""
        told = json.dumps([[path, hash_of(path, data)] for path, data in sorted(files.items())])
        sha = hashlib.sha1((kind + name + told).encode(), usedforsecurity=False).hexdigest()
        self.commits.setdefault((kind, name), {})[sha] = files
        if branch:
            self.refs.setdefault((kind, name), {})[branch] = sha
        return sha

    def folder(self, name: str, folder: Path, **more: bytes) -> str:
        """Add a folder of a model as a commit of main; return it."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        return self.commit("models", name, {**files, **more})

    @property
    def downloads(self) -> list[tuple[str, str | None]]:
        """Return path and Range of each file that was asked for, in order."""
        return [
            (path, of) for method, path, of in self.asked if method == "GET" and "/api/" not in path
        ]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process that asks this hub, with a cache of its own."""
        asking = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        return environment(**{**asking, "HF_HUB_DISABLE_TELEMETRY": "1", **more})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = path.strip("/").split("/")
        if parts[0] == "api" and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], body)
        elif "resolve" in parts:
            kind, start = ("datasets", 1) if parts[0] == "datasets" else ("models", 0)
            name, rest = "/".join(parts[start : start + 2]), parts[start + 3 :]
            self._file(kind, name, rest[0], "/".join(rest[1:]))
        else:
            self._fail(404, "EntryNotFound")

    def _api(self, kind: str, name: str, rest: list[str], body: bytes) -> None:
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        found = self._files(kind, name, revision)
        if found is None:
            return
        sha, files = found
        if what == "revision":
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": sha, "private": False, "siblings": siblings})
        elif what == "tree":
            self._json(self._tree(files, "/".join(rest[2:]), "recursive=true" in self.path.lower()))
        elif what == "paths-info":
            wanted = json.loads(body)["paths"]
            below = [self._entry(p, files[p]) for p in files if p in wanted]
            folders = [p for p in wanted if any(f.startswith(f"{p}/") for f in files)]
            self._json(below + [{"type": "directory", "path": p, "oid": "0" * 40} for p in folders])

    def _tree(self, files: dict[str, bytes], under: str, recursive: bool) -> list[dict[str, Any]]:
        before = f"{under}/" if under else ""
        below = {p: data for p, data in files.items() if p.startswith(before)}
        depth = len(before.split("/"))
        folders = {
            "/".join(p.split("/")[:n]) for p in below for n in range(depth, len(p.split("/")))
        }
        entries = [self._entry(p, data) for p, data in below.items()]
        entries += [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
        if not recursive:
            entries = [e for e in entries if "/" not in e["path"].removeprefix(before)]
        return entries

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        found = hash_of(path, content)
        entry = {"type": "file", "path": path, "size": len(content), "oid": found[:40]}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": found, "size": len(content), "pointerSize": 134}
        return self.hub.listed(entry)

    def _files(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.hub.commits.get((kind, name))
        if commits is None:
            self._fail(401, "RepoNotFound")
            return None
        sha = self.hub.refs.get((kind, name), {}).get(revision, revision)
        if sha not in commits:
            self._fail(404, "RevisionNotFound")
            return None
        return sha, commits[sha]

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        found = self._files(kind, name, revision)
        if found is None:
            return
        sha, files = found
        if name in self.hub.gated:
            self._fail(self.hub.gated[name], "GatedRepo")
            return
        if path not in files:
            self._fail(404, "EntryNotFound", {"X-Repo-Commit": sha})
            return
        content = files[path]
        etag = f'"{hash_of(path, content)}"'
        headers = {"X-Repo-Commit": sha, "ETag": etag, "Accept-Ranges": "bytes"}
        if path.endswith(LARGE):
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        if path in self.hub.lies:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self._send(content, headers)

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if self.headers.get("Range") else 200)
        if self.headers.get("Range"):
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = content[start:]
        if self.hub.cut_after is not None and len(sent) > self.hub.cut_after:
            sent, self.hub.cut_after = sent[: self.hub.cut_after], None
            self.close_connection = True
        for at in range(0, len(sent), 1 << 16):
            time.sleep(self.hub.pause)
            self.wfile.write(sent[at : at + (1 << 16)])

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Error-Code": code, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub():
    """A hub of one's own, empty; `hub.url` is its address."""
    made = Hub()
    handler = type("Bound", (Handler,), {"hub": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def asking(hub, tmp_path, monkeypatch):
    """Let this process ask the hub, with a cache of its own; returns the cache."""
    import datasets.config
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "sets")
    return cache


@pytest.fixture
def offline(monkeypatch):
    """`offline()`: from now on this process asks no hub."""
    import datasets.config
    from huggingface_hub import constants

    def forbid() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    return forbid
