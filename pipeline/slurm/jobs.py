"""From steps that are to be done to jobs: steps that share a server together, equal work of a sweep as an array.

No cycle can arise: steps of one server follow each other in the plan, and an array's tasks all have the same level.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from pipeline.plan import workflow
from pipeline.slurm.submission import Job, piece
from pipeline.step import Step

MAX_NAME = 60
"""Characters of a job's name, of which names of files are made."""


@dataclass(eq=False)
class Task:
    """Steps that one process does in one go."""

    steps: list[Step]
    needs: set["Task"] = field(default_factory=set)
    """Those of other tasks that none of the others needs already."""
    level: int = 0
    """The longest way to it from a task that needs nothing."""
    job: "Planned | None" = None

    @property
    def kind(self) -> str:
        return workflow().KINDS[self.steps[0].stage]

    def numbers(self) -> dict["Planned", frozenset[int]]:
        """By job, which of its tasks it needs."""
        found: dict[Planned, set[int]] = {}
        for needed in self.needs:
            assert needed.job
            found.setdefault(needed.job, set()).add(needed.job.tasks.index(needed))
        return {job: frozenset(numbers) for job, numbers in found.items()}


@dataclass(eq=False)
class Planned:
    """A job to be, with its tasks in their order."""

    name: str
    tasks: list[Task]


def arrange(pending: Sequence[Step], max_array_size: int) -> list[Job]:
    """The jobs of steps in plan order, each after those it needs; what is needed and not among them is sealed."""
    tasks = list(_tasks(pending))
    _link(tasks)
    jobs: list[Planned] = []
    names = Counter[str]()
    for level in sorted({task.level for task in tasks}):
        for group in _arrays([task for task in tasks if task.level == level]):
            for start in range(0, len(group), max_array_size):
                part = group[start : start + max_array_size]
                job = Planned(_unique(_name(part), names), part)
                jobs.append(job)
                for task in part:
                    task.job = job
    return [_as_job(job) for job in jobs]


def slug(text: str) -> str:
    """For names of jobs and files: lower-case letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower())[:MAX_NAME].strip("-.") or "job"


def _tasks(pending: Iterable[Step]) -> Iterator[Task]:
    """Consecutive steps that ask one server together, every other step alone."""
    for server, steps in groupby(pending, lambda step: step.service and step.service.fingerprint):
        if server:
            yield Task(list(steps))
        else:
            yield from (Task([step]) for step in steps)


def _link(tasks: list[Task]) -> None:
    """Fill in `needs` and `level`."""
    of_step = {step.fingerprint: task for task in tasks for step in task.steps}
    above: dict[Task, set[Task]] = {}
    for task in tasks:
        found = {of_step.get(needed.fingerprint) for step in task.steps for needed in step.all_dependencies()}
        direct = {needed for needed in found if needed and needed is not task}
        further = set[Task]().union(*(above[needed] for needed in direct))
        above[task] = direct | further
        task.needs = direct - further
        task.level = max((needed.level + 1 for needed in direct), default=0)


def _arrays(tasks: list[Task]) -> Iterator[list[Task]]:
    """Tasks of one level that can be one job: of the same stages, and waiting alike."""
    alike: dict[object, list[Task]] = {}
    for task in tasks:
        waits = frozenset((job, _how(job, numbers)) for job, numbers in task.numbers().items())
        stages = frozenset(step.stage for step in task.steps)
        alike.setdefault((task.kind, stages, waits), []).append(task)
    for group in alike.values():
        yield from _rounds(group)


def _how(job: Planned, numbers: frozenset[int]) -> object:
    """Waiting for one task of an array may be alike although the tasks are others."""
    return "one of many" if len(numbers) == 1 < len(job.tasks) else numbers


def _rounds(alike: list[Task]) -> Iterator[list[Task]]:
    """Arrays of which task i waits for the tasks i of other arrays, and what then remains by what it waits for."""
    queues: dict[frozenset[tuple[Planned, int]], list[Task]] = {}
    for task in alike:
        ones = ((job, numbers) for job, numbers in task.numbers().items() if _how(job, numbers) == "one of many")
        queues.setdefault(frozenset((job, min(numbers)) for job, numbers in ones), []).append(task)
    arrays = {job for waits in queues for job, _ in waits}
    size = max((len(job.tasks) for job in arrays), default=0)
    rows = [frozenset((job, number) for job in arrays) for number in range(size)]
    if arrays and set(rows) == set(queues):
        for _ in range(min(map(len, queues.values()))):
            yield [queues[row].pop(0) for row in rows]
    yield from filter(None, queues.values())


def _as_job(job: Planned) -> Job:
    """Its record, which says what all tasks wait for, and what each waits for by its number."""
    numbers = [task.numbers() for task in job.tasks]
    after, corresponding, after_tasks = [], [], {}
    for needed in numbers[0]:
        wanted = {each[needed] for each in numbers}
        if len(wanted) > 1:
            corresponding.append(needed.name)
        elif len(numbers[0][needed]) == len(needed.tasks):
            after.append(needed.name)
        else:
            after_tasks[needed.name] = sorted(numbers[0][needed])
    return Job(
        name=job.name,
        kind=job.tasks[0].kind,
        tasks=[[piece(step) for step in task.steps] for task in job.tasks],
        after=sorted(after),
        after_corresponding=sorted(corresponding),
        after_tasks=dict(sorted(after_tasks.items())),
    )


def _name(tasks: list[Task]) -> str:
    """The step's own, or what the names of all steps begin or end with and the kind of work."""
    names = [step.name.split("/") for task in tasks for step in task.steps]
    if len(names) == 1:
        return slug("-".join(names[0]))
    if len(names) == len(tasks) and (ending := _common([name[::-1] for name in names])[::-1]):
        return slug("-".join(ending))
    return slug("-".join([*_common(names), tasks[0].kind]))


def _common(names: list[list[str]]) -> list[str]:
    """The words that all begin with."""
    length = next((i for i, words in enumerate(zip(*names, strict=False)) if len(set(words)) > 1), None)
    return names[0][: min(map(len, names)) if length is None else length]


def _unique(name: str, taken: "Counter[str]") -> str:
    """With a number if there is one of that name."""
    taken[name] += 1
    if taken[name] == 1:
        return name
    return _unique(f"{name}-{taken[name]}", taken)
