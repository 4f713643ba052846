"""Start, watch and stop guarded child processes."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from pipeline.downloads import environment as fetched_environment
from pipeline.guard import guarded
from pipeline.tail import last_lines

GRACE_SECONDS = 180.0
"""How long a stopped process may take to save its work before it is killed."""


class Process:
    """A command with its own process group and log; nothing of it outlives this object's process."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        environment: Mapping[str, str | None] | None = None,
        order: str | None = None,
    ) -> None:
        """`environment` is put over this process's own; None takes a variable out."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._file: IO[bytes] = log.open("ab")
        self.log_start = log.stat().st_size
        self._process = subprocess.Popen(
            guarded(command),
            stdin=subprocess.PIPE if order is not None else subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=_environment(environment or {}),
            start_new_session=True,
        )
        self._descriptor = os.pidfd_open(self._process.pid)
        self._was_asked = False
        if order is not None and self._process.stdin:
            try:
                self._process.stdin.write(order.encode())
                self._process.stdin.close()
            except BrokenPipeError:  # it died at once; its log says why
                pass

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self, timeout_seconds: float = 0.0) -> int | None:
        """The exit code once it ended, else None; returns at once when it ends within the timeout."""
        select.select([self], [], [], timeout_seconds)
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Once; it may take its time to save its work."""
        if not self._was_asked and self.poll() is None:
            self._was_asked = True
            self._process.terminate()

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> int:
        """Ask it to stop, kill it and everything below it after the grace; the exit code."""
        self.ask_to_stop()
        if self.poll(grace_seconds) is None:
            self._process.send_signal(signal.SIGQUIT)  # the guard kills its whole tree
        return self._process.wait(timeout=10.0)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of what this process wrote."""
        return "\n".join(last_lines(self.log, lines, self.log_start))

    def close(self) -> None:
        """Give back its descriptors."""
        os.close(self._descriptor)
        self._file.close()

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self._descriptor


def in_words(code: int) -> str:
    """An exit code for a message, with what it tells by itself."""
    killed = ": killed by hand, by a scheduler or for want of memory" if code == 128 + signal.SIGKILL else ""
    return f"exit code {code}{killed}"


def wait_for_any(processes: Iterable[Process], timeout_seconds: float) -> None:
    """Return when one of them has ended, or after the timeout."""
    select.select(list(processes), [], [], timeout_seconds)


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    wanted = {**os.environ, "PATH": _search_path(), "PYTHONUNBUFFERED": "1", **fetched_environment(), **changes}
    return {name: value for name, value in wanted.items() if value is not None}


def _search_path() -> str:
    """PATH with this interpreter's own programs (ninja, for DeepSpeed) first, also when no environment is activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
