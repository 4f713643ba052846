"""A call that does not end, eats the memory or breaks its process costs its own result and nothing else."""

import os
import signal
import time

import pytest

from pipeline.errors import StepFailed
from stages.benchmarks import _bounded
from stages.benchmarks._bounded import bounded_map


def double(number: int) -> int:
    return 2 * number


def misbehave(how: str) -> str:
    if how == "power":
        return str(len(bytes((9**9**9) % 2)))  # one operation of the interpreter, which no signal handler interrupts
    if how == "memory":
        return str(len(bytearray(64 * 1024**3)))
    if how == "raise":
        raise ValueError(how)
    if how == "exit":
        os._exit(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return how


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def unpicklable(_: int) -> object:
    return lambda: None


def test_results_are_in_order():
    assert bounded_map(double, [(number,) for number in range(50)], 5) == [2 * number for number in range(50)]
    assert bounded_map(double, [], 5) == []


def test_only_the_bad_calls_have_no_result():
    calls = ["fine", "power", "good", "memory", "raise", "well", "exit", "kill", "all right"]
    started = time.monotonic()
    assert bounded_map(misbehave, [(each,) for each in calls], 3) == [
        *["fine", None, "good", None, None, "well", None, None, "all right"]
    ]
    assert time.monotonic() - started < 60


def test_a_call_that_only_waits_is_ended_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_bounded, "PATIENCE", 1.0)
    assert bounded_map(sleep, [(600.0,), (0.0,)], 1) == [None, 0.0]


def test_a_result_that_cannot_be_sent_is_none():
    assert bounded_map(unpicklable, [(1,)], 5) == [None]


def test_no_process_is_left(monkeypatch: pytest.MonkeyPatch):
    ended = []
    end = _bounded._Worker.end

    def watch(worker: _bounded._Worker) -> None:
        process = worker._process
        end(worker)
        ended.append(process and process.poll())

    monkeypatch.setattr(_bounded._Worker, "end", watch)
    bounded_map(double, [(1,)], 5)
    assert ended == [-signal.SIGKILL]


def test_a_machine_that_starts_no_process_is_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_bounded, "SERVE", "raise SystemExit(3)")
    with pytest.raises(StepFailed, match="did not start"):
        bounded_map(double, [(1,)], 5)
