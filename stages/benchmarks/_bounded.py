"""Calls that may never end or take all memory: each in a process that is ended for it, instead of the scoring."""

import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from pipeline.errors import StepFailed
from pipeline.machine import cpu_count

Result = TypeVar("Result")

MEMORY_BYTES = 4 * 1024**3
STARTING_SECONDS = 120.0
"""For a process to import what it needs, on a machine that is busy with other things."""
PATIENCE = 6.0
"""Real time a call may take in multiples of its processor time, where it waits instead of computing."""
SERVE = "import sys; from stages.benchmarks._bounded import serve; serve(int(sys.argv[1]))"


def bounded_map(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], seconds: float
) -> list[Result | None]:
    """function(*call) for each call, in order; None for one that took longer or more memory than allowed, or raised.

    `seconds` are of processor time, so that the load of the machine decides nothing; the kernel counts whole ones, so
    it is a little more. `function` is a module's, and never returns None itself. Uses all cores.
    Raises StepFailed where no process can be started.
    """
    todo = iter(list(enumerate(calls)))  # one iterator, shared by the threads
    results: list[Result | None] = [None] * len(calls)

    def work(_: int) -> None:
        worker = _Worker(function, seconds)
        try:
            for index, call in todo:
                results[index] = worker.call(call)
        finally:
            worker.end()

    number = min(cpu_count(), len(calls))
    with ThreadPoolExecutor(max(number, 1)) as pool:
        list(pool.map(work, range(number)))
    return results


class _Worker:
    """A process that makes one call after the other, and its successor once it was ended."""

    def __init__(self, function: Callable[..., Any], seconds: float) -> None:
        self._function, self._seconds = function, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def call(self, arguments: tuple[Any, ...]) -> Any:
        """The result, or None when the process did not survive the call or the call raised."""
        connection = self._connection or self._start()
        try:
            connection.send(arguments)
            if connection.poll(self._seconds * PATIENCE):
                return connection.recv()
        except (EOFError, OSError):
            pass  # ended by its limits
        self.end()
        return None

    def end(self) -> None:
        """Leaves nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        """A fresh interpreter: a copy of this one, which has threads, could wait forever for a lock of theirs."""
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        theirs.close()
        try:
            self._connection.send((self._function, self._seconds, MEMORY_BYTES))
            started = self._connection.poll(STARTING_SECONDS) and self._connection.recv()
        except (EOFError, OSError):
            started = False
        if not started:
            raise StepFailed(f"a process for {self._function.__module__} did not start; see the log above")
        return self._connection


def serve(file_descriptor: int) -> None:
    """Answer calls until the other side ends. The kernel ends this process when a call takes too much."""
    connection = Connection(file_descriptor)
    function, seconds, memory_bytes = connection.recv()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(True)
    for call in _calls(connection):
        _limit_processor_time(seconds)
        try:
            result = function(*call)
        except Exception:  # noqa: BLE001  whatever a library raises about a text, there is no result
            result = None
        connection.send(result)


def _calls(connection: Connection) -> Iterable[tuple[Any, ...]]:
    while True:
        try:
            yield connection.recv()
        except (EOFError, OSError):
            return


def _limit_processor_time(seconds: float) -> None:
    """From now on; the kernel sends SIGXCPU, which ends the process even inside a long operation of a C library."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
