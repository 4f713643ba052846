"""This side of a server of programs: start it, ask it, replace it when it dies."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import StepFailed
from pipeline.guard import guarded
from stages._sandbox.inside import server
from stages._sandbox.inside.plan import Limits, Plan

ROOT = Path(__file__).parents[2]
BOOT = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {server.__name__} import main; del sys.path[0]; main()"
PATIENCE_SECONDS = 60.0
"""On top of a program's real time, for a busy machine; after it the server itself is taken to hang."""

Mode = Literal["namespaces", "limits only"]


class SandboxError(StepFailed):
    """The sandbox itself does not work; no verdict about a program."""


def mode(plan: Plan) -> Mode:
    """Its name in results."""
    return "namespaces" if plan.namespaces else "limits only"


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
        self._mode = mode(plan)

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
        """The guard kills everything below it."""
        while self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
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


def _environment() -> dict[str, str]:
    """Nothing of this process's own but where libraries are; the same order of sets in every run."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    fixed = {
        "PATH": os.defpath,
        "LOGNAME": "program",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    return {**kept, **fixed}
