"""Which steps may run at once.

The clients of one server side by side, scoring beside them, everything else alone; or, if asked, also others side by
side, each with its share of the machine.

Several clients keep a server busy while one of them waits for its last, longest answers. What may not run at once
keeps the plan's order, so that each server is started once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from pipeline.share import Share
from pipeline.stage import Needs
from pipeline.step import Step

NUM_CLIENTS = 4
"""Steps that ask one server at the same time."""
NO_MACHINE = Share((), 0)
"""For one step at a time, which gets all of whatever there is."""


class Schedule:
    """Steps that wait and steps that run."""

    def __init__(
        self,
        steps: Sequence[Step],
        scoring: Collection[str] = (),
        max_parallel: int = 1,
        machine: Share = NO_MACHINE,
        needs: Callable[[Step], Needs | None] = lambda step: None,
    ) -> None:
        """`steps`: each after what it needs. `scoring`: stages of which one step may run beside clients.

        `max_parallel`: so many that ask no server may run at once, if they fit into the machine. `needs` is asked for
        steps whose inputs are all there.
        """
        self._place = {step.fingerprint: index for index, step in enumerate(steps)}
        self._scoring = scoring
        self._max_parallel, self._machine, self._needs = max_parallel, machine, needs
        self._shares: dict[str, Share] = {}
        self.waiting = list(steps)
        self.running: list[Step] = []

    @property
    def is_finished(self) -> bool:
        return not self.waiting and not self.running

    def take(self) -> list[Step]:
        """The steps that may start now, in the plan's order; from now on they count as running."""
        taken = list(self._beside_clients() if self._is_for_clients() else self._side_by_side())
        self.running += taken
        self.waiting = [step for step in self.waiting if step not in taken]
        if len(self.running) == len(taken) == 1:  # nothing else can start before it ends
            self._shares.pop(taken[0].fingerprint, None)
        return taken

    def share(self, step: Step) -> Share:
        """What a step that runs may use."""
        return self._shares.get(step.fingerprint, self._machine)

    def finish(self, step: Step) -> None:
        """It is sealed."""
        self.running.remove(step)
        self._shares.pop(step.fingerprint, None)

    def give_up(self, step: Step) -> None:
        """It failed: what runs goes on, and nothing else starts."""
        self.finish(step)
        self.waiting = []

    def put_back(self, steps: Iterable[Step]) -> None:
        """They were stopped and are to run again."""
        for step in steps:
            self.finish(step)
            self.waiting.append(step)
        self.waiting.sort(key=lambda step: self._place[step.fingerprint])

    def is_alone(self, step: Step) -> bool:
        """Whether it needs the machine for itself, or a share of it."""
        return step.service is None and step.stage not in self._scoring

    def _is_for_clients(self) -> bool:
        """Whether a server has the machine, or is the next to get it."""
        if any(step.service for step in self.running):
            return True
        return not any(map(self.is_alone, [*self.running, *self.waiting[:1]]))

    def _side_by_side(self) -> Iterator[Step]:
        """What asks no server, is ready and fits, up to the first step that asks one."""
        held = [self.share(step) for step in self.running]
        undone = self._undone()
        for step in self.waiting:
            if step.service or len(held) >= self._max_parallel:
                return
            if _is_ready(step, undone) and (share := self._deal(step, held)):
                held.append(share)
                self._shares[step.fingerprint] = share
                yield step

    def _deal(self, step: Step, held: Sequence[Share]) -> Share | None:
        needs = self._needs(step) if self._max_parallel > 1 else None
        return self._machine.deal(needs, held, self._max_parallel)

    def _beside_clients(self) -> Iterator[Step]:
        """Clients of the one server, and one scoring step, up to the first step that must not be overtaken."""
        clients = [step for step in self.running if step.service]
        num_clients, num_scoring = len(clients), len(self.running) - len(clients)
        server = _server(clients[0]) if clients else None
        undone = self._undone()
        for step in self.waiting:
            server = server or _server(step)
            if self.is_alone(step) or (step.service and _server(step) != server):
                return
            if not _is_ready(step, undone):
                continue
            if step.service and num_clients < NUM_CLIENTS:
                num_clients += 1
                yield step
            elif not step.service and num_scoring == 0:
                num_scoring += 1
                yield step

    def _undone(self) -> set[str]:
        return {step.fingerprint for step in (*self.running, *self.waiting)}


def _is_ready(step: Step, undone: Collection[str]) -> bool:
    return all(needed.fingerprint not in undone for needed in step.all_dependencies())


def _server(step: Step) -> str | None:
    return step.service.fingerprint if step.service else None
