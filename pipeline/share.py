"""Parts of a machine, for steps that run side by side: cores, memory, GPUs."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pipeline import machine
from pipeline.stage import Needs


class Share(NamedTuple):
    """What one step may use, or a whole machine."""

    cores: tuple[int, ...]
    """As the kernel numbers them."""
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    """UUIDs: CUDA numbers GPUs otherwise than nvidia-smi, unless told."""

    def deal(self, needs: Needs | None, held: "Collection[Share]", num_shares: int) -> "Share | None":
        """A part of what is not `held`; None if that does not suffice.

        It has the cores that are needed, or more, up to one of `num_shares` equal parts. A step that does not say what
        it needs, or needs more than there is, gets everything, when nobody else holds anything.
        """
        if needs is None or not self._has(needs):
            return None if held else self
        free = self._without(held)
        num_cores = max(needs.num_cores, len(self.cores) // num_shares)
        return (
            Share(free.cores[:num_cores], needs.memory_bytes, free.gpus[: needs.num_gpus]) if free._has(needs) else None
        )

    def environment(self, whole: "Share") -> dict[str, str]:
        """What tells a process and its libraries of this part of `whole`."""
        if self == whole:
            return {}
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if whole.gpus else {}
        return {machine.CORES_VARIABLE: str(len(self.cores)), **gpus}

    def _has(self, needs: Needs) -> bool:
        return (
            len(self.cores) >= needs.num_cores
            and self.memory_bytes >= needs.memory_bytes
            and len(self.gpus) >= needs.num_gpus
        )

    def _without(self, held: "Collection[Share]") -> "Share":
        cores = {core for share in held for core in share.cores}
        gpus = {gpu for share in held for gpu in share.gpus}
        return Share(
            tuple(core for core in self.cores if core not in cores),
            self.memory_bytes - sum(share.memory_bytes for share in held),
            tuple(gpu for gpu in self.gpus if gpu not in gpus),
        )


def of_this_machine() -> Share:
    """All that this process may use, and the memory that is free now."""
    cores = sorted(os.sched_getaffinity(0))[: machine.cpu_count()]
    return Share(tuple(cores), machine.memory_available_bytes(), tuple(gpu.uuid for gpu in machine.gpus()))


@contextmanager
def pinned(share: Share) -> Iterator[None]:
    """Processes that this thread starts meanwhile stay on those cores.

    Not where this process may use fewer cores than it can reach: other programs would choose the same ones.
    """
    reachable = os.sched_getaffinity(0)
    if len(reachable) > machine.cpu_count():
        yield
        return
    os.sched_setaffinity(0, share.cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, reachable)
