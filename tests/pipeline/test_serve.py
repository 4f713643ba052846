"""`serve`: a finished model for people, with a key where others could reach it, until it is told to stop."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.services import free_port
from tests.pipeline.conftest import ROOT
from tests.pipeline.test_run import _wait_for
from tests.pipeline.test_servers import assert_nothing_is_left, starts

ONE = "name: toy\ntracks: {a: {value: 1, server: {mode: MODE}}}\n"


@pytest.fixture
def toy(recipe, pipeline) -> Callable[[str], Path]:
    """A recipe that ran, whose server is in that mode."""

    def write(mode: str) -> Path:
        path = recipe(ONE.replace("MODE", mode))
        assert pipeline("run", path).returncode == 0
        return path

    return write


@contextlib.contextmanager
def serving(command: list[str], **environment: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The running command and what it printed until it was ready."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines: list[str] = []
    try:
        assert process.stdout
        while not lines or not lines[-1].startswith("Ctrl-C"):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()[1]
        yield process, "".join(lines)
    finally:
        process.kill()
        process.communicate()


def models(url: str, key: str | None = None) -> list[str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/models", headers=headers), timeout=10) as response:
        return [model["id"] for model in json.load(response)["data"]]


def said(name: str, text: str) -> str:
    found = re.search(rf"^{name} +(\S+)", text, re.MULTILINE)
    assert found, text
    return found[1].removesuffix(",")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_only_track_until_it_is_stopped(number, toy, command, tmp_path):
    port = free_port()
    with serving(command("serve", toy("well"), "--port", port)) as (process, text):
        assert said("URL", text) == f"http://127.0.0.1:{port}/v1"
        assert models(said("URL", text)) == [said("model", text)]
        assert said("serving", text) == "a"
        assert f"curl http://127.0.0.1:{port}/v1/chat/completions" in text and "Authorization" not in text
        ((pid, _),) = starts(tmp_path / "store")
        assert b"PIPELINE_SERVER_KEY" not in Path(f"/proc/{pid}/environ").read_bytes()
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
    assert_nothing_is_left(tmp_path / "store")


def test_on_another_address_it_asks_for_a_key_that_it_prints(toy, command):
    words = command("serve", toy("asks for key"), "--host", "0.0.0.0", "--port", free_port())
    with serving(words) as (_, text):
        key = text.partition("export PIPELINE_SERVER_KEY=")[2].partition("\n")[0]
        assert len(key) >= 32 and '"Authorization: Bearer $PIPELINE_SERVER_KEY"' in text
        assert models(said("URL", text), key) == [said("model", text)]
        with pytest.raises(urllib.error.HTTPError):
            models(said("URL", text), "another")


def test_a_key_of_the_users_own_is_taken_and_not_printed(toy, command):
    words = command("serve", toy("asks for key"), "--port", free_port())
    with serving(words, PIPELINE_SERVER_KEY="my own") as (_, text):
        assert "my own" not in text
        assert models(said("URL", text), "my own") == [said("model", text)]


def test_kill_9_leaves_no_server(toy, command, tmp_path):
    with serving(command("serve", toy("well"), "--port", free_port())) as (process, _):
        process.kill()
        process.wait()
    ((pid, _),) = starts(tmp_path / "store")
    _wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_server_that_ends_is_a_failure_with_its_log(toy, command, tmp_path):
    with serving(command("serve", toy("well"), "--port", free_port())) as (process, _):
        ((pid, _),) = starts(tmp_path / "store")
        os.kill(pid, signal.SIGKILL)
        errors = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert "the server (server) ended with exit code 137" in errors and "the toy server starts" in errors


def test_what_cannot_be_served_is_said_in_a_line(recipe, pipeline, toy):
    one = toy("well")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = pipeline("serve", one, "--port", other.getsockname()[1])
    assert (taken.returncode, "is taken by another program" in taken.stderr) == (2, True)
    elsewhere = pipeline("serve", one, "--host", "192.0.2.1")
    assert (elsewhere.returncode, "cannot be listened on" in elsewhere.stderr) == (2, True)
    two = recipe("name: toy\ntracks: {a: {value: 1}, b: {value: 2}}\n")
    unnamed = pipeline("serve", two)
    assert (unnamed.returncode, unnamed.stderr) == (2, "--track: found no name, expected one of a, b, base\n")
    unknown = pipeline("serve", two, "--track", "c")
    assert (unknown.returncode, unknown.stderr) == (2, "--track: found c, expected one of a, b, base\n")
    undone = pipeline("serve", two, "--track", "b", "--port", free_port())
    assert undone.returncode == 2
    assert undone.stderr.startswith(
        "b/number: is not done yet, so there is nothing to serve; first: python -m pipeline"
    )
    assert undone.stderr.endswith("--until b/number\n")
