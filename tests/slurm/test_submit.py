"""submit, on a real Slurm: what it hands over, what it refuses before, and what it takes back."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.cli import main
from pipeline.lock import Lock
from pipeline.slurm import submission
from pipeline.store import Store
from tests.pipeline.conftest import ROOT

pytestmark = pytest.mark.slow

RECIPE = """
name: a toy's $recipe
count: true
tracks:
  a: {value: 1, ask: true}
  b: {value: 2, ask: true}
"""
PROFILE = """
max_array_tasks: 2
default: {command: ["%s"], memory: 200, time: 10, environment: {ODD: "it's $5"}}
"""


class Told(NamedTuple):
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Submit = Callable[..., Told]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Of a name that every program between here and there has to quote."""
    folder = tmp_path / """it's a "store" $x %j #"""
    folder.mkdir()
    (folder / "toy.yaml").write_text(RECIPE)
    (folder / "mine.yaml").write_text(PROFILE % sys.executable)
    return folder


@pytest.fixture
def submit(cluster, folder, monkeypatch, capsys) -> Submit:
    monkeypatch.setenv("PIPELINE_STAGES", "tests.pipeline.toy")

    def run(*options: str, store: Path | None = None, **environment: str) -> Told:
        files = [folder / "toy.yaml", "--cluster", folder / "mine.yaml", "--store", store or folder / "store"]
        with monkeypatch.context() as changed:
            for name, value in environment.items():
                changed.setenv(name, value)
            code = main(["submit", *map(str, files), *options])
        return Told(code, *capsys.readouterr())

    return run


@pytest.fixture
def hold(cluster) -> Iterator[None]:
    """Nothing starts for now."""
    cluster.ask("scontrol", "update", "PartitionName=main", "State=DOWN")
    yield
    cluster.ask("scontrol", "update", "PartitionName=main", "State=UP")


def only(folder: Path) -> submission.Submission:
    (found,) = submission.all_of(Store(folder / "store"))
    return found


def profile(folder: Path, *kinds: str) -> None:
    """What some kinds of work get."""
    default = "{memory: 200, time: 10, command: [python]}"
    lines = [f"default: {default}", "kinds:", *(f"  {kind}" for kind in kinds)]
    (folder / "mine.yaml").write_text("\n".join(lines))


def test_a_recipe_is_done_by_its_jobs_in_the_order_of_what_they_need(submit, folder, cluster):
    short = ["--set", "count=false", "--set", "tracks.a.ask=false", "--set", "tracks.b.ask=false"]
    told = submit(*short)
    assert told.returncode == 0, told.stderr
    made = only(folder)
    assert [(job.name, len(job.tasks)) for job in made.jobs] == [("number", 2), ("sum", 1)]
    for job in made.jobs:
        assert f"submitted {job.job_id}  {job.name}" in told.stdout
    cluster.wait_for(*(str(job.job_id) for job in made.jobs))
    totals = list((folder / "store" / "add").glob("*/summary.md"))
    assert [file.read_text() for file in totals] == ["total 3.0\n"]
    for name in ("number-0", "number-1", "sum-0"):
        assert (submission.folder(Store(folder / "store"), made.id) / f"{name}.log").exists()
    again = submit(*short)
    assert again.returncode == 0
    assert again.stdout == "nothing to do: all 3 steps asked for of a toy's $recipe are cached\n"


def test_what_waits_in_the_queue_is_not_submitted_again(submit, folder, cluster, hold):
    assert submit("--only", "b/number").returncode == 0
    made = only(folder)
    before = cluster.jobs()
    told = submit()
    assert told.returncode == 2
    assert told.stderr.startswith(
        f"b/number: job {made.jobs[0].job_id} (b-number) of the submission {made.id} does that"
    )
    assert "python -m pipeline cancel" in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert cluster.jobs() <= before
    cluster.ask("scancel", str(made.jobs[0].job_id))
    assert submit("--only", "b/number").returncode == 0


