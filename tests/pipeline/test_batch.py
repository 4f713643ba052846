"""What a batch job runs, without Slurm: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import plan as plans
from pipeline.guard import descendants
from pipeline.plan import Plan
from pipeline.slurm import submission as submissions
from pipeline.slurm.giving_up import num_timeouts_in_a_row
from pipeline.slurm.submission import Event, Job, Submission
from pipeline.store import Store
from tests.pipeline.conftest import ROOT
from tests.pipeline.test_run import _alive, _wait_for, manifest

ID = "20260101-000000-toy-abcd"
PROGRESS_FILES = "number/*.partial/.progress.json"
SLOW = "name: toy\ntracks: {a: {value: 1, pause_seconds: 1000}}\n"


class Batch:
    """One submission of one job with one task: all steps of a recipe, or those named."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.store = Store(root / "store")
        self.plan = plans.load(path, [])

    def submit(self, *names: str, max_timeouts_without_progress: int = 3) -> "Batch":
        folder = submissions.folder(self.store, ID)
        folder.mkdir(parents=True)
        chosen = [self.plan.find(name) for name in names] or self.plan.steps
        job = Job(name="job", kind="prepare", tasks=[[submissions.piece(step) for step in chosen]])
        (folder / "recipes.json").write_text(json.dumps(plans.frozen(self.plan)))
        submissions.write(
            self.store,
            Submission(
                id=ID,
                recipe=self.path,
                cluster=Path("/mine.yaml"),
                submitted_at=submissions.now(),
                jobs=[job],
                max_timeouts_without_progress=max_timeouts_without_progress,
            ),
        )
        return self

    def start(self, **environment: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "pipeline.slurm.batch", str(self.store.root), ID, "job", "0"]
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, **environment: str) -> tuple[int, str, str]:
        process = self.start(**environment)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def interrupted(self, number: int, **environment: str) -> tuple[int, str, str]:
        """Signalled once a step works."""
        began, process = time.time(), self.start(**environment)
        _wait_for(lambda: any(path.stat().st_mtime > began for path in self.store.root.glob(PROGRESS_FILES)))
        time.sleep(0.7)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def events(self) -> list[Event]:
        return submissions.events(self.store, ID, "job", 0)

    def happened(self) -> list[str]:
        return [event.what for event in self.events()]


@pytest.fixture
def batch(recipe, tmp_path, monkeypatch) -> Callable[[str], Batch]:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return lambda text: Batch(recipe(text), tmp_path)


def in_seconds(seconds: float) -> str:
    return str(round(time.time() + seconds))


def test_it_does_its_steps_and_says_so(batch, pipeline):
    task = batch("name: toy\ntracks: {a: {value: 1, ask: true}, b: {value: 2}}\n").submit()
    code, output, errors = task.run(SLURM_RESTART_COUNT="2", SLURMD_NODENAME="n7")
    assert code == 0, errors
    assert "on n7, start 3" in output
    started, finished = task.events()
    assert (started.what, started.node, started.restart) == ("started", "n7", 2)
    assert (finished.what, finished.exit_code) == ("finished", 0)
    assert "nothing to do" in pipeline("run", task.path).stdout
    assert task.run()[0] == 0 and task.happened() == ["started", "finished"] * 2  # Slurm started it once more


def test_steps_that_are_sealed_meanwhile_are_not_done_again(batch, pipeline, tmp_path):
    task = batch("name: toy\ntracks: {a: {value: 1}}\n").submit()
    assert pipeline("run", task.path, "--only", "a/number").returncode == 0
    code, output, errors = task.run()
    assert code == 0, errors
    assert "a/number ..." not in output and manifest(tmp_path / "store", "number")["metrics"]["attempts"] == 1


def test_close_to_the_time_limit_it_saves_and_asks_to_be_requeued(batch, tmp_path):
    task = batch("name: toy\ntracks: {a: {value: 1, pause_seconds: 3, save_seconds: 0}}\n").submit()
    code, output, errors = task.interrupted(signal.SIGUSR2, SLURM_JOB_END_TIME=in_seconds(100))
    assert code == 75, errors
    event = task.events()[-1]
    assert (event.what, event.is_timeout, event.exit_code) == ("requeued", True, 75)
    assert "its time limit was near" in event.reason and "its time limit was near" in output
    assert task.run(SLURM_RESTART_COUNT="1")[0] == 0
    made = manifest(tmp_path / "store", "number")
    assert made["metrics"]["attempts"] == 2 and made["duration_seconds"] < 3, "it went on where it was"


def test_after_some_time_limits_without_progress_it_gives_up(batch):
    task = batch(SLOW).submit(max_timeouts_without_progress=2)
    end = in_seconds(60)
    assert task.interrupted(signal.SIGUSR2, SLURM_JOB_END_TIME=end)[0] == 75
    assert task.interrupted(signal.SIGUSR2, SLURM_JOB_END_TIME=in_seconds(3600))[0] == 75  # by hand, which counts not
    code, output, _ = task.interrupted(signal.SIGUSR2, SLURM_JOB_END_TIME=end)
    assert code == 1 and "gave up: 2 time limits in a row without progress" in output
    assert task.happened() == ["started", "requeued", "started", "requeued", "started", "gave up"]
    assert "ask for more time" in task.events()[-1].reason


