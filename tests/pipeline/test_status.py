"""What `status`, `logs` and `cancel` make of the store and of Slurm's answers; a real Slurm is asked in tests/slurm."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.slurm import pending, queue
from pipeline.slurm import submission as submissions
from pipeline.slurm.submission import Event, Job, Submission
from pipeline.slurm.words import last_words
from tests.pipeline.conftest import ROOT
from tests.pipeline.test_batch import PROGRESS_FILES, Batch
from tests.pipeline.test_run import _wait_for

ANSWERS = (ROOT / "tests" / "slurm" / "answers" / "squeue.txt").read_text().splitlines()
"""Lines of a real squeue of Slurm 22.05."""
ID = "20260101-000000-toy-abcd"
RECIPE = "name: toy\ntracks: {a: {value: 1}}\n"


class Slurm:
    """A squeue that answers with these lines, and commands that note how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.answer()

    def answer(self, *lines: str, command: str = "") -> None:
        (self.folder / "answer").write_text("".join(f"{line}\n" for line in lines))
        self._write("squeue", command or f"cat {self.folder}/answer")
        self._write("sacct", "echo Slurm accounting storage is disabled >&2; exit 1")
        self._write("scancel", f'echo scancel "$@" >> {self.folder}/calls')

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def account(self, *lines: str) -> None:
        self._write("sacct", "\n".join(f"echo '{line}'" for line in lines))

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Slurm:
    slurm = Slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{slurm.folder}{os.pathsep}{os.environ['PATH']}")
    return slurm


class Submitted:
    """A number as job 12, and a sum that waits for it as job 13."""

    def __init__(self, path: Path, root: Path) -> None:
        self.batch = Batch(path, root)
        self.store = self.batch.store
        number, total = self.batch.plan.find("a/number"), self.batch.plan.find("sum")
        first = Job(name="number", kind="prepare", tasks=[[submissions.piece(number)]], job_id=12)
        second = Job(name="sum", kind="report", tasks=[[submissions.piece(total)]], after=["number"], job_id=13)
        submission = Submission(
            id=ID, recipe=path, cluster=Path("/mine.yaml"), submitted_at=submissions.now(), jobs=[first, second]
        )
        submissions.write(self.store, submission)

    def happens(self, what: str, job: str = "number", **details: object) -> None:
        event = Event.model_validate({"at": submissions.now(), "what": what, "node": "n1", **details})
        submissions.record(self.store, ID, job, 0, event)

    def log(self, text: str) -> None:
        submissions.log_file(self.store, ID, "number", 0).write_text(text)


@pytest.fixture
def submitted(recipe, tmp_path) -> Submitted:
    return Submitted(recipe(RECIPE), tmp_path)


@pytest.fixture
def status(submitted, capsys) -> Callable[[], list[str]]:
    """What it prints, in this process, since it is asked often."""

    def ask() -> list[str]:
        assert cli.main(["status", str(submitted.batch.path), "--store", str(submitted.store.root)]) == 0
        return capsys.readouterr().out.splitlines()

    return ask


def line(
    state: str, reason: str = "None", job: int = 12, nodes: str = "n1", exit_code: int = 0, restarts: int = 0
) -> str:
    began = datetime.now().isoformat(timespec="seconds")
    return f"{job}|N/A|{state}|{reason}|{nodes}|{began}|{began}|{began}|{began}|{restarts}|N/A|{exit_code}|"


def test_real_answers_of_squeue_are_read():
    entries = [entry for text in ANSWERS if (entry := queue.parse(text))]
    assert len(entries) == len(ANSWERS)
    by_job = {(entry.job_id, entry.task): entry for entry in entries}
    failed = by_job[17, 0]
    assert (failed.state, failed.reason, failed.nodes, failed.exit_code) == ("FAILED", "NonZeroExitCode", "b1", 143)
    assert failed.started and failed.ends and failed.ends - failed.started == 15
    assert by_job[48, 0].exit_code == 137
    running = by_job[26, 0]
    assert (running.state, running.restarts, running.is_preempted) == ("RUNNING", 2, False)
    assert by_job[39, 1].started is None and by_job[39, 1].state == "PENDING"
    preempted = queue.parse("52|N/A|RUNNING|None|b[1-2]|N/A|N/A|N/A|2026-11-25T16:16:42|0|2026-11-25T16:16:32|0|")
    assert preempted and preempted.is_preempted and preempted.nodes == "b[1-2]"
    assert queue.parse("a line of the site's own plug-in") is None


