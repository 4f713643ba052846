"""Run Python programs in processes of their own, cut off as far as this machine allows; did they get to their end?

With namespaces: no network, no view of other processes, a read-only view of the files without anything private, an
empty home in memory, no capabilities, as root another user. Without them: the same as far as Landlock, a filter of
system calls and resource limits reach, and the verdict says so. In both cases everything that a program started is
killed when it ends or its time is up.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from pipeline.errors import StepFailed
from pipeline.guard import guarded
from stages._sandbox.inside import landlock, seccomp, server
from stages._sandbox.inside.plan import Limits, Plan, unused_user

ROOT = Path(__file__).parents[2]
BOOT = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {server.__name__} import main; del sys.path[0]; main()"
PATIENCE_SECONDS = 60.0
"""On top of a program's real time, for a busy machine; after it the server itself is taken to hang."""
DEFAULT_LIMITS = Limits()
PROBE = "import os, colorsys\nfor path in {paths}: os.listdir(path)\nopen(os.environ['HOME'] + '/note', 'w').write('x')"

Mode = Literal["namespaces", "limits only"]
Key = TypeVar("Key")


class SandboxError(StepFailed):
    """The sandbox itself does not work; no verdict about a program."""


@dataclass(frozen=True)
class Isolation:
    """How programs are cut off, and what of it this machine cannot enforce."""

    mode: Mode
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """`status`: passed (the program ran to its end), failed (an exception, an early exit) or timeout."""

    status: Literal["passed", "failed", "timeout"]
    detail: str
    isolation: Mode

    @property
    def passed(self) -> bool:
        return self.status == "passed"


class Server:
    """A process that runs one program after the other. Raises SandboxError where the plan does not work here."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._mode: Mode = "namespaces" if plan.namespaces else "limits only"

    def __enter__(self) -> "Server":
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True)
        Path(self._folder.name).chmod(0o711)  # another user must come through to its home
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def run(self, program: str, limits: Limits) -> Verdict:
        """Execute `program`; it passes when its last line was reached without an exception."""
        self._send([program, asdict(limits)])
        try:
            reply = self._receive(limits.wall_seconds + PATIENCE_SECONDS)
        except TimeoutError:
            self._restart()
            return Verdict("timeout", "timed out", self._mode)
        except EOFError:
            self._restart()
            return Verdict("failed", "the program took its sandbox down", self._mode)
        if reply["status"] == "broken":
            raise SandboxError(f"the sandbox ({self._mode}) does not work here: {reply['detail']}")
        return Verdict(reply["status"], reply["detail"][:500], self._mode)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            guarded([sys.executable, "-s", "-P", "-B", "-c", BOOT]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=_environment(),
            start_new_session=True,
        )
        self._buffer = b""
        self._send(asdict(replace(self._plan, folder=self._folder.name)))

    def _restart(self) -> None:
        self._stop()
        self._start()

    def _stop(self) -> None:
        """The guard kills everything below it at the second request."""
        while self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()

    def _send(self, order: object) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # `_receive` finds its end
            return

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout
        while b"\n" not in self._buffer:
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                raise TimeoutError
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))


def run_python(program: str, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Execute one program; for more than one `run_programs` is faster."""
    with Server(_plan()) as server:
        return server.run(program, limits)


def run_programs(
    programs: Iterable[tuple[Key, str]], limits: Limits, num_workers: int
) -> Iterator[tuple[Key, Verdict]]:
    """Verdicts with their programs' keys, as they come, of `num_workers` at a time. Programs are drawn as needed."""
    with ExitStack() as stack:
        idle: SimpleQueue[Server] = SimpleQueue()
        for _ in range(num_workers):
            idle.put(stack.enter_context(Server(_plan())))
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


def isolation() -> Isolation:
    """What this machine offers, found out by trying."""
    plan = _plan()
    return Isolation("namespaces" if plan.namespaces else "limits only", plan.missing(_is_root_of_many()))


@cache
def _plan() -> Plan:
    return choose(plans())


def choose(plans: Iterable[Plan]) -> Plan:
    """The first that works. Raises SandboxError where none does."""
    problems = []
    for plan in plans:
        try:
            with Server(plan) as server:
                verdict = server.run(_probe(), Limits())
        except SandboxError as error:
            problems.append(str(error))
            continue
        if verdict.passed:
            return plan
        problems.append(verdict.detail)
    raise SandboxError("model-written code cannot be run here: " + "; ".join(dict.fromkeys(problems)))


def plans(namespaces: bool = True) -> list[Plan]:
    """From the strongest to the weakest; without `namespaces` only the latter half."""
    users = _is_root_of_many()
    shown = _python_folders()
    base = Plan(
        namespaces=False,
        seccomp=seccomp.available(),
        landlock=landlock.version() >= landlock.OLDEST,
        shown=shown,
        hidden=_private_folders(),
    )
    limited = [replace(base, own_user=True), replace(base, own_user=True, read_everything=True)] if users else []
    limited.append(base)
    isolated = [replace(each, namespaces=True, landlock=False, user_namespace=not each.own_user) for each in limited]
    return [*(isolated if namespaces and seccomp.available() else []), *limited]


def _is_root_of_many() -> bool:
    try:
        unused_user(0)
    except ValueError:
        return False
    return os.geteuid() == 0


def _python_folders() -> list[str]:
    """Where this Python and its packages are."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *_packages(), *libraries}
    real = {os.path.realpath(path) for path in paths if path}
    return sorted(path for path in paths | real if path and Path(path).is_dir())


def _packages() -> list[str]:
    import site

    return [path for path in site.getsitepackages() if Path(path).is_dir()]


def _private_folders() -> list[str]:
    home = Path.home()
    return [str(home)] if home.is_dir() and home != Path("/") else []


def _probe() -> str:
    return PROBE.format(paths=_packages())


def _environment() -> dict[str, str]:
    """Nothing of this process's own but where libraries are; the same order of sets in every run."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {**kept, "PATH": os.defpath, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
