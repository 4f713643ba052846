"""Tell a server that hangs from one that works, however long it works."""

import threading
import time
from collections.abc import Callable, Hashable

Pulse = Callable[[float], Hashable | None]
"""Asked with a timeout in seconds. It changes while work is done and is None when there is none.

OSError or ValueError: no answer.
"""


class Watch:
    """Asks for the pulse all the time, in a thread of its own."""

    def __init__(self, pulse: Pulse, limit_seconds: float) -> None:
        """`limit_seconds`: how long a server with work may neither answer nor get on."""
        self._pulse = pulse
        self._limit_seconds = limit_seconds
        self._pause_seconds = min(2.0, limit_seconds / 8)
        self._timeout_seconds = min(30.0, limit_seconds / 2)
        self._stopped = threading.Event()
        self.silent_seconds = 0.0
        """Watched since the last sign of life; time in which we were suspended ourselves does not count."""
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def hangs(self) -> bool:
        return self.silent_seconds > self._limit_seconds

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        before: Hashable | None = None
        while True:
            started = time.monotonic()
            try:
                now = self._pulse(self._timeout_seconds)
                is_alive = now is None or now != before
                before = now
            except (OSError, ValueError):
                is_alive = False
            if self._stopped.wait(self._pause_seconds):
                return
            longest = self._pause_seconds + self._timeout_seconds
            self.silent_seconds = 0.0 if is_alive else self.silent_seconds + min(time.monotonic() - started, longest)