def test_every_reason_that_was_met_has_words():
    entries = [entry for text in ANSWERS if (entry := queue.parse(text)) and entry.state == "PENDING"]
    words = [pending.why(entry) for entry in entries]
    assert len(words) == 9 and not any("Slurm says" in text for text in words)
    assert "nodes that it needs are down, drained or reserved (UnavailableNodes:b2)" in words
    assert any(text.startswith("may start again at ") for text in words)
    assert "held by its user; release it: scontrol release 37" in words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxJobsPerUserLimit", "a limit of its QOS is reached (QOSMaxJobsPerUserLimit)"),
        ("AssocGrpCPUMinutesLimit", "a limit of its account is reached (AssocGrpCPUMinutesLimit)"),
        ("launch failed requeued held", "held, since a node could not start it; release it: scontrol release 12"),
        ("SomethingNew", "Slurm says SomethingNew"),
    ],
)
def test_limits_and_unknown_reasons_are_told(reason, words):
    entry = queue.parse(line("PENDING", reason))
    assert entry and pending.why(entry) == words


def test_answers_of_sacct_are_read():
    """Written after https://slurm.schedmd.com/sacct.html, --parsable2."""
    text = (
        "12_3|CANCELLED by 1000|n7|2026-11-25T16:00:00|2026-11-25T16:00:00|2026-11-25T16:01:00|2026-11-25T16:02:00|0:15"
    )
    entry = queue.parse_accounting(text)
    assert entry and (entry.job_id, entry.task, entry.state, entry.exit_code) == (12, 3, "CANCELLED", 143)
    assert queue.parse_accounting("12_[4-7]|PENDING|None assigned|||||0:0") is None


KILLED = "slurmstepd-n1: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-25T16:10:03{} ***\n"


@pytest.mark.parametrize(
    ("happened", "log", "answer", "expected"),
    [
        ([], "", [line("PENDING", "Priority", nodes="")], "queued    job 12: others are before it in the queue"),
        ([], "", [line("CANCELLED")], "cancelled job 12: was cancelled before it started"),
        (["started"], "", [line("RUNNING")], "queued    job 12 on n1 for "),
        (["started"], "", [line("COMPLETING")], "ending    job 12 on n1"),
        (
            ["started", "stopped"],
            "",
            [line("FAILED", exit_code=36608)],
            "cancelled job 12 on n1: why; what it saved is kept",
        ),
        (["started", "stopped"], "", [], "cancelled job 12 on n1: why; what it saved is kept"),
        (["started", "failed"], "", [line("FAILED", exit_code=256)], "failed    job 12 on n1: why"),
        (["started", "failed"], "", [], "failed    job 12 on n1: why"),
        (["started", "gave up"], "", [], "failed    job 12 on n1: why"),
        (
            ["started", "requeued"],
            "",
            [line("PENDING", "BeginTime", restarts=1)],
            "queued    job 12: may start again at",
        ),
        (["started"], KILLED.format(""), [], "cancelled job 12 on n1: was cancelled; what it had not saved is lost"),
        (
            ["started"],
            KILLED.format(" DUE TO TIME LIMIT"),
            [line("TIMEOUT")],
            "failed    job 12 on n1: reached its time limit and was killed (120 s were not enough to save",
        ),
        (
            ["started"],
            KILLED.format(" DUE TO NODE FAILURE"),
            [],
            "lost      job 12 on n1: its node failed; what it had",
        ),
        (
            ["started"],
            "slurmstepd-n1: error: Detected 1 oom_kill event in StepId=12.batch. \n",
            [line("FAILED", exit_code=9)],
            "failed    job 12 on n1: was killed: it used more memory than it had asked for",
        ),
        (["started"], "", [line("OUT_OF_MEMORY")], "failed    job 12 on n1: was killed: it used more memory than it"),
        (["started"], "", [line("NODE_FAIL")], "failed    job 12 on n1: node n1 failed, and Slurm did not requeue it"),
        (
            ["started"],
            "",
            [],
            "lost      job 12 on n1: was killed, by a node that failed or for its memory, and Slurm has",
        ),
        ([], "", [], "lost      job 12: is forgotten by Slurm and never started"),
        (
            [],
            "",
            [line("FAILED", "JobLaunchFailure", exit_code=4021)],
            "failed    job 12: could not write its log on n1",
        ),
        (
            [],
            "module: command not found\n",
            [line("FAILED", exit_code=256)],
            "failed    job 12: ended without a word of its own (exit code 1); the last of its log: module: command not",
        ),
        (
            ["started"],
            "",
            [line("FAILED", exit_code=9)],
            "failed    job 12 on n1: ended without a word of its own (exit code 137: killed by hand, by a scheduler or",
        ),
    ],
)
def test_what_came_of_a_task_is_one_line(happened, log, answer, expected, submitted, slurm, status):
    for what in happened:
        submitted.happens(what, reason="why")
    if log:
        submitted.log(log)
    slurm.answer(*answer)
    first, second, *others = status()
    assert first.startswith(f"a/number  {expected}"), first
    over = {"failed", "cancelled", "lost"}
    if first.split()[1] in over:
        how = "was cancelled" if "cancelled" in first.split() else "failed"
        assert second == f"sum       dropped   job 13 never started, since job 12 (a/number) {how}"
        assert f"continue with: python -m pipeline submit {submitted.batch.path} --cluster /mine.yaml" in others[-1]
    else:
        assert second.startswith("sum       lost") or "waits for job 12" in second


