"""Progress of asking, told at most once a second."""

import time

from pipeline.stage import Workspace


class ProgressReport:
    """Called after every answer; writes now and then, and always at the end."""

    def __init__(self, out: Workspace) -> None:
        self._out = out
        self._told = 0.0

    def __call__(self, done: int, total: int, tokens_per_second: float) -> None:
        if done == total or time.monotonic() - self._told >= 1.0:
            self._told = time.monotonic()
            self._out.progress(done, total, tokens_per_second=round(tokens_per_second, 1))
