"""TensorBoard, Weights & Biases, MLflow: where the metrics of a run can go besides metrics.jsonl.

A resumed run goes on in its own tracker run: its identity is the name of the run's folder, which holds the step's
fingerprint, and no step is there twice. Accounts, addresses and projects are told as each package's users do it:
WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI and so on.
"""

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

PROJECT = "nlora-pipeline"
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One of the three."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files below `folder`/tensorboard; what an earlier attempt wrote of steps to be repeated is disowned."""

    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any], num_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard" / run), purge_step=num_done + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of that id; where its server has steps already, they are not sent again."""

    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any], num_done: int) -> None:
        import wandb

        place = Path(os.environ.get("WANDB_DIR", folder))
        place.mkdir(parents=True, exist_ok=True)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(id=run, resume="allow", project=project, dir=str(place), config=dict(settings))
        self._first_step = self._run.step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._first_step:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run tagged with that name, on the server of MLFLOW_TRACKING_URI; steps that it has are not sent again."""

    TAG = "pipeline.run"

    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any], num_done: int) -> None:
        client = self._client = importlib.import_module("mlflow").MlflowClient()  # requirements/optional.in

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        runs = client.search_runs([experiment], f"tags.`{self.TAG}` = '{run}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            self._run = client.create_run(experiment, run_name=run, tags={self.TAG: run}).info.run_id
            for key, value in settings.items():
                client.log_param(self._run, key, value)
        self._last_step = max((each.step for each in client.get_metric_history(self._run, "loss")), default=0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._last_step:
            for name, value in values.items():
                self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


KINDS: dict[str, Callable[[str, Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


class Trackers:
    """All that a run was asked to use. One that fails is dropped with a warning: watching does not end a training."""

    def __init__(self, names: tuple[str, ...], run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._names, self._run, self._folder, self._settings = names, run, folder, settings
        self._open: dict[str, Tracker] = {}

    def resume(self, num_done: int) -> None:
        """Start, or go on after so many steps."""
        for name in self._names:
            with _Watched(name, self._open):
                self._open[name] = KINDS[name](self._run, self._folder, self._settings, num_done)

    def log(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl; lists become one value for each process."""
        values = dict(_scalars({name: value for name, value in row.items() if name != "step"}))
        for name, tracker in list(self._open.items()):
            with _Watched(name, self._open):
                tracker.log(row["step"], values)

    def close(self) -> None:
        """Send what has not been sent."""
        for name, tracker in list(self._open.items()):
            with _Watched(name, self._open):
                tracker.close()
        self._open.clear()


class _Watched:
    """Turns an error of a tracker into a warning."""

    def __init__(self, name: str, trackers: dict[str, Tracker]) -> None:
        self._name, self._trackers = name, trackers

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        _log.warning("resources.trackers: %s failed and gets no more: %s: %s", self._name, type(error).__name__, error)
        self._trackers.pop(self._name, None)
        return True


def _scalars(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    values: list[tuple[str, float]] = []
    for name, value in row.items():
        parts = value if isinstance(value, list) else None
        values += (
            [(name, value)] if parts is None else [(f"{name}/rank{rank}", part) for rank, part in enumerate(parts)]
        )
    return values
