"""One writer per artifact, across processes and machines.

On one machine the kernel's file lock decides: it is released when its holder dies, so a stale lock cannot exist.
Network file systems may not carry that lock between machines, so the holder also writes who it is and
touches the file; a record from another machine that was touched lately counts as held.
"""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


class Lock:
    """An exclusive lock on `path`, to be tried with `acquire` and given back with `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._released = threading.Event()

    def acquire(self) -> bool:
        """Take the lock if it is free; never waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if self._held_elsewhere():
            os.close(descriptor)
            return False
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": os.uname().nodename, "pid": os.getpid()}).encode(), 0)
        self._descriptor = descriptor
        threading.Thread(target=self._beat, daemon=True).start()
        return True

    def release(self) -> None:
        """Give it back. The file stays (deleting it would race with whoever is opening it), emptied."""
        if self._descriptor is not None:
            self._released.set()
            os.truncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> dict[str, Any] | None:
        """{"host", "pid"} of the last holder that did not release, dead or alive."""
        try:
            return json.loads(self.path.read_text() or "null")
        except (OSError, ValueError):
            return None

    def is_held(self) -> bool:
        """Whether somebody works under it now."""
        if not self.path.exists():
            return False
        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return self._held_elsewhere()

    def _held_elsewhere(self) -> bool:
        holder = self.holder()
        elsewhere = holder is not None and holder["host"] != os.uname().nodename
        return elsewhere and time.time() - self.path.stat().st_mtime < STALE_SECONDS

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            os.utime(self.path)

    def __enter__(self) -> Self:
        while not self.acquire():
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