def test_time_limits_with_progress_go_on(batch):
    task = batch("name: toy\ntracks: {a: {value: 1, pause_seconds: 20, save_seconds: 0}}\n")
    task.submit(max_timeouts_without_progress=2)
    for _ in range(3):
        assert task.interrupted(signal.SIGUSR2)[0] == 75  # nobody says how much time is left
    progress = [event.progress for event in task.events() if event.is_timeout]
    assert progress[0] < progress[1] < progress[2], progress


def test_only_time_limits_in_a_row_without_progress_count():
    def timeout(progress: float | None) -> Event:
        return Event(at="", what="requeued", node="", is_timeout=True, progress=progress)

    preempted = Event(at="", what="requeued", node="", progress=0.0)
    assert num_timeouts_in_a_row([]) == 0
    assert num_timeouts_in_a_row([timeout(0.0), preempted, timeout(0.0), preempted]) == 2
    assert num_timeouts_in_a_row([timeout(None), timeout(None), timeout(None)]) == 3
    assert num_timeouts_in_a_row([timeout(0.0), timeout(0.0), timeout(0.3), timeout(1.1)]) == 1
    assert num_timeouts_in_a_row([timeout(1.3), timeout(0.001), timeout(1.301)]) == 3


def test_terminated_it_leaves_it_to_slurm_whether_to_go_on(batch):
    task = batch(SLOW).submit()
    code, _, errors = task.interrupted(signal.SIGTERM)
    assert code == 143, errors
    event = task.events()[-1]
    assert (event.what, event.is_timeout, event.exit_code) == ("stopped", False, 143)
    assert event.reason == "it was cancelled, or told to stop by hand"


def test_signals_to_every_process_twice_do_not_disturb_the_saving(batch, tmp_path):
    """As `scancel` does it, besides the script that hands its signal on."""
    task = batch("name: toy\ntracks: {a: {value: 1, pause_seconds: 2, save_seconds: 1}}\n").submit()
    process = task.start()
    _wait_for(lambda: list(task.store.root.glob(PROGRESS_FILES)))
    everyone = [process.pid, *descendants(process.pid)]
    assert len(everyone) == 3, "the batch, the guard of the step, the step"
    for _ in range(2):
        for pid in everyone:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
    assert process.wait(timeout=30) == 143
    assert next(task.store.root.glob("number/*.partial/.saved")).read_text()
    assert not any(map(_alive, everyone))


def test_a_failure_is_one_line_for_status(batch):
    task = batch("name: toy\nfail: true\ntracks: {a: {value: 1}}\n").submit()
    code, _, errors = task.run()
    assert code == 1 and "the end of its log" in errors
    event = task.events()[-1]
    assert event.what == "failed" and event.exit_code == 1
    assert event.reason == "step sum failed (exit code 1): the sum was asked to fail"


def test_the_preflight_of_its_own_steps_is_done_on_the_node(batch):
    task = batch("name: toy\ntracks: {a: {value: 13}}\n").submit()
    code, _, errors = task.run()
    assert code == 2 and "a/number: value: found 13, expected a lucky number" in errors
    assert task.events()[-1].reason == "a/number: value: found 13, expected a lucky number"


def test_it_refuses_other_work_than_was_submitted(batch):
    task = batch("name: toy\ntracks: {a: {value: 1}}\n").submit()
    path = submissions.folder(task.store, ID) / "submission.json"
    data = json.loads(path.read_text())
    number, add = data["jobs"][0]["tasks"][0]
    number["fingerprint"], number["identity"]["version"] = "0" * 64, 0
    add["fingerprint"], add["identity"]["inputs"] = "1" * 64, {"numbers": {"a": "number/" + "0" * 64}}
    path.write_text(json.dumps(data))
    code, _, errors = task.run()
    assert code == 2
    assert "a/number: stage version: 0 -> 1. Submit again: python -m pipeline submit" in errors, errors
    assert "input" not in errors
    assert task.happened() == ["started", "failed"] and not list(task.store.root.glob("number/*"))


def test_it_refuses_to_run_without_what_it_reads(batch):
    task = batch("name: toy\ntracks: {a: {value: 1}}\n").submit("sum")
    code, _, errors = task.run()
    assert code == 2 and "a/number: is not in the store" in errors and "submit again" in errors


def test_a_damaged_record_is_one_line(batch):
    task = batch("name: toy\ntracks: {a: {value: 1}}\n").submit()
    (submissions.folder(task.store, ID) / "submission.json").write_text("{")
    code, _, errors = task.run()
    assert code == 2 and "found no task 0 of job" in errors and "Traceback" not in errors


def test_a_store_that_cannot_be_written_is_one_line(batch):
    task = batch("name: toy\ntracks: {a: {value: 1}}\n").submit()
    (submissions.folder(task.store, ID) / "job-0.jsonl").mkdir()
    code, _, errors = task.run(SLURMD_NODENAME="n7")
    assert code == 2 and errors.startswith(f"store {task.store.root}: cannot be used on node n7: ")
    assert len(errors.splitlines()) == 1


def test_the_thawed_plan_is_the_plan(batch):
    task = batch("name: toy\ntracks: {a: {value: 1, ask: true}}\n")
    thawed: Plan = plans.thaw(json.loads(json.dumps(plans.frozen(task.plan))))
    assert [step.fingerprint for step in thawed.steps] == [step.fingerprint for step in task.plan.steps]