def test_a_job_that_started_again_tells_why(submitted, slurm, status):
    submitted.happens("started")
    submitted.log("slurmstepd-n1: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-25T16:10:03 DUE TO NODE FAILURE ***\n")
    slurm.answer(line("PENDING", "Resources", restarts=1), line("PENDING", "Dependency", job=13))
    first, second, totals = status()
    assert first == "a/number  queued    job 12: waits for free nodes; its 2nd start, since its node failed"
    assert second == "sum       queued    job 13: waits for job 12"
    assert totals.startswith("2 tasks: queued ")


def test_what_slurm_kills_for_its_memory_is_not_taken_for_cancelled(submitted, slurm, status):
    """As JobAcctGatherParams=OverMemoryKill had it in a real job's log."""
    submitted.happens("started")
    lines = (
        "StepId=12.batch exceeded memory limit (63082496 > 41943040), being killed",
        "Exceeded job memory limit",
        "*** JOB 12 ON n1 CANCELLED AT 2026-11-25T16:29:49 ***",
    )
    submitted.log("".join(f"slurmstepd-n1: error: {text}\n" for text in lines))
    slurm.answer(line("FAILED", "JobLaunchFailure", exit_code=9))
    assert "failed    job 12 on n1: was killed: it used more memory than it had asked for" in status()[0]


def test_the_last_words_of_an_earlier_start_are_not_this_ones(submitted, tmp_path):
    log = tmp_path / "log"
    log.write_text(KILLED.format(" DUE TO PREEMPTION"))
    assert last_words(log) == "it was preempted"
    log.write_text(log.read_text() + "2026-11-25T16:30:31+00:00  a/number, b/number  on n1, start 2\nworks\n")
    assert last_words(log) == ""
    log.write_text(log.read_text() + KILLED.format(" DUE TO NODE FAILURE"))
    assert last_words(log) == "its node failed"


def test_accounting_tells_of_what_slurm_has_forgotten(submitted, slurm, status):
    submitted.happens("started")
    slurm.answer()
    slurm.account("12|NODE_FAIL|n1|2026-11-25T16:00:00|2026-11-25T16:00:00|2026-11-25T16:01:00|2026-11-25T16:02:00|0:0")
    assert "node n1 failed, and Slurm did not requeue it" in status()[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("echo squeue: error: Unable to contact slurm controller >&2; exit 1", "Unable to contact slurm controller"),
        ("rm squeue", "found no squeue on this machine"),
    ],
)
def test_without_an_answer_of_slurm_the_store_tells_what_it_knows(answer, words, submitted, slurm, status, monkeypatch):
    submitted.happens("started")
    if answer.startswith("rm"):
        monkeypatch.setenv("PATH", str(slurm.folder))
        (slurm.folder / "squeue").unlink()
    else:
        slurm.answer(command=answer)
    lines = status()
    assert (
        lines[0].startswith("a/number  submitted job 12, started on n1, ") and "as far as the store knows" in lines[0]
    )
    assert lines[1].startswith("sum       submitted job 13, has not started yet as far as the store knows")
    assert words in lines[-1]


def test_waiting_and_running_are_added_up(submitted, slurm, status, pipeline):
    assert pipeline("run", submitted.batch.path).returncode == 0
    path = submissions.folder(submitted.store, ID) / "submission.json"
    text = path.read_text()
    path.write_text(text.replace(json.loads(text)["submitted_at"], at(0)))
    for what, second in {"started": 10, "requeued": 40}.items():
        submitted.happens(what, at=at(second))
    for what, second in {"started": 45, "finished": 60}.items():
        submitted.happens(what, at=at(second))
    for what, second in {"started": 70, "finished": 80}.items():
        submitted.happens(what, "sum", at=at(second))
    first, second, totals = status()
    assert first.endswith("job 12, queued 15s, ran 45s") and second.endswith("job 13, queued 10s, ran 10s")
    assert totals == "2 tasks: queued 25s, ran 55s, 69 % of it running"


