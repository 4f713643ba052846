"""Which steps may run at once: the clients of one server side by side, scoring beside them, everything else alone.

Several clients keep a server busy while one of them waits for its last, longest answers. What may not run at once
keeps the plan's order, so that each server is started once.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from pipeline.step import Step

NUM_CLIENTS = 4
"""Steps that ask one server at the same time."""


class Schedule:
    """Steps that wait and steps that run."""

    def __init__(self, steps: Sequence[Step], scoring: Collection[str] = ()) -> None:
        """`steps`: each after what it needs. `scoring`: stages of which one step may run beside clients."""
        self._place = {step.fingerprint: index for index, step in enumerate(steps)}
        self._scoring = scoring
        self.waiting = list(steps)
        self.running: list[Step] = []

    @property
    def is_finished(self) -> bool:
        return not self.waiting and not self.running

    def take(self) -> list[Step]:
        """The steps that may start now, in the plan's order; from now on they count as running."""
        if any(map(self.is_alone, self.running)):
            taken = []
        elif not self.running and self.waiting and self.is_alone(self.waiting[0]):
            taken = [self.waiting[0]]
        else:
            taken = list(self._beside())
        self.running += taken
        self.waiting = [step for step in self.waiting if step not in taken]
        return taken

    def finish(self, step: Step) -> None:
        """It is sealed."""
        self.running.remove(step)

    def put_back(self, steps: Iterable[Step]) -> None:
        """They were stopped and are to run again."""
        for step in steps:
            self.running.remove(step)
            self.waiting.append(step)
        self.waiting.sort(key=lambda step: self._place[step.fingerprint])

    def is_alone(self, step: Step) -> bool:
        """Whether it needs the machine for itself."""
        return step.service is None and step.stage not in self._scoring

    def _beside(self) -> Iterator[Step]:
        """Clients of the one server, and one scoring step, up to the first step that must not be overtaken."""
        clients = [step for step in self.running if step.service]
        num_clients, num_scoring = len(clients), len(self.running) - len(clients)
        server = _server(clients[0]) if clients else None
        undone = {step.fingerprint for step in (*self.running, *self.waiting)}
        for step in self.waiting:
            server = server or _server(step)
            if self.is_alone(step) or (step.service and _server(step) != server):
                return
            if any(needed.fingerprint in undone for needed in step.all_dependencies()):
                continue
            if step.service and num_clients < NUM_CLIENTS:
                num_clients += 1
                yield step
            elif not step.service and num_scoring == 0:
                num_scoring += 1
                yield step


def _server(step: Step) -> str | None:
    return step.service.fingerprint if step.service else None
