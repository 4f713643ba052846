"""What a run says of itself while it goes on: metrics.jsonl, a row for each step; trackers; what people see of it."""

import json
import time
from typing import Any

import numpy as np
import torch

from stages._training.flops import model_size, peak_flops
from stages._training.spec import METRICS_FILE, TrainSpec
from stages._training.trackers import Trackers


class Records:
    """Kept by the first process alone; the others' calls do nothing."""

    def __init__(self, spec: TrainSpec, num_steps: int, is_first: bool) -> None:
        self._out, self._num_steps, self._is_first = spec.out, num_steps, is_first
        self._began, self._began_at = time.monotonic(), 0
        run, folder = spec.out_dir.name.removesuffix(".partial"), spec.trackers_dir or spec.out_dir
        settings = spec.config.model_dump(mode="json", exclude_none=True)
        self._trackers = Trackers(spec.trackers if is_first else (), run, folder, settings)

    def resume(self, num_done: int) -> None:
        """Forget what an earlier attempt recorded after its last checkpoint."""
        self._began, self._began_at = time.monotonic(), num_done
        if self._is_first:
            file = self._out / METRICS_FILE
            lines = file.read_text().splitlines(keepends=True)[:num_done] if file.exists() else []
            file.write_text("".join(lines))
            self._out.progress(num_done, self._num_steps)
            self._trackers.resume(num_done)

    def step(self, number: int, metrics: dict[str, Any], validation_loss: float | None) -> None:
        """Add the row of step 1, 2, ..., with the validation loss if it was measured after it."""
        if not self._is_first:
            return
        row = {"step": number, **metrics, "eta_seconds": self._seconds_left(number)}
        if validation_loss is not None:
            row["validation_loss"] = validation_loss
        with (self._out / METRICS_FILE).open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self._trackers.log(row)
        shown = {name: row[name] for name in ("loss", "validation_loss", "tokens_per_second") if name in row}
        self._out.progress(number, self._num_steps, seconds_left=row["eta_seconds"], **shown)

    def close(self) -> None:
        """Nothing follows in this attempt."""
        self._trackers.close()

    def losses(self) -> list[float]:
        """Of all steps so far."""
        return [json.loads(line)["loss"] for line in (self._out / METRICS_FILE).read_text().splitlines()]

    def _seconds_left(self, number: int) -> float:
        """At the pace of this attempt, with all that it does between steps."""
        elapsed = time.monotonic() - self._began
        return round(elapsed / (number - self._began_at) * (self._num_steps - number), 1)


class Utilisation:
    """The share of the devices' peak that a step's model FLOPs are; nothing where the peak is not known."""

    def __init__(self, spec: TrainSpec, model: Any, num_processes: int) -> None:
        name = torch.cuda.get_device_name() if spec.device == "cuda" else spec.device
        peak = peak_flops(name, spec.config.dtype)
        self._peak = peak and peak * num_processes
        self._size = model_size(model) if self._peak else None

    def of(self, lengths: np.ndarray, num_targets: int, seconds: float) -> dict[str, float]:
        """As an entry of the step's metrics."""
        if self._peak is None or self._size is None:
            return {}
        return {"model_flops_utilization": self._size.step_flops(lengths, num_targets) / seconds / self._peak}
