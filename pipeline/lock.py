"""One writer per artifact, across processes, containers and machines, on local and network file systems.

A lock is a series of files, PATH.1, PATH.2, ...: whoever creates the next one holds the lock. The rules:

- A file is created with O_EXCL, by one process alone (open(2): also over NFS, since version 3). flock is not used: some
  mounts do not have it, on others it is each machine's own.
- The lock is free when there is no file, or the newest says that it was released, or its holder is dead.
- The newest file is never deleted, older ones by the next holder: a number is not used twice. A process that was slow
  and created an older number than there is now has lost.
- In the file is who holds it. A holder of this kernel and this process namespace is dead when its process is gone.
- Of any other the process number means nothing. It touches its file every few seconds; it is dead when somebody who
  wants the lock has seen no change for a minute of looking. No clock is compared with that of another machine.
- A holder that was taken for dead (its machine slept) learns of it at its next touch, and before it seals (`is_lost`).
"""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
POLL_SECONDS = 0.2
LONGEST_LOOK_SECONDS = 1.0
"""What counts of the time between two looks: while a file server hangs, nobody can touch a file."""
_RELEASED = b"-"
"""Written over the first byte of the record."""


class Lock:
    """An exclusive lock, to be tried with `acquire` and given back with `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.on_loss: Callable[[], None] = lambda: None
        """Called in another thread, when somebody took this holder for dead."""
        self._mine = 0
        """The number of the file that is ours; 0 while none is."""
        self._released = threading.Event()
        self._seen: tuple[int, int] = (0, 0)
        """Number and time of change of the file that was newest at the last look."""
        self._looked_at = 0.0
        self._quiet_seconds = 0.0

    def acquire(self) -> bool:
        """Take the lock if it is free; never waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        newest = self._newest()
        if newest and self._is_in_use(newest, self._has_been_quiet):
            return False
        mine = newest + 1
        try:
            descriptor = os.open(self._file(mine), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        try:
            _write(descriptor, json.dumps(_myself()).encode())
        except OSError:  # a full disk
            self._file(mine).unlink(missing_ok=True)
            raise
        if self._newest() != mine:
            self._file(mine).unlink(missing_ok=True)
            return False
        for older in self._numbers():
            if older < mine:
                self._file(older).unlink(missing_ok=True)
        self._mine = mine
        self._released.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return True

    def release(self) -> None:
        """Give it back."""
        if self._mine:
            self._released.set()
            with contextlib.suppress(OSError):  # another took it, or the file server is away: it counts as dead
                if not self.is_lost():
                    _write(os.open(self._file(self._mine), os.O_WRONLY | os.O_CLOEXEC), _RELEASED)
            self._mine = 0

    def is_lost(self) -> bool:
        """Whether another has it now, who took us for dead."""
        return self._newest() != self._mine

    def holder(self) -> dict[str, Any] | None:
        """{"host", "pid", ...} of the last holder that did not release, dead or alive."""
        try:
            return _record(self._read(self._newest())[0])
        except OSError:
            return None

    def is_held(self) -> bool:
        """Whether somebody works under it now, as far as one look tells: on another machine, who touched it lately."""
        newest = self._newest()
        return bool(newest) and self._is_in_use(newest, lambda number, changed: self._age(changed) > STALE_SECONDS)

    def _is_in_use(self, number: int, is_quiet: Callable[[int, int], bool]) -> bool:
        try:
            text, changed = self._read(number)
        except OSError:  # deleted just now: others are at it
            return True
        if text.startswith(_RELEASED):
            return False
        record = _record(text)
        if record and record["place"] and record["place"] == _place():
            return _is_alive(record["pid"], record["started"])
        return not is_quiet(number, changed)

    def _has_been_quiet(self, number: int, changed: int) -> bool:
        """Whether the file has been the same for long enough, over all looks of this object."""
        now = time.monotonic()
        if self._seen == (number, changed):
            self._quiet_seconds += min(now - self._looked_at, LONGEST_LOOK_SECONDS)
        else:
            self._seen, self._quiet_seconds = (number, changed), 0.0
        self._looked_at = now
        return self._quiet_seconds >= STALE_SECONDS

    def _age(self, changed: int) -> float:
        """Seconds since then by the clock of the file system, which may not be that of this machine."""
        probe = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            probe.touch(exist_ok=False)
            now = probe.stat().st_mtime_ns
            probe.unlink(missing_ok=True)
        except OSError:  # not ours to write
            now = time.time_ns()
        return (now - changed) / 1e9

    def _beat(self) -> None:
        mine = self._mine
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                is_lost = self._newest() > mine
                if not is_lost:
                    os.utime(self._file(mine))
            except OSError:  # the file server is away: it may come back
                continue
            if is_lost:
                self.on_loss()
                return

    def _newest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self.path.parent)  # noqa: PTH208  a step asks this for each of many files
        except FileNotFoundError:
            return []
        start = f"{self.path.name}."
        ends = (name.removeprefix(start) for name in names if name.startswith(start))
        return [int(end) for end in ends if end.isdecimal()]

    def _file(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _read(self, number: int) -> tuple[bytes, int]:
        """Content and time of change in nanoseconds. Opened, for that is when NFS asks the server."""
        with self._file(number).open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns

    def __enter__(self) -> Self:
        while not self.acquire():
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _write(descriptor: int, start: bytes) -> None:
    """Closed, for that is when other NFS clients get to see it."""
    try:
        os.pwrite(descriptor, start, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text or b"null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": os.uname().nodename, "pid": pid, "started": _started(pid), "place": _place()}


def _is_alive(pid: int, started: str | None) -> bool:
    if found := _started(pid):
        return found == started
    try:
        os.kill(pid, 0)
    except PermissionError:  # it is another user's, and /proc does not show those
        return True
    except ProcessLookupError:
        pass
    return False


def _started(pid: int) -> str | None:
    """When that process began, in the kernel's ticks; None for one that ended, or that is not shown.

    The first thread may have ended and another still be on its way: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, num_threads, started = fields[0], int(fields[17]), fields[19]
    return None if state in "ZX" and num_threads <= 1 else started


def _place() -> str | None:
    """Where a process number means what it means here: this start of this kernel, this process namespace.

    Containers of one host have one kernel and may have one host name. None where the kernel does not tell.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None
