"""Servers that steps share: their start, their key, and every way in which they fail."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import services
from pipeline.errors import StepFailed
from pipeline.services import Server, free_port
from pipeline.step import Service, Step
from pipeline.store import Store
from tests.pipeline.test_run import _alive
from tests.pipeline.toy import number, server


def starts(store: Path) -> list[tuple[int, int]]:
    """Process and port of each start of the toy server, in their order."""
    (record,) = store.glob("cache/starts-*")
    return [(int(pid), int(port)) for pid, port in map(str.split, record.read_text().splitlines())]


def assert_nothing_is_left(store: Path) -> None:
    for pid, port in starts(store):
        assert not _alive(pid)
        assert services.is_free("127.0.0.1", port)


@pytest.fixture
def toy(recipe):
    """A recipe whose only server is in that mode."""

    def write(mode: str, more: str = "") -> Path:
        return recipe(f"name: toy\ntracks: {{a: {{value: 1, ask: true, server: {{mode: {mode}{more}}}}}}}\n")

    return write


@pytest.fixture
def start(recipe, pipeline, tmp_path) -> Callable[[], Server]:
    """Start a server whose model is there."""
    assert pipeline("run", recipe("name: toy\ntracks: {a: {value: 1}}\n")).returncode == 0
    model = Step("number", number.Config(value=1), name="a/number")
    service = Service("server", server.Config(), {"model": model})
    return lambda: Server.start(service, Store(tmp_path / "store"), lambda _: None)


def test_each_server_has_a_key_of_its_own_that_is_on_no_command_line(toy, pipeline, tmp_path):
    done = pipeline("run", toy("asks for key"))
    assert done.returncode == 0, done.stderr
    assert_nothing_is_left(tmp_path / "store")


def test_the_key_is_in_the_environment_only(start, tmp_path):
    running = start()
    try:
        ((pid, _),) = starts(tmp_path / "store")
        process = Path(f"/proc/{pid}")
        assert running.key and len(running.key) >= 32
        assert f"PIPELINE_SERVER_KEY={running.key}\0TOY" in (process / "environ").read_text()
        assert running.key not in (process / "cmdline").read_text()
        assert running.environment() == {"PIPELINE_SERVER_KEY": running.key}
    finally:
        running.stop()


def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(start, monkeypatch, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = iter([taken, free_port()])
        monkeypatch.setattr(services, "free_port", lambda _host: next(ports))
        running = start()
        running.stop()
    assert [port for _, port in starts(tmp_path / "store")] == [taken, running.port]


def test_taken_ports_are_not_tried_for_ever(start, monkeypatch, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(services, "free_port", lambda _host: other.getsockname()[1])
        with pytest.raises(StepFailed, match="another program has its port"):
            start()
    assert len(starts(tmp_path / "store")) == services.NUM_PORTS


@pytest.mark.parametrize(
    ("mode", "message", "num_starts"),
    [
        ("ends", "ended with exit code 1; the end of", 1),
        ("never ready", "not ready after 3 s", 1),
        ("garbage", "not ready after 3 s", 1),
        ("other name", "serves another, expected toy-", services.NUM_PORTS),
    ],
)
def test_a_server_that_never_serves_the_model_fails_the_run(mode, message, num_starts, toy, pipeline, tmp_path):
    failed = pipeline("run", toy(mode))
    assert failed.returncode == 1
    assert message in failed.stderr
    assert mode == "other name" or "the toy server starts" in failed.stderr
    assert len(starts(tmp_path / "store")) == num_starts
    assert_nothing_is_left(tmp_path / "store")
