"""Jobs that are stopped, requeued, preempted, killed or cancelled: `status` says so, and a further submit finishes.

All begin together in `cases`, since most of their time is Slurm's: it looks at time limits every 30 s, lets a requeued
job wait, and takes a node for down after a while.
"""

import functools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.slurm import toy_training
from tests.slurm.case import Case
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slow

PAUSE = "name: toy\ntracks:\n  one: {{value: {value}, pause_seconds: {seconds}}}\n"
QUESTIONS = "{{value: {value}, questions: {{q: {{num_answers: {num_answers}, pause_seconds: {pause}}}}}}}"
FAILING = "name: fails\ncount: true\ntracks:\n  one: {value: 1, questions: {q: {fail: true}}}\n"
ASK = "one-q"
DYING = ("cancelled", "step killed", "batch killed")


def asking(*tracks: str, num_answers: int, pause: float) -> str:
    """A recipe of questions whose answers are kept as they come."""
    lines = [
        f"  {name}: {QUESTIONS.format(value=number, num_answers=num_answers, pause=pause)}"
        for number, name in enumerate(tracks)
    ]
    return "\n".join(["name: asked", "tracks:", *lines, ""])


@pytest.fixture(scope="module")
def cases(session_cluster, tmp_path_factory) -> dict[str, Case]:
    """By name, begun and disturbed; n2 is for work that is preempted."""
    root = tmp_path_factory.mktemp("cases")

    def made(name: str, text: str, **description: Any) -> Case:
        return Case(session_cluster, root, name).write(text).describe(**description)

    limit: dict[str, Any] = {"time": 1, "signal_seconds": 55, "options": ["--nodelist=n1"]}
    on_n2: dict[str, Any] = {"cpus_per_task": 6, "options": ["--nodelist=n2"]}
    found = [
        made("saved", asking("one", num_answers=35, pause=1.0), **limit),
        made("lost", PAUSE.format(value=1, seconds=1000), top={"max_timeouts_without_progress": 2}, **limit),
        made("preempted", PAUSE.format(value=1, seconds=10), **on_n2),
        made("asked", asking("one", "two", num_answers=24, pause=0.5)),
        *(made(name, PAUSE.format(value=number, seconds=10)) for number, name in enumerate(DYING)),
        made("failed", FAILING),
    ]
    with ThreadPoolExecutor(len(found)) as pool:
        list(pool.map(lambda case: DISTURBANCES[case.name](session_cluster, case.submitted()), found))
    return {case.name: case for case in found}


def leave_alone(_cluster: Cluster, _case: Case) -> None:
    """It disturbs itself."""


def works(cluster: Cluster, case: Case) -> None:
    """Wait until its step works."""
    cluster.wait(lambda: list(case.store.root.glob("number/*.partial/attempts.txt")), f"{case.name} works")


def preempt(cluster: Cluster, case: Case) -> None:
    works(cluster, case)
    words = ["--partition=urgent", "--nodelist=n2", "--cpus-per-task=6", "--output=/dev/null", "--wrap=sleep 1"]
    cluster.ask("sbatch", *words)


def signal_one_task(cluster: Cluster, case: Case) -> None:
    file = partial_answers(case)
    cluster.wait(lambda: file.exists() and len(file.read_text().splitlines()) >= 4, "four answers")
    cluster.ask("scancel", "--batch", "--signal=USR2", case.job("q", 1))


def partial_answers(case: Case) -> Path:
    (piece,) = case.last().find("q").tasks[1]
    return case.store.partial("ask", piece.fingerprint) / "answers.jsonl"


def cancel(cluster: Cluster, case: Case) -> None:
    works(cluster, case)
    cluster.ask("scancel", case.job("one-number"))


def kill(word: str, cluster: Cluster, case: Case) -> None:
    works(cluster, case)
    process(case, word).kill()


DISTURBANCES: dict[str, Callable[[Cluster, Case], None]] = {
    "preempted": preempt,
    "asked": signal_one_task,
    "cancelled": cancel,
    "step killed": functools.partial(kill, "pipeline.child"),
    "batch killed": functools.partial(kill, "pipeline.slurm.batch"),
    "failed": leave_alone,
    "saved": leave_alone,
    "lost": leave_alone,
}


def test_each_of_those_who_die_is_explained_and_done_by_a_further_submit(cases):
    dying = [cases[name] for name in (*DYING, "failed")]
    told = {
        "cancelled": r"one/number +cancelled job {job} on n\d: .*cancelled",
        "step killed": r"one/number +failed +job {job} on n\d: step one/number failed .*exit code 137",
        "batch killed": r"one/number +failed +job {job} on n\d: .*exit code 137",
        "failed": r"one/q +failed +job {job} on n\d: step one/q failed \(exit code 1\): q was asked to fail",
    }
    for case in dying:
        text = case.wait(90).status()
        job = case.job(ASK if case.name == "failed" else "one-number")
        assert re.search(told[case.name].format(job=job), text), text
        assert re.search(rf"sum +\w+ +job \d+ never started, since job {job} ", text), text
        assert f"continue with: python -m pipeline submit {shlex.quote(str(case.recipe))}" in text
        assert not list(case.store.root.glob("add/*"))
    cases["failed"].write(FAILING.replace("true}}", "false}}"))
    with ThreadPoolExecutor(len(dying)) as pool:
        list(pool.map(Case.submitted, dying))
    for case in dying:
        assert case.wait().is_done(), case.all_logs()


