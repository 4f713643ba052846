"""A small HTTP server that speaks the hub's API as far as downloads use it, and one file of the web beside it.

Large files are redirected to another path, as the hub redirects to its store, with range requests and hashes.
"""

import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 2_000
"""From this size on a file is kept by LFS here."""


@dataclass
class Repository:
    """`commits`: commit -> path -> content."""

    commits: dict[str, dict[str, bytes]]
    main: str


@dataclass
class Hub:
    """What it has, how it misbehaves, and what it was asked for."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    """By "models/ORG/NAME" or "datasets/ORG/NAME"."""
    web: dict[str, bytes] = field(default_factory=dict)
    gated: dict[str, int] = field(default_factory=dict)
    """Repository -> how it answers requests for its files without the token."""
    token: str = "the-token"
    breaks: dict[str, int] = field(default_factory=dict)
    """File name -> how often its connection breaks half-way."""
    wrong: set[str] = field(default_factory=set)
    """File names that arrive with one byte changed."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, range)"""
    leaks: list[str] = field(default_factory=list)
    """Paths outside of the hub for which the token was sent."""
    url: str = ""

    def add(self, repository: str, files: dict[str, bytes], commit: str) -> None:
        kept = self.repositories.setdefault(repository, Repository({}, commit))
        kept.commits[commit], kept.main = files, commit

    def start(self) -> http.server.ThreadingHTTPServer:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        return server


def folder_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        words = path.strip("/").split("/")
        if words[0] in ("store", "web") and "Authorization" in self.headers:
            self.hub.leaks.append(path)
        if words[0] == "api":
            self._api(words[1:])
        elif words[0] == "web":
            self._content(self.hub.web.get(words[1]), words[1])
        elif words[0] == "store":
            self._content(self._stored(words[1]), words[2])
        else:
            self._resolve(words if words[0] == "datasets" else ["models", *words])

    do_HEAD = do_GET  # noqa: N815

    def _api(self, words: list[str]) -> None:
        name, rest = "/".join(words[:3]), words[3:]
        repository = self.hub.repositories.get(name)
        revision = "/".join(rest[1:]) or "main"
        commit = repository and (repository.main if revision == "main" else revision)
        if repository is None:
            self._error(404, "RepoNotFound")
        elif commit not in repository.commits:
            self._error(404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            self._json([_entry(path, content) for path, content in repository.commits[commit].items()])
        else:
            self._json({"id": "/".join(words[1:3]), "sha": commit, "siblings": [], "private": False, "tags": []})

    def _resolve(self, words: list[str]) -> None:
        name, commit, path = "/".join(words[:3]), words[4], "/".join(words[5:])
        repository = self.hub.repositories.get(name)
        commit = repository.main if repository and commit == "main" else commit
        content = repository.commits.get(commit, {}).get(path) if repository else None
        if content is None:
            self._error(404, "EntryNotFound")
        elif name in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._error(self.hub.gated[name], "GatedRepo")
        elif len(content) >= LARGE_BYTES:
            linked = {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content))}
            store = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as the hub's store is
            place = {"X-Repo-Commit": commit, "Location": f"{store}/store/{_sha256(content)}/{path}"}
            self._answer(302, b"", {**linked, **place})
        else:
            self._content(content, path, {"ETag": f'"{git_sha1(content)}"', "X-Repo-Commit": commit})

    def _stored(self, sha256: str) -> bytes | None:
        every = (
            content
            for repository in self.hub.repositories.values()
            for files in repository.commits.values()
            for content in files.values()
        )
        return next((content for content in every if _sha256(content) == sha256), None)

    def _content(self, content: bytes | None, name: str, headers: dict[str, str] | None = None) -> None:
        if content is None:
            return self._error(404, "EntryNotFound")
        if name in self.hub.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, total = _start(self.headers.get("Range", "")), len(content)
        ranged = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        breaks = self.command == "GET" and self.hub.breaks.get(name, 0) > 0
        if breaks:
            self.hub.breaks[name] -= 1
        headers = {**(headers or {}), **ranged}
        return self._answer(206 if start else 200, content[start:], headers, cut=breaks)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        pass


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": git_sha1(content), "size": len(content), "path": path}
    if len(content) >= LARGE_BYTES:
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _start(ranged: str) -> int:
    return int(ranged.removeprefix("bytes=").partition("-")[0]) if ranged else 0