def at(second: int) -> str:
    return datetime.fromtimestamp(1_800_000_000 + second, UTC).isoformat(timespec="seconds")


def test_cancel_ends_what_waits_and_asks_what_runs(submitted, slurm, pipeline):
    slurm.answer(line("RUNNING"), line("PENDING", "Dependency", job=13))
    done = pipeline("cancel", submitted.batch.path)
    assert done.returncode == 0, done.stderr
    assert slurm.calls() == ["scancel 13", "scancel --batch --signal=TERM 12"]
    assert "job 13 (sum): cancelled" in done.stdout
    assert "job 12 (a/number): asked to save and stop; to kill it at once: scancel 12" in done.stdout


def test_cancel_of_a_step_takes_what_is_made_from_it(submitted, slurm, pipeline):
    slurm.answer(line("RUNNING"), line("PENDING", "Dependency", job=13))
    assert pipeline("cancel", submitted.batch.path, "sum").returncode == 0
    assert slurm.calls() == ["scancel 13"]
    assert pipeline("cancel", submitted.batch.path, "a/number").returncode == 0
    assert slurm.calls()[1:] == ["scancel 13", "scancel --batch --signal=TERM 12"]


def test_nothing_to_cancel_is_said(submitted, slurm, pipeline):
    done = pipeline("cancel", submitted.batch.path)
    assert (done.returncode, done.stdout) == (0, "nothing to cancel: no job that does toy is in the queue\n")
    slurm.answer(command="echo no controller >&2; exit 1")
    done = pipeline("cancel", submitted.batch.path)
    assert done.returncode == 1 and done.stderr == "Slurm: squeue got no answer: no controller\n"


def test_logs_of_a_step_and_its_job(submitted, pipeline):
    done = pipeline("logs", submitted.batch.path, "a/number")
    assert done.returncode == 0 and "has written nothing" in done.stdout
    submitted.log("first\nsecond\n")
    step = submitted.batch.plan.find("a/number")
    own = submitted.store.log(step.stage, step.fingerprint)
    own.parent.mkdir()
    own.write_text("".join(f"line {number}\n" for number in range(100_000)))
    done = pipeline("logs", submitted.batch.path, "a/number", "--lines", 2)
    job = submissions.log_file(submitted.store, ID, "number", 0)
    assert done.stdout == f"==> {job} <==\nfirst\nsecond\n\n==> {own} <==\nline 99998\nline 99999\n"
    assert pipeline("logs", submitted.batch.path, "sum").returncode == 0
    assert pipeline("logs", submitted.batch.path, "a/number", "--lines", -1).returncode == 2


def test_logs_are_followed_until_the_step_ends(submitted, command):
    submitted.happens("started")
    submitted.log("first\n")
    words = command("logs", submitted.batch.path, "a/number", "--follow")
    process = subprocess.Popen(words, cwd=ROOT, env=dict(os.environ), text=True, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline().startswith("==>") and process.stdout.readline() == "first\n"
    submitted.log("first\nsecond\n")
    assert process.stdout.readline() == "second\n"
    submitted.happens("failed")
    assert process.wait(timeout=30) == 0


def test_logs_of_a_run_of_ones_own_are_followed_until_it_is_stopped(recipe, command, tmp_path):
    path = recipe("name: toy\ntracks: {a: {value: 1, pause_seconds: 60}}\n")
    store = tmp_path / "store"
    run = subprocess.Popen(command("run", path), cwd=ROOT, env=dict(os.environ), stdout=subprocess.DEVNULL)
    _wait_for(lambda: list(store.glob(PROGRESS_FILES)))
    words = command("logs", path, "a/number", "--follow")
    process = subprocess.Popen(words, cwd=ROOT, env=dict(os.environ), text=True, stdout=subprocess.PIPE)
    time.sleep(1.5)
    assert process.poll() is None
    run.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "stopped by SIGTERM; a rerun resumes" in output
    run.wait()


def test_a_damaged_record_is_one_line(submitted, pipeline):
    (submissions.folder(submitted.store, ID) / "submission.json").write_text("{}")
    done = pipeline("status", submitted.batch.path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "is damaged" in done.stderr
