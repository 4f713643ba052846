"""Several steps that ask one server at once: they share it, fail and stop together, and resume."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT
from tests.pipeline.test_run import _alive, _wait_for
from tests.pipeline.test_servers import assert_nothing_is_left, starts


def questions(**each: str) -> str:
    """A recipe with one server that is asked these questions."""
    asked = ", ".join(f"{name}: {{{settings}}}" for name, settings in each.items())
    return f"name: toy\ncount: true\ntracks: {{a: {{value: 1, questions: {{{asked}}}}}}}\n"


def metrics(store: Path, stage: str = "ask") -> dict[str, dict]:
    """By question: what the step returned."""
    found = [json.loads(file.read_text()) for file in store.glob(f"{stage}/*/manifest.json")]
    return {manifest["config"]["question"]: manifest["metrics"] for manifest in found}


def num_answers(store: Path) -> int:
    """Those that are written down, also by steps that are not done."""
    return sum(len(file.read_text().splitlines()) for file in store.glob("ask/*/answers.jsonl"))


def test_questions_to_one_server_are_asked_at_the_same_time(recipe, pipeline, tmp_path):
    slow = "pause_seconds: 2.0"
    done = pipeline("run", recipe(questions(first=slow, second=slow, third=f"{slow}, after: first")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("server for a/number ...") == len(starts(tmp_path / "store")) == 1
    answers = metrics(tmp_path / "store")
    assert answers["first"]["started"] < answers["second"]["ended"]
    assert answers["second"]["started"] < answers["first"]["ended"] < answers["third"]["started"]
    assert done.stdout.index("a/second ...") < done.stdout.index("done  a/first")
    assert "total 4.0" in done.stdout
    assert_nothing_is_left(tmp_path / "store")


@pytest.mark.parametrize("has_gpu", [True, False])
def test_scoring_goes_on_beside_a_server_that_leaves_it_the_cores(has_gpu, recipe, pipeline, tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{'echo 0, GPU-1, A, 24000, 24000' if has_gpu else 'exit 1'}\n")
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    done = pipeline("run", recipe(questions(fast="num_answers: 1", slow="num_answers: 40, pause_seconds: 0.1")))
    assert done.returncode == 0, done.stderr
    assert (done.stdout.index("a/fast/count ...") < done.stdout.index("done  a/slow")) == has_gpu


def test_a_failure_stops_the_others_so_that_they_resume(recipe, pipeline, tmp_path):
    text = questions(bad="num_answers: 3, pause_seconds: 2.0, fail: true", good="num_answers: 60, pause_seconds: 0.1")
    failed = pipeline("run", recipe(text))
    assert failed.returncode == 1
    assert "step a/bad failed (exit code 1)" in failed.stderr and "bad was asked to fail" in failed.stderr
    assert "stopped  a/good" in failed.stdout
    assert_nothing_is_left(tmp_path / "store")
    num_known = num_answers(tmp_path / "store")
    assert 0 < num_known < 60
    finished = pipeline("run", recipe(text), "--only", "a/good")
    assert finished.returncode == 0, finished.stderr
    assert metrics(tmp_path / "store")["good"]["num_asked"] == 60 - num_known


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_in_the_middle_nothing_is_left_and_nothing_asked_twice(
    number, recipe, pipeline, command, tmp_path
):
    store, each = tmp_path / "store", "num_answers: 30, pause_seconds: 0.1"
    path = recipe(questions(first=each, second=each, third=each))
    process = subprocess.Popen(
        command("run", path), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for(lambda: len(list(store.glob("ask/*.partial/answers.jsonl"))) == 3 and num_answers(store) >= 6)
    holders = [json.loads(file.read_text())["pid"] for file in store.glob("locks/ask-*") if file.stat().st_size]
    assert len(holders) == 3
    os.kill(process.pid, number)
    assert process.wait(timeout=30) == (-number if number == signal.SIGKILL else 75)
    ((server_pid, _),) = starts(store)
    _wait_for(lambda: not any(map(_alive, [*holders, server_pid])), seconds=10)
    num_known = num_answers(store)
    assert num_known < 90
    resumed = pipeline("run", path)
    assert resumed.returncode == 0, resumed.stderr
    assert sum(answer["num_asked"] for answer in metrics(store).values()) == 90 - num_known


def test_status_names_all_steps_that_run(recipe, pipeline, command, tmp_path):
    each = "num_answers: 200, pause_seconds: 0.1"
    path = recipe(questions(first=each, second=each))
    process = subprocess.Popen(command("run", path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(lambda: num_answers(tmp_path / "store") >= 4)
    lines = pipeline("status", path).stdout.splitlines()
    process.terminate()
    assert process.wait(timeout=30) == 75
    running = [line for line in lines if " running " in line]
    assert [line.split()[0] for line in running] == ["a/first", "a/second"]
    assert all("/200" in line for line in running)
