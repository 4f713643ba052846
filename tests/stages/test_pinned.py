"""A pinned file is fetched once, has the content that was pinned, and is asked for in vain with one clear line."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import UserError
from stages._data import pinned

CONTENT = b'{"question_id": 1}\n'
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has /here and nothing else, and the methods of the requests it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(CONTENT)

        def do_HEAD(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            asked.append(self.command)
            self.send_response(200 if self.path == "/here" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}", asked
    running.shutdown()
    running.server_close()


def test_it_is_fetched_once_and_kept_whole(server: tuple[str, list[str]]):
    url, asked = server
    file = pinned.Pinned(f"{url}/here", SHA256)
    assert pinned.read(file) == pinned.read(file) == CONTENT
    assert asked == ["GET"]
    assert [each.name for each in pinned.cache_dir().iterdir()] == [SHA256]


def test_other_content_is_never_kept(server: tuple[str, list[str]]):
    file = pinned.Pinned(f"{server[0]}/here", "0" * 64)
    with pytest.raises(UserError, match=r"/here: found sha256 .*, expected 000000000000\.\.\.: the file has changed"):
        pinned.read(file)
    assert not file.path.exists()


def test_what_changed_in_the_cache_is_noticed_when_it_is_read(server: tuple[str, list[str]]):
    file = pinned.Pinned(f"{server[0]}/here", SHA256)
    pinned.read(file)
    file.path.write_bytes(b"other")
    with pytest.raises(UserError, match=rf"{SHA256}: found sha256 .*delete it and run again"):
        pinned.read(file)
    assert "delete it and run again" in (pinned.problem(file) or "")


def test_the_status_of_the_server_is_said(server: tuple[str, list[str]]):
    file = pinned.Pinned(f"{server[0]}/elsewhere", SHA256)
    with pytest.raises(UserError, match="answered 404, expected 200; copy it to"):
        pinned.read(file)
    assert "cannot be had (404); copy it to" in (pinned.problem(file) or "")


def test_without_network_a_copy_in_the_cache_does_as_well(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = pinned.Pinned("http://127.0.0.1:9/here", SHA256)
    line = f"HF_HUB_OFFLINE is set; copy it to {file.path}, or name a file of your own in the recipe"
    assert line in (pinned.problem(file) or "")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        pinned.read(file)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(CONTENT)
    assert pinned.problem(file) is None
    assert pinned.read(file) == CONTENT


def test_an_address_that_nobody_answers_is_said():
    file = pinned.Pinned("http://127.0.0.1:9/here", SHA256)
    assert "cannot be had ([Errno 111] Connection refused)" in (pinned.problem(file) or "")
    with pytest.raises(UserError, match="cannot be reached"):
        pinned.read(file)


def test_preflight_asks_for_the_head_only(server: tuple[str, list[str]]):
    assert pinned.problem(pinned.Pinned(f"{server[0]}/here", SHA256)) is None
    assert server[1] == ["HEAD"]
