"""When a task that runs into its time limit again and again is not requeued any more.

What a process says to have done is lost if it was not saved, so progress is measured where the next start takes up
the work: a step that cannot resume begins at nothing each time, however far it came.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.display import PlainDisplay
from pipeline.slurm.submission import Event, Piece
from pipeline.stage import PROGRESS
from pipeline.step import Step
from pipeline.store import Store

LEAST_PROGRESS = 0.005
"""Of a step; what a step that begins anew has done when it is first looked at is less."""


def saved(store: Store, pieces: Iterable[Piece], resumed: Mapping[str, float]) -> float:
    """Steps that are sealed, and the parts of others that were done when this start took them up."""
    return sum(
        1.0 if store.is_sealed(piece.stage, piece.fingerprint) else resumed.get(piece.fingerprint, 0.0)
        for piece in pieces
    )


def num_timeouts_in_a_row(events: Iterable[Event]) -> int:
    """How many of the last stops at the time limit found no more saved than the first of them; others do not count."""
    best, count = -1.0, 0
    for event in events:
        if event.is_timeout:
            progress = event.progress or 0.0
            count = 1 if progress > best + LEAST_PROGRESS else count + 1
            best = max(best, progress)
    return count


class Watch(PlainDisplay):
    """Sees where each step takes up its work."""

    def __init__(self, pending: Iterable[Step], store: Store) -> None:
        """Forget what an earlier start said of its progress, of which this one may have lost something."""
        super().__init__()
        self.resumed: dict[str, float] = {}
        """Fingerprint -> the part of the step that was done already."""
        self._fingerprints = {step.name: step.fingerprint for step in pending}
        for step in pending:
            if not store.lock(step.stage, step.fingerprint).is_held():
                (store.partial(step.stage, step.fingerprint) / PROGRESS).unlink(missing_ok=True)

    def tick(self, name: str, elapsed_seconds: float, progress: dict[str, Any]) -> None:
        if name in self._fingerprints and progress.get("done") is not None and progress.get("total"):
            self.resumed.setdefault(self._fingerprints[name], progress["done"] / progress["total"])
        super().tick(name, elapsed_seconds, progress)
