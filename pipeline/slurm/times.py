"""How long a task waited in the queue and ran, from its events: also long after Slurm has forgotten it."""

import time
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from pipeline.slurm.standing import Standing
from pipeline.slurm.tasks import Task, events, is_done
from pipeline.store import Store


@dataclass(frozen=True)
class Times:
    """In seconds. Waiting for other steps is no waiting in the queue."""

    queued: float = 0.0
    ran: float = 0.0

    def __add__(self, other: "Times") -> "Times":
        return Times(self.queued + other.queued, self.ran + other.ran)


def times(store: Store, task: Task, standing: Standing | None) -> Times:
    """Of all its starts until now. The end of one that was killed is not known; neither counts then."""
    moments = [(str(event.what), _seconds(event.at)) for event in events(store, task)]
    if (ready := _ready(store, task)) is not None:
        moments.insert(0, ("ready", ready))
    is_running = bool(moments) and moments[-1][0] == "started"
    if standing and not standing.is_over and is_running == (standing.word == "running"):
        moments.append(("now", time.time()))
    queued = ran = 0.0
    for (before, began), (after, ended) in pairwise(moments):
        if before != "started":
            queued += max(0.0, ended - began)
        elif after != "started":
            ran += max(0.0, ended - began)
    return Times(queued, ran)


def _ready(store: Store, task: Task) -> float | None:
    """When it could have started: submitted, and everything that it waits for done."""
    moments = [_seconds(task.submission.submitted_at)]
    for needed in task.needed():
        finished = [event.at for event in events(store, needed) if event.what == "finished"]
        if not finished or not is_done(store, needed):
            return None
        moments.append(_seconds(finished[-1]))
    return max(moments)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
