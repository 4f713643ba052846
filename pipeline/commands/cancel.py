"""`cancel RECIPE [STEP ...]`: take back what was submitted for a recipe, or for some steps and what is made from them.

What waits is taken out of the queue. What runs is asked to save where it is, and ends by itself: Slurm's own way would
kill it after KillWait, usually 30 seconds.
"""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.slurm.standing import Watcher
    from pipeline.slurm.tasks import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="with what is made from it (default: all)")
    shared.add_store(parser)


def main(arguments: argparse.Namespace) -> int:
    from pipeline.errors import StepFailed
    from pipeline.slurm.standing import Watcher
    from pipeline.slurm.tasks import tasks_of

    plan, store = shared.open_plan(arguments)
    steps = plan.downstream([plan.find(name) for name in arguments.steps]) if arguments.steps else plan.steps
    known = tasks_of(store)
    found = [known[step.fingerprint] for step in steps if step.fingerprint in known]
    tasks = list({task.key: task for task in found}.values())
    watcher = Watcher(store, tasks)
    if watcher.silence:
        raise StepFailed(watcher.silence)
    alive = [task for task in tasks if watcher.is_alive(task)]
    for task in reversed(alive):  # what waits for another goes first
        _cancel(task, watcher)
    if not alive:
        print(f"nothing to cancel: no job that does {', '.join(arguments.steps) or plan.name} is in the queue")
    return 0


def _cancel(task: "Task", watcher: "Watcher") -> None:
    from pipeline.slurm import queue

    entry = watcher.entry(task)
    if entry and entry.state == "RUNNING":
        queue.terminate(task.number_for_slurm)
        print(f"{_named(task)}: asked to save and stop; to kill it at once: scancel {task.number_for_slurm}")
    else:
        queue.cancel(task.number_for_slurm)
        print(f"{_named(task)}: cancelled")


def _named(task: "Task") -> str:
    return f"{task.label} ({', '.join(piece.name for piece in task.pieces)})"
