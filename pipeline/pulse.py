"""Tell a server that hangs from one that works, however long it works."""

import threading
import time
from collections.abc import Callable, Hashable

Pulse = Callable[[float], Hashable | None]
"""Asked with a timeout in seconds. It changes while work is done and is None when there is none.

OSError or ValueError: no answer.
"""


NO_ANSWER_SECONDS = 60.0
"""A server that works for minutes on end still answers when it is asked how it is."""


class Watch:
    """Asks for the pulse all the time, in a thread of its own.

    Only time that was watched counts, not that in which this process was itself suspended.
    """

    def __init__(self, pulse: Pulse, limit_seconds: float) -> None:
        """`limit_seconds`: how long a server with work may not get on with it."""
        self._pulse = pulse
        self._limit_seconds = limit_seconds
        self._pause_seconds = min(2.0, limit_seconds / 8)
        self._timeout_seconds = min(20.0, limit_seconds / 2)
        self._stopped = threading.Event()
        self._still_seconds = 0.0
        self._silent_seconds = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def trouble(self) -> str | None:
        """In which way it hangs, if it does."""
        if self._silent_seconds > min(self._limit_seconds, NO_ANSWER_SECONDS):
            return f"hangs: no answer for {self._silent_seconds:.0f} s"
        if self._still_seconds > self._limit_seconds:
            return f"hangs: nothing done for {self._still_seconds:.0f} s, although it is asked"
        return None

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        before: Hashable | None = None
        while True:
            started, answers, moves = time.monotonic(), True, False
            try:
                now = self._pulse(self._timeout_seconds)
                moves = now is None or now != before
                before = now
            except (OSError, ValueError):
                answers = False
            if self._stopped.wait(self._pause_seconds):
                return
            seconds = min(time.monotonic() - started, self._pause_seconds + self._timeout_seconds)
            self._silent_seconds = 0.0 if answers else self._silent_seconds + seconds
            self._still_seconds = 0.0 if moves else self._still_seconds + seconds
