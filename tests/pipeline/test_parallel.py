"""`run --max-parallel N`: steps overlap in time, within limits; failures and stops leave everything resumable."""

import itertools
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.machine import cpu_count
from tests.pipeline.conftest import ROOT
from tests.pipeline.test_run import _wait_for

two_cores = pytest.mark.skipif(cpu_count() < 2, reason="steps beside each other need a core each")


def tracks(each: str, number: int, rest: str = "") -> str:
    """A recipe of so many independent numbers."""
    return f"name: toy\ntracks: {{{', '.join(f't{i}: {{value: {i}, {each}}}' for i in range(number))}}}\n{rest}"


def metrics(store: Path) -> dict[int, dict]:
    """By value: what the step returned."""
    found = [json.loads(file.read_text())["metrics"] for file in store.glob("number/*/manifest.json")]
    return {each["value"]: each for each in found}


def overlaps(found: dict[int, dict]) -> set[tuple[int, int]]:
    """Pairs of steps that were at work at the same time."""
    return {
        (one, two)
        for one, two in itertools.combinations(sorted(found), 2)
        if found[one]["started"] < found[two]["ended"] and found[two]["started"] < found[one]["ended"]
    }


@two_cores
def test_steps_overlap_on_cores_of_their_own_and_never_more_than_asked(recipe, pipeline, tmp_path):
    path = recipe(tracks("pause_seconds: 1.0", 4))
    done = pipeline("run", path, "--max-parallel", 2)
    assert done.returncode == 0, done.stderr
    assert "total 6.0" in done.stdout
    found = metrics(tmp_path / "store")
    pairs = overlaps(found)
    assert pairs
    assert not any({(a, b), (b, c), (a, c)} <= pairs for a, b, c in itertools.combinations(range(4), 3))
    if cpu_count() == len(os.sched_getaffinity(0)):
        assert all(not {*found[one]["cores"]} & {*found[two]["cores"]} for one, two in pairs)
    assert all(found[one]["num_cores"] + found[two]["num_cores"] <= cpu_count() for one, two in pairs)


@pytest.mark.parametrize(
    ("options", "rest"),
    [([], ""), (["--max-parallel", "2"], f"resources: {{num_threads: {cpu_count()}}}"),
     (["--max-parallel", "2"], "resources: {num_threads: 100000}")],
)  # fmt: skip
def test_steps_that_do_not_fit_or_were_not_asked_to_run_one_after_the_other(options, rest, recipe, pipeline, tmp_path):
    done = pipeline("run", recipe(tracks("pause_seconds: 0.3", 2, rest)), *options)
    assert done.returncode == 0, done.stderr
    found = metrics(tmp_path / "store")
    assert len(found) == 2 and not overlaps(found)
    assert {each["num_cores"] for each in found.values()} == {cpu_count()}


@two_cores
def test_each_gets_a_gpu_of_its_own_among_those_that_are_visible(recipe, pipeline, tmp_path, monkeypatch):
    (tmp_path / "programs").mkdir()
    program = tmp_path / "programs" / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor i in 0 1 2 3; do echo $i, GPU-$i, A, 24000, 24000; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    text = tracks("pause_seconds: 0.7", 3, "resources: {num_processes: 1}")
    done = pipeline("run", recipe(text), "--max-parallel", 3)
    assert done.returncode == 0, done.stderr
    found = metrics(tmp_path / "store")
    assert overlaps(found)
    assert all(found[one]["gpus"] != found[two]["gpus"] for one, two in overlaps(found))
    assert {each["gpus"] for each in found.values()} <= {"GPU-1", "GPU-3", "1,3"}  # the last one has all for itself


@two_cores
def test_after_a_failure_what_runs_is_finished_and_nothing_else_starts(recipe, pipeline, tmp_path):
    text = "name: toy\ntracks: {bad: {value: 1, pause_seconds: 0.3, fail: true}, "
    text += "good: {value: 2, pause_seconds: 1.5}, later: {value: 3}}"
    failed = pipeline("run", recipe(text), "--max-parallel", 2)
    assert failed.returncode == 1
    assert "step bad/number failed (exit code 1)" in failed.stderr and "the number was asked to fail" in failed.stderr
    assert "--max-parallel 2" in failed.stderr
    assert "failed  bad/number" in failed.stdout and "what runs is finished first: good/number" in failed.stdout
    assert "done  good/number" in failed.stdout and "later/number ..." not in failed.stdout
    assert metrics(tmp_path / "store").keys() == {2}


@two_cores
def test_a_stop_stops_all_and_each_resumes(recipe, pipeline, command, tmp_path):
    store = tmp_path / "store"
    path = recipe(tracks("pause_seconds: 3.0, save_seconds: 0.1", 2))
    process = subprocess.Popen(command("run", path, "--max-parallel", 2), cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    _wait_for(lambda: len(list(store.glob("number/*.partial/.progress.json"))) == 2)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75 and "--max-parallel 2" in errors
    assert len(list(store.glob("number/*.partial/.saved"))) == 2
    resumed = pipeline("run", path, "--max-parallel", 2)
    assert resumed.returncode == 0, resumed.stderr
    assert {each["attempts"] for each in metrics(store).values()} == {2}


def test_a_number_of_steps_is_at_least_one(recipe, pipeline):
    refused = pipeline("run", recipe(tracks("pause_seconds: 0", 1)), "--max-parallel", 0)
    assert refused.returncode == 2 and "must be a number >= 1" in refused.stderr
