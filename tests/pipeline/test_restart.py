"""A server that ends or hangs under its clients: noticed within seconds, started again once, then a clear failure."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.pulse import Watch
from tests.pipeline.conftest import ROOT
from tests.pipeline.test_clients import metrics, num_answers
from tests.pipeline.test_run import _wait_for
from tests.pipeline.test_servers import assert_nothing_is_left, starts


def three_questions(server: str, num_answers: int = 4, pause_seconds: float = 0.1) -> str:
    """A recipe that asks three times as many answers of a server with these settings."""
    question = f"{{num_answers: {num_answers}, pause_seconds: {pause_seconds}}}"
    questions = f"{{one: {question}, two: {question}, three: {question}}}"
    return f"name: toy\ntracks: {{a: {{value: 1, server: {{{server}}}, questions: {questions}}}}}\n"


@pytest.mark.parametrize(
    ("mode", "trouble"),
    [("dies", "ended with exit code 3"), ("hangs", "hangs: no answer for"), ("stalls", "hangs: nothing done for")],
)
def test_it_is_started_again_and_asked_what_is_unanswered(mode, trouble, recipe, pipeline, tmp_path):
    done = pipeline("run", recipe(three_questions(f"mode: {mode} once, num_answers: 5")))
    assert done.returncode == 0, done.stderr
    assert f"the server {trouble}" in done.stdout and "it is started again" in done.stdout
    store = tmp_path / "store"
    assert len(starts(store)) == 2
    answers = metrics(store)
    assert answers.keys() == {"one", "two", "three"} and num_answers(store) == 12
    assert 0 < sum(answer["num_asked"] for answer in answers.values()) < 12  # some had come from the first
    assert_nothing_is_left(store)


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "trouble"), [("die", "ended with exit code 3"), ("hang", "hangs: no answer for")])
def test_the_second_time_the_run_fails_with_the_end_of_the_log(asked, trouble, recipe, pipeline, tmp_path):
    path = recipe(three_questions(f"mode: {asked}s, num_answers: 2"))
    failed = pipeline("run", path)
    assert failed.returncode == 1
    assert f"the server (server) {trouble}" in failed.stderr
    assert f"the toy server was asked to {asked}" in failed.stderr
    assert "it was started again once already" in failed.stderr
    assert f"continue with: python -m pipeline run {path}" in failed.stderr
    store = tmp_path / "store"
    assert len(starts(store)) == 2
    assert_nothing_is_left(store)
    assert 2 <= num_answers(store) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_signal_from_outside_is_noticed_within_seconds(number, recipe, command, tmp_path):
    store = tmp_path / "store"
    process = subprocess.Popen(
        command("run", recipe(three_questions("num_answers: 999", num_answers=40))), cwd=ROOT, stdout=subprocess.PIPE
    )
    _wait_for(lambda: num_answers(store) >= 6)
    ((pid, _),) = starts(store)
    num_known = num_answers(store)
    os.kill(pid, number)
    sent = time.monotonic()
    _wait_for(lambda: len(starts(store)) == 2)
    assert time.monotonic() - sent < 15.0
    assert process.wait(timeout=60) == 0
    asked = sum(answer["num_asked"] for answer in metrics(store).values())
    assert num_answers(store) == 120 and asked <= 120 - num_known
    assert_nothing_is_left(store)


@pytest.mark.slow
@pytest.mark.parametrize(("answer_seconds", "pause_seconds"), [(2.0, 0.0), (0.0, 2.0)])
def test_neither_slow_work_nor_idleness_is_a_hang(answer_seconds, pause_seconds, recipe, pipeline, tmp_path):
    settings = f"hang_timeout_seconds: 0.8, num_answers: 99, answer_seconds: {answer_seconds}"
    done = pipeline("run", recipe(three_questions(settings, 1, pause_seconds)))
    assert done.returncode == 0, done.stderr
    assert len(starts(tmp_path / "store")) == 1


class Heart:
    """Beats as told."""

    def __init__(self, *beats: object) -> None:
        self.beats = list(beats)

    def __call__(self, _timeout_seconds: float) -> object:
        beat = self.beats.pop(0) if len(self.beats) > 1 else self.beats[0]
        if isinstance(beat, Exception):
            raise beat
        return beat


@pytest.mark.parametrize(
    ("beats", "trouble"),
    [
        ([None], None),
        ([(1, 7)], "nothing done"),
        ([ConnectionError()], "no answer"),
        ([ValueError()], "no answer"),
        ([(1, 7), (1, 8), None], None),
        ([None, ConnectionError()], "no answer"),
        ([(1, 7), *(3 * [ConnectionError()]), (1, 7)], "nothing done"),
        (list(range(1000)), None),
    ],
)
def test_only_no_answer_and_no_progress_with_work_is_a_hang(beats, trouble):
    watch = Watch(Heart(*beats), 0.2)
    time.sleep(0.6)
    found = watch.trouble()
    watch.stop()
    assert found is None if trouble is None else (found is not None and trouble in found)


def test_a_server_may_work_for_long_but_not_be_silent_for_long(monkeypatch):
    monkeypatch.setattr("pipeline.pulse.NO_ANSWER_SECONDS", 0.3)
    working, silent = Watch(Heart((1, 7)), 4.0), Watch(Heart(ConnectionError()), 4.0)
    time.sleep(1.5)
    assert working.trouble() is None
    assert "no answer" in (silent.trouble() or "")
    working.stop()
    silent.stop()


def test_time_in_which_the_watcher_itself_was_stopped_does_not_count(tmp_path: Path):
    code = (
        "import time; from pipeline.pulse import Watch\n"
        "watch = Watch(lambda _: 1, 2.0); print('ready', flush=True)\n"
        "time.sleep(0.5); print(watch.trouble())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=10)[0] == "None\n"
