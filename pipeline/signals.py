"""Every usual way of stopping a program, as one."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Asked:
    """Who asked first."""

    number: int | None = None
    """The signal; None while nobody has."""
    at: float = 0.0
    """Seconds since the epoch."""


@contextmanager
def stop_signals() -> Iterator[Asked]:
    """The first SIGTERM, SIGHUP or SIGUSR2 raises KeyboardInterrupt, as Ctrl-C does; those after it do nothing.

    A scheduler signals every process, and some twice: work that is being saved then must not be interrupted.
    Signals that are handled already, by a caller, stay with it.
    """
    asked = Asked()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if asked.number is None:
            asked.number, asked.at = number, time.time()
            raise KeyboardInterrupt

    numbers = [
        number for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2) if not callable(signal.getsignal(number))
    ]
    previous = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
