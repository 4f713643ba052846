"""What a run says of itself while it goes on: metrics.jsonl, a row for each step, and the progress that people see."""

import json
import time
from typing import Any

from stages._training.spec import METRICS_FILE, TrainSpec


class Records:
    """Kept by the first process alone; the others' calls do nothing."""

    def __init__(self, spec: TrainSpec, num_steps: int, is_first: bool) -> None:
        self._out, self._num_steps, self._is_first = spec.out, num_steps, is_first
        self._began, self._began_at = time.monotonic(), 0

    def resume(self, num_done: int) -> None:
        """Forget what an earlier attempt recorded after its last checkpoint."""
        self._began, self._began_at = time.monotonic(), num_done
        if self._is_first:
            file = self._out / METRICS_FILE
            lines = file.read_text().splitlines(keepends=True)[:num_done] if file.exists() else []
            file.write_text("".join(lines))
            self._out.progress(num_done, self._num_steps)

    def step(self, number: int, metrics: dict[str, Any], validation_loss: float | None) -> None:
        """Add the row of step 1, 2, ..., with the validation loss if it was measured after it."""
        if not self._is_first:
            return
        row = {"step": number, **metrics, "eta_seconds": self._seconds_left(number)}
        if validation_loss is not None:
            row["validation_loss"] = validation_loss
        with (self._out / METRICS_FILE).open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        shown = {name: row[name] for name in ("loss", "validation_loss", "tokens_per_second") if name in row}
        self._out.progress(number, self._num_steps, seconds_left=row["eta_seconds"], **shown)

    def losses(self) -> list[float]:
        """Of all steps so far."""
        return [json.loads(line)["loss"] for line in (self._out / METRICS_FILE).read_text().splitlines()]

    def _seconds_left(self, number: int) -> float:
        """At the pace of this attempt, with all that it does between steps."""
        elapsed = time.monotonic() - self._began
        return round(elapsed / (number - self._began_at) * (self._num_steps - number), 1)
