"""Run Python programs in processes of their own, cut off as far as this machine allows; did they get to their end?

With namespaces: no network, no view of other processes, a read-only view of the files without anything private, an
empty home in memory, no capabilities, as root another user. Without them: the same as far as Landlock, a filter of
system calls and resource limits reach, and the verdict says so. In both cases everything that a program started is
killed when it ends or its time is up.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TypeVar

from stages._sandbox.choice import best
from stages._sandbox.client import Server, Verdict
from stages._sandbox.inside.plan import Limits

DEFAULT_LIMITS = Limits()
Key = TypeVar("Key")


def run_python(program: str, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Execute one program; for more than one `run_programs` is faster."""
    with Server(best()) as server:
        return server.run(program, limits)


def run_programs(
    programs: Iterable[tuple[Key, str]], limits: Limits, num_workers: int
) -> Iterator[tuple[Key, Verdict]]:
    """Verdicts with their programs' keys, as they come, of `num_workers` at a time. Programs are drawn as needed."""
    with ExitStack() as stack:
        idle: SimpleQueue[Server] = SimpleQueue()
        for _ in range(num_workers):
            idle.put(stack.enter_context(Server(best())))
        pool = stack.enter_context(ThreadPoolExecutor(num_workers))

        def run(key: Key, program: str) -> tuple[Key, Verdict]:
            server = idle.get()
            try:
                return key, server.run(program, limits)
            finally:
                idle.put(server)

        running: set[Future[tuple[Key, Verdict]]] = set()
        for key, program in programs:
            running.add(pool.submit(run, key, program))
            if len(running) >= 2 * num_workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)
