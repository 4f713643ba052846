"""Jobs keep every order that the plan asks for, and a sweep becomes arrays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import plan as plans
from pipeline.slurm.jobs import arrange, slug
from pipeline.slurm.submission import Job
from pipeline.step import Service, Step
from tests.pipeline.toy import add, ask, count, number, server

NODES = st.lists(
    st.tuples(st.integers(0, 3), st.sets(st.integers(0, 30), max_size=3), st.sampled_from([None, 0, 1, 2])),
    min_size=1,
    max_size=14,
)
"""Of each step: which stage, how far back its dependencies are, and which server of the latest numbers it asks."""


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch):
    monkeypatch.setenv("PIPELINE_STAGES", "tests.pipeline.toy")


def steps_of(nodes) -> list[Step]:
    made: list[Step] = []
    for index, (stage, back, asks) in enumerate(nodes):
        inputs = {str(distance): made[-distance] for distance in back if 0 < distance <= len(made)}
        service = Service("server", server.Config(num_answers=asks), {"model": made[0]}) if asks and made else None
        config = [
            number.Config(value=index),
            add.Config(scale=index + 1.0),
            ask.Config(question=str(index)),
            count.Config(),
        ][stage]
        name = ["number", "add", "ask", "count"][stage]
        made.append(Step(name, config, {"parts": inputs}, name=f"{index}/{name}", service=service))
    return made


def edges(jobs: list[Job]) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """Task -> the tasks that Slurm lets end before."""
    sizes = {job.name: len(job.tasks) for job in jobs}
    return {
        (job.name, number): {
            *((name, other) for name in job.after for other in range(sizes[name])),
            *((name, number) for name in job.after_corresponding),
            *((name, other) for name, numbers in job.after_tasks.items() for other in numbers),
        }
        for job in jobs
        for number in range(len(job.tasks))
    }


def closure(direct: dict) -> dict:
    """Task -> all tasks before it; jobs are in an order of submission, so no cycle can hide."""
    found: dict = {}
    for task, needs in direct.items():
        assert needs <= found.keys(), "waits for a job that is submitted later"
        found[task] = needs | set().union(*(found[needed] for needed in needs))
    return found


@settings(deadline=None, max_examples=100)
@given(NODES, st.integers(0, 2**14), st.integers(1, 4))
def test_every_pending_step_is_in_one_task_and_after_what_it_needs(nodes, sealed, max_array_size):
    plan = plans.arrange("any", steps_of(nodes))
    pending = [step for index, step in enumerate(plan.steps) if not sealed >> index & 1]
    jobs = arrange(pending, max_array_size)
    places = {
        piece.fingerprint: ((job.name, number), place)
        for job in jobs
        for number, task in enumerate(job.tasks)
        for place, piece in enumerate(task)
    }
    assert sum(len(task) for job in jobs for task in job.tasks) == len(pending)
    assert places.keys() == {step.fingerprint for step in pending}
    before = closure(edges(jobs))
    for step in pending:
        task, place = places[step.fingerprint]
        for needed in step.all_dependencies():
            if needed.fingerprint in places:
                other, other_place = places[needed.fingerprint]
                assert other in before[task] or (other == task and other_place < place)
    assert all(len(job.tasks) <= max_array_size for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        for name in job.after_corresponding:
            assert len(next(other for other in jobs if other.name == name).tasks) == len(job.tasks)


def sweep(size: int) -> list[Step]:
    """Two things in common, then for each of a sweep: a track, two questions at its server, two counts; one sum."""
    common = [Step("number", number.Config(value=-index), name=f"start{index}") for index in (1, 2)]
    made = []
    for index in range(size):
        start = dict(zip("ab", common, strict=True))
        track = Step("add", add.Config(scale=index + 1.0), {"numbers": start}, name=f"rate={index}/train")
        merged = Step("number", number.Config(value=index), {"track": track}, name=f"rate={index}/merge")
        service = Service("server", server.Config(), {"model": merged})
        asked = [
            Step("ask", ask.Config(question=q), {"model": merged}, name=f"rate={index}/{q}", service=service)
            for q in ("first", "second")
        ]
        counts = [Step("count", count.Config(), {"answers": one}, name=f"{one.name}/count") for one in asked]
        made.append([track, merged, *asked, *counts])
    everything = {step.name: step for steps in made for step in steps}
    return [Step("add", add.Config(), {"numbers": everything}, name="report")]


def shape(steps: list[Step], skipped: set[str], max_array_size: int = 1001) -> dict:
    pending = [step for step in plans.arrange("sweep", steps).steps if step.name not in skipped]
    return {
        job.name: (
            [[piece.name for piece in task] for task in job.tasks],
            job.after,
            job.after_corresponding,
            job.after_tasks,
        )
        for job in arrange(pending, max_array_size)
    }


def test_a_sweep_becomes_arrays_whose_tasks_wait_for_each_other():
    rates = [f"rate={index}" for index in range(4)]
    assert shape(sweep(4), set()) == {
        "prepare": ([["start1"], ["start2"]], [], [], {}),
        "train": ([[f"{rate}/train"] for rate in rates], ["prepare"], [], {}),
        "merge": ([[f"{rate}/merge"] for rate in rates], [], ["train"], {}),
        "evaluate": ([[f"{rate}/first", f"{rate}/second"] for rate in rates], [], ["merge"], {}),
        "first-count": ([[f"{rate}/first/count"] for rate in rates], [], ["evaluate"], {}),
        "second-count": ([[f"{rate}/second/count"] for rate in rates], [], ["evaluate"], {}),
        "report": ([["report"]], ["first-count", "second-count"], [], {}),
    }


def test_what_one_of_a_sweep_has_done_already_holds_up_no_other():
    jobs = shape(sweep(3), {"start1", "start2", "rate=1/train", "rate=1/merge"})
    assert jobs["train"] == ([["rate=0/train"], ["rate=2/train"]], [], [], {})
    assert jobs["rate-1-evaluate"] == ([["rate=1/first", "rate=1/second"]], [], [], {})
    assert jobs["evaluate"][2] == ["merge"]


def test_one_task_of_an_array_is_waited_for_alone():
    jobs = shape(sweep(3), {"rate=0/merge", "rate=2/merge"})
    assert jobs["rate-1-merge"] == ([["rate=1/merge"]], [], [], {"train": [1]})


def test_an_array_that_is_too_long_becomes_several():
    jobs = shape(sweep(5), set(), max_array_size=2)
    assert [len(jobs[name][0]) for name in ("train", "train-2", "rate-4-train")] == [2, 2, 1]
    assert [jobs[name][2] for name in ("merge", "merge-2")] == [["train"], ["train-2"]]
    assert jobs["rate-4-merge"][1] == ["rate-4-train"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Math/Train", "math-train"), ("a b'c\n$d", "a-b-c-d"), ("--.", "job"), ("é", "job"), ("x" * 300, "x" * 60)],
)
def test_names_are_safe_for_files_and_slurm(text, expected):
    assert slug(text) == expected