def test_what_another_run_does_now_is_not_submitted(submit, folder, cluster):
    work = [sys.executable, "-m", "pipeline", "run", str(folder / "toy.yaml"), "--store", str(folder / "store")]
    options = ["--only", "a/number", "--set", "tracks.a.pause_seconds=30"]
    with subprocess.Popen([*work, *options], cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        cluster.wait(lambda: list((folder / "store" / "number").glob("*.partial")), "the step runs")
        told = submit("--set", "tracks.a.pause_seconds=30")
        running.terminate()
    assert told.returncode == 2
    assert told.stderr.startswith("a/number: process ")
    assert told.stderr.endswith("does that now; wait for it, or stop it first\n")


REFUSED = {
    "prepare: {partition: nowhere}": "partition: nowhere: Slurm refuses it: Invalid partition name specified",
    "evaluate: {memory: 9000G}": "memory: 9000G: Slurm refuses it: Requested node configuration is not available",
    "score: {constraint: fast}": "constraint: fast: Slurm refuses it: Invalid feature specification",
    "report: {reservation: mine}": "reservation: mine: Slurm refuses it: Requested reservation is invalid",
}
ALSO_REFUSED = {
    "prepare: {nodes: 3}": "nodes: 3, memory: 200: Slurm refuses it: Requested node configuration is not available",
    "evaluate: {gpus_per_node: 1}": "gpus_per_node: 1: Slurm refuses it: Invalid generic resource (gres) specification",
    "report: {options: [--nonsense]}": "options: --nonsense: Slurm refuses it: unrecognized option '--nonsense'",
}


@pytest.mark.parametrize("refused", [REFUSED, ALSO_REFUSED], ids=["first", "second"])
def test_what_slurm_refuses_is_found_before_anything_is_submitted(submit, folder, cluster, refused):
    profile(folder, *refused)
    before = cluster.jobs()
    told = submit()
    assert told.returncode == 2
    assert len(told.stderr.splitlines()) == len(refused)
    for line, (kind, reason) in zip(told.stderr.splitlines(), refused.items(), strict=True):
        assert line.startswith(f"{folder / 'mine.yaml'}: {kind.partition(':')[0]}: ")
        assert line.endswith(reason)
    assert cluster.jobs() <= before
    assert list(submission.all_of(Store(folder / "store"))) == []


def test_a_time_that_the_partition_never_gives_is_refused(submit, folder, cluster):
    cluster.ask("scontrol", "update", "PartitionName=urgent", "MaxTime=5")
    profile(folder, "report: {partition: urgent}")
    told = submit()
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert told.stderr.startswith(f"{folder / 'mine.yaml'}: report: time: 10: partition urgent allows 5 minutes; lower")
    cluster.ask("scontrol", "update", "PartitionName=urgent", "MaxTime=UNLIMITED")
    assert submit("--only", "a/number").returncode == 0


def test_nodes_that_are_down_for_now_are_no_reason_to_refuse(submit, folder, cluster):
    cluster.ask("scontrol", "update", "NodeName=n1,n2", "State=DRAIN", "Reason=test")
    try:
        test = subprocess.run(["sbatch", "--test-only", "--wrap=true"], stderr=subprocess.PIPE, text=True)
        assert "Requested node configuration is not available" in test.stderr
        told = submit()
    finally:
        cluster.ask("scontrol", "update", "NodeName=n1,n2", "State=RESUME")
    assert told.returncode == 0, told.stderr


def test_all_is_taken_back_when_slurm_changes_its_mind(submit, folder, cluster, hold, tmp_path):
    """An sbatch that refuses the third job for good, as one does whose queue has filled up in between."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = subprocess.check_output(["which", "sbatch"], text=True).strip()
    refusal = 'echo "sbatch: error: Batch job submission failed: Job violates QOS limit" >&2; exit 1'
    (tools / "sbatch").write_text(
        f'#!/bin/sh\ncase "$*" in *--test-only*) ;; *first-count*) {refusal};; esac\nexec {real} "$@"\n'
    )
    (tools / "sbatch").chmod(0o755)
    told = submit(PATH=f"{tools}:{os.environ['PATH']}")
    assert told.returncode == 1, told.stderr
    made = only(folder)
    ids = [job.job_id for job in made.jobs if job.job_id]
    assert told.stderr == (
        "job first-count: could not be submitted: Job violates QOS limit; cancelled those submitted before: "
        f"{ids[0]}, {ids[1]}\n"
    )
    assert not cluster.jobs() & {str(number) for number in ids}


def test_ctrl_c_takes_back_what_was_submitted(submit, folder, cluster, hold, tmp_path):
    """While sbatch is at work on the second job, which it then submits all the same."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = subprocess.check_output(["which", "sbatch"], text=True).strip()
    slowly = f"touch {tmp_path}/second; sleep 0.5"
    (tools / "sbatch").write_text(
        f'#!/bin/sh\ncase "$*" in *--test-only*) ;; *evaluate*) {slowly};; esac\nexec {real} "$@"\n'
    )
    (tools / "sbatch").chmod(0o755)
    words = [
        sys.executable,
        "-m",
        "pipeline",
        "submit",
        str(folder / "toy.yaml"),
        "--cluster",
        str(folder / "mine.yaml"),
    ]
    with subprocess.Popen(
        [*words, "--store", str(folder / "store")],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        cluster.wait((tmp_path / "second").exists, "the second job is being submitted")
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    ids = [str(job.job_id) for job in only(folder).jobs if job.job_id]
    assert len(ids) == 2
    assert (process.returncode, said) == (75, f"stopped; cancelled those submitted before: {', '.join(ids)}\n")
    assert not cluster.jobs() & set(ids)


def test_two_at_once_are_not_let_in(submit, folder):
    lock = Lock(folder / "store" / "locks" / "submit.lock")
    with lock:
        told = submit()
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert f"process {os.getpid()} on " in told.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--set", "resources.nodes=[n1, n2]"],
            "resources.nodes: found names of machines, expected none with `submit`",
        ),
        (["--only", "sum"], "step a/number: is not done yet and sum needs it; submit it, too"),
        (["--only", "nothing"], "step 'nothing': not in the plan of a toy's $recipe"),
        (["--cluster", "/nowhere.yaml"], "/nowhere.yaml: found no such file"),
    ],
)
def test_work_that_cannot_be_submitted_is_refused(submit, folder, options, line):
    told = submit(*options)
    assert told.returncode == 2
    assert told.stderr.startswith(line)
    assert not (folder / "store").exists()


def test_a_store_that_cannot_be_written_is_refused(submit, folder):
    (folder / "file").write_text("")
    told = submit(store=folder / "file")
    assert (told.returncode, told.stderr) == (
        2,
        f"store {folder / 'file'}: cannot be written; name another with --store DIR\n",
    )


def test_without_slurm_there_is_one_line(submit):
    told = submit(PATH="/nowhere")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert told.stderr.startswith("submit: found no sbatch on PATH, expected Slurm's commands")


def test_the_profile_stands_above_variables_of_the_shell(submit, folder, cluster, hold):
    told = submit("--only", "a/number", SBATCH_PARTITION="urgent", SBATCH_TIMELIMIT="99", SLURM_ARRAY_TASK_ID="7")
    assert told.returncode == 0, told.stderr
    job = cluster.ask("scontrol", "show", "job", str(only(folder).jobs[0].job_id))
    assert "Partition=main" in job
    assert "TimeLimit=00:10:00" in job
