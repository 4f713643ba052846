"""What a person sees of a run: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, Protocol


class Display(Protocol):
    """Told by the runner what happens, to several steps at once; `position` is like "3/12"."""

    def started(self, name: str, position: str) -> None: ...
    def tick(self, name: str, elapsed_seconds: float, progress: dict[str, Any]) -> None: ...
    def finished(self, name: str, seconds: float) -> None: ...
    def stopped(self, name: str) -> None: ...
    def failed(self, name: str) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


def choose() -> Display:
    """The live display on a terminal, plain lines otherwise."""
    return LiveDisplay() if sys.stdout.isatty() else PlainDisplay()


class PlainDisplay:
    """One line when a step starts, one a minute while it works, one when it ends."""

    interval_seconds = 60.0

    def __init__(self) -> None:
        self._progress: dict[str, dict[str, Any]] = {}
        self._last: dict[str, float] = {}

    def started(self, name: str, position: str) -> None:
        self._progress[name], self._last[name] = {}, time.monotonic()
        print(f"{position:>7}  {name} ...", flush=True)

    def tick(self, name: str, elapsed_seconds: float, progress: dict[str, Any]) -> None:
        self._progress[name] = progress or self._progress[name]
        if time.monotonic() - self._last[name] >= self.interval_seconds:
            self._last[name] = time.monotonic()
            line = f"{'':>7}  {name}  {duration(elapsed_seconds)}  {describe(elapsed_seconds, progress)}"
            print(line.rstrip(), flush=True)

    def finished(self, name: str, seconds: float) -> None:
        print(f"{'done':>7}  {name}  {duration(seconds)}  {metrics(self._progress[name])}".rstrip(), flush=True)

    def stopped(self, name: str) -> None:
        print(f"{'stopped':>7}  {name}", flush=True)

    def failed(self, name: str) -> None:
        print(f"{'failed':>7}  {name}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class LiveDisplay:
    """Finished steps as lines; below them a line that moves for each step that runs."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._status = self._console.status("")
        self._status.start()
        self._position: dict[str, str] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._moving: dict[str, str] = {}

    def started(self, name: str, position: str) -> None:
        self._position[name], self._progress[name] = position, {}
        self._show(name, "")

    def tick(self, name: str, elapsed_seconds: float, progress: dict[str, Any]) -> None:
        self._progress[name] = progress or self._progress[name]
        self._show(name, f"  [cyan]{duration(elapsed_seconds)}[/]  {describe(elapsed_seconds, progress)}")

    def finished(self, name: str, seconds: float) -> None:
        line = f"[green]✓[/] {name}  [cyan]{duration(seconds)}[/]  [dim]{metrics(self._progress[name])}[/]"
        self._hide(name)
        self._console.print(line, highlight=False)

    def stopped(self, name: str) -> None:
        self._hide(name)

    def failed(self, name: str) -> None:
        self._hide(name)
        self._console.print(f"[red]✗[/] {name}", highlight=False)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Take the moving lines away."""
        self._status.stop()

    def _show(self, name: str, rest: str) -> None:
        self._moving[name] = f"[dim]{self._position[name]}[/] {name}{rest}"
        self._status.update("\n  ".join(self._moving.values()))  # below the first line's spinner

    def _hide(self, name: str) -> None:
        del self._moving[name]
        self._status.update("\n  ".join(self._moving.values()))


def describe(elapsed_seconds: float, progress: dict[str, Any]) -> str:
    """Progress in words: `120/480 25%  ETA 3m10s  loss 0.41  tokens_per_second 148`; 0 s: nobody knows how long."""
    parts = []
    done, total = progress.get("done"), progress.get("total")
    if done is not None and total:
        parts.append(f"{done:g}/{total:g} {100 * done / total:.0f}%")
        if 0 < done < total:
            left = progress.get("seconds_left")
            if left is None and elapsed_seconds:
                left = elapsed_seconds * (total - done) / done
            parts += [f"ETA {duration(left)}"] if left is not None else []
    return "  ".join([*parts, metrics(progress)]).rstrip()


def metrics(progress: dict[str, Any]) -> str:
    """`loss 0.41  tokens_per_second 148`."""
    return "  ".join(f"{name} {_number(value)}" for name, value in progress.get("metrics", {}).items())


def duration(seconds: float) -> str:
    """`0.4s`, `58s`, `3m10s`, `2h05m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
