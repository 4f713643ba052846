"""`status RECIPE`: how far each step is, from the store, and for what was submitted from Slurm, if it can be asked."""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.plan import State
    from pipeline.slurm.standing import Watcher
    from pipeline.slurm.tasks import Task
    from pipeline.step import Step
    from pipeline.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_store(parser)


def main(arguments: argparse.Namespace) -> int:
    from pipeline import history
    from pipeline.plan import state

    plan, store = shared.open_plan(arguments)
    recorded = history.read(store, arguments.recipe).steps
    width = max(len(step.name) for step in plan.steps)
    tasks = _tasks(plan.steps, store)
    watcher = _watcher(store, [step for step in plan.steps if step.fingerprint in tasks], tasks)
    for step in plan.steps:
        now, task = state(step, store, recorded), tasks.get(step.fingerprint)
        word, detail = _described(step, store, now)
        if task and watcher:
            word, detail = _submitted(step, store, task, watcher, (word, detail))
        print(f"{step.name:<{width}}  {word:<9} {detail}".rstrip())
        if word == "running" and (line := _last_line(step, store, task)):
            print(f"{'':<{width}}            | {line}")
    if watcher:
        _print_totals(store, list({task.key: task for task in tasks.values()}.values()), watcher)
        _print_advice([step for step in plan.steps if step.fingerprint in tasks], store, tasks, watcher)
    return 0


def _tasks(steps: "list[Step]", store: "Store") -> "dict[str, Task]":
    """Fingerprint -> what was submitted to do that step; empty, and nothing is imported, where nothing was."""
    from pipeline.slurm import FOLDER

    if not (store.root / FOLDER).is_dir():
        return {}
    from pipeline.slurm.tasks import tasks_of

    known = tasks_of(store)
    return {step.fingerprint: known[step.fingerprint] for step in steps if step.fingerprint in known}


def _watcher(store: "Store", steps: "list[Step]", tasks: "dict[str, Task]") -> "Watcher | None":
    if not tasks:
        return None
    from pipeline.slurm.standing import Watcher

    undone = [step for step in steps if not store.is_sealed(step.stage, step.fingerprint)]
    return Watcher(store, [tasks[step.fingerprint] for step in undone])


def _described(step: "Step", store: "Store", now: "State") -> tuple[str, str]:
    """State and detail as the store alone has them."""
    from pipeline.display import describe, duration
    from pipeline.job import read_progress
    from pipeline.plan import State
    from pipeline.stage import PROGRESS

    if now == State.CACHED:
        manifest = store.artifact(step.stage, step.fingerprint).manifest()
        return now, f"took {duration(manifest['duration_seconds'])}, {manifest['peak_memory_bytes'] / 2**30:.2f} GiB"
    if now not in (State.RUNNING, State.PARTIAL):
        return now, ""
    holder = store.lock(step.stage, step.fingerprint).holder() if now == State.RUNNING else None
    where = f"by process {holder['pid']} on {holder['host']}  " if holder else ""
    return now, where + describe(0.0, read_progress(store.partial(step.stage, step.fingerprint) / PROGRESS))


def _submitted(
    step: "Step", store: "Store", task: "Task", watcher: "Watcher", described: tuple[str, str]
) -> tuple[str, str]:
    """The same, with what its task tells."""
    from pipeline.slurm.times import times

    word, detail = described
    if word == "cached":
        return word, f"{detail}, {task.label}" + _times_in_words(times(store, task, None))
    standing = watcher.standing(task)
    if word == "running":
        return word, f"{standing.text}  {detail}" if not standing.is_over else detail
    if standing.word == "done":  # and deleted since
        return word, detail
    if standing.word == "running":
        return "queued", f"{standing.text}, which has not come to it yet"
    return standing.word, standing.text + (f"  ({detail})" if detail and not standing.is_over else "")


def _times_in_words(spent: object) -> str:
    from pipeline.display import duration

    return f", queued {duration(spent.queued)}, ran {duration(spent.ran)}"  # type: ignore[attr-defined]


def _last_line(step: "Step", store: "Store", task: "Task | None") -> str:
    """Of its log; nothing if a start before this one wrote it."""
    from pipeline.tail import last_lines

    log = store.log(step.stage, step.fingerprint)
    if task and log.exists() and log.stat().st_mtime < _last_start(store, task):
        return ""
    return next(iter(last_lines(log, 1)), "")


def _last_start(store: "Store", task: "Task") -> float:
    from datetime import datetime

    from pipeline.slurm.tasks import events

    starts = [event.at for event in events(store, task) if event.what == "started"]
    return datetime.fromisoformat(starts[-1]).timestamp() if starts else 0.0


def _print_totals(store: "Store", tasks: "list[Task]", watcher: "Watcher") -> None:
    """How well the cluster was used."""
    from pipeline.display import duration
    from pipeline.slurm.tasks import is_done
    from pipeline.slurm.times import Times, times

    spent = sum(
        (times(store, task, None if is_done(store, task) else watcher.standing(task)) for task in tasks), Times()
    )
    total = spent.queued + spent.ran
    share = f", {100 * spent.ran / total:.0f} % of it running" if total else ""
    print(f"{len(tasks)} tasks: queued {duration(spent.queued)}, ran {duration(spent.ran)}{share}")
    if watcher.silence:
        print(watcher.silence)


def _print_advice(steps: "list[Step]", store: "Store", tasks: "dict[str, Task]", watcher: "Watcher") -> None:
    """The command that continues, if nothing else will."""
    from pipeline.slurm.submission import submit_command

    undone = [step for step in steps if not store.is_sealed(step.stage, step.fingerprint)]
    ended = [tasks[step.fingerprint] for step in undone if watcher.standing(tasks[step.fingerprint]).is_over]
    if ended:
        last = max(ended, key=lambda task: task.submission.id)
        print(f"after mending the cause, continue with: {submit_command(store, last.submission)}")