def test_one_task_that_is_requeued_goes_on_and_leaves_the_others_alone(cases):
    asked = cases["asked"].wait()
    assert asked.whats("q", 0) == ["started", "finished"], asked.all_logs()
    assert asked.whats("q", 1) == ["started", "requeued", "started", "finished"], asked.all_logs()
    manifests = [json.loads(file.read_text()) for file in asked.store.root.glob("ask/*/manifest.json")]
    counts = sorted(manifest["metrics"]["num_asked"] for manifest in manifests)
    assert counts[0] < 24 == counts[1]
    assert asked.is_done()


def test_preempted_by_another_partition(cases):
    low = cases["preempted"].wait()
    events = low.events("one-number")
    assert [event.what for event in events] == ["started", "requeued", "started", "finished"], low.all_logs()
    assert "preempted" in events[1].reason and not events[1].is_timeout
    assert low.is_done()


@pytest.fixture(scope="module")
def crashed(session_cluster, tmp_path_factory, cases) -> Iterator[tuple[Case, Path, str]]:
    """A recipe, and a launch of toy ranks on both nodes with its job, when n2 has crashed; later it is there again.

    Only then, when the others do not need it any more.
    """
    for name in ("preempted", "asked", *DYING, "failed"):
        cases[name].wait()
    root = tmp_path_factory.mktemp("crashed")
    down = Case(session_cluster, root, "down").write(PAUSE.format(value=1, seconds=5))
    down.describe(options=["--nodelist=n2"]).submitted()
    launch = root / "launch"
    job = toy_training.submit(session_cluster, launch, ["import time; time.sleep(200)"] * 4)
    session_cluster.wait(lambda: len(list(launch.glob("ready-*.json"))) == 4, "all ranks run")
    works(session_cluster, down)
    session_cluster.crash_node("n2")
    yield down, launch, job
    session_cluster.ensure_node("n2")


@pytest.mark.usefixtures("crashed")
def test_time_limits_are_gone_on_from_unless_nothing_is_saved(cases):
    saved, lost = cases["saved"].wait(100), cases["lost"].wait(150)
    assert saved.whats(ASK)[-2:] == ["started", "finished"] and "requeued" in saved.whats(ASK), saved.all_logs()
    assert all(event.is_timeout for event in saved.events(ASK) if event.what == "requeued")
    assert lost.whats("one-number") == ["started", "requeued", "started", "gave up"], lost.all_logs()
    assert "gave up: 2 time limits in a row without progress; ask for more time or less work" in lost.status()
    assert saved.is_done()


def test_work_of_a_node_that_crashed_is_begun_anew(cluster, crashed):
    down, launch, job = crashed
    cluster.wait(lambda: cluster.state(down.job("one-number")) == "PENDING", "the node is down", 90)
    assert "its 2nd start, since its node failed or it was preempted" in down.status()
    cluster.wait_for(job)
    assert "srun: error: Node failure on n2" in cluster.log(launch / "log")
    assert not toy_training.ranks(launch)
    cluster.ensure_node("n2")
    cluster.wait(lambda: "finished" in down.whats("one-number"), "it is begun anew", 90)
    down.wait()
    whats = ["started", "started", "finished"]
    assert down.whats("one-number") == whats, f"{down.all_logs()}\n{down.status()}\n{cluster.tails(40)}"
    assert down.is_done()


def test_jobs_that_slurm_has_forgotten_are_explained_from_the_store(cluster, case):
    with cluster.forgetful():
        done = case("done").write(PAUSE.format(value=1, seconds=0)).submitted()
        killed = case("killed").write(PAUSE.format(value=2, seconds=100)).submitted()
        kill("pipeline.slurm.batch", cluster, killed)
        cluster.wait(lambda: not any(cluster.state(each.job("one-number")) for each in (done, killed)), "forgotten", 60)
        assert re.search(r"one/number +cached .* queued \d.* ran \d", done.status())
        assert re.search(r"one/number +\w+ +job .* was killed, .* Slurm has forgotten it", killed.status())
        assert done.wait().is_done()
        killed.write(PAUSE.format(value=2, seconds=0)).submitted().wait()
        assert killed.is_done()


def process(case: Case, word: str) -> psutil.Process:
    """The one of a case's job that has this word in its command, but not the guard of it."""
    job = case.job("one-number")
    for each in psutil.process_iter(["cmdline"]):
        if word in (each.info["cmdline"] or []) and "--" not in each.info["cmdline"]:
            try:
                if each.environ().get("SLURM_JOB_ID") == job:
                    return each
            except psutil.Error:
                continue
    raise AssertionError(f"no {word} of job {job}")
