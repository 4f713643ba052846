"""What the launcher tells its workers, as a JSON file, and the names of the files between them."""

from pathlib import Path

from pydantic import Field

from pipeline.stage import Workspace
from pipeline.strict import StrictModel
from stages.train import Config

SPEC_FILE = ".spec.json"
RESULT_FILE = ".result.json"
STOP_FILE = ".stop"
CHECKPOINTS_DIR = ".checkpoints"
METRICS_FILE = "metrics.jsonl"
GRADIENTS_FILE = ".gradients.safetensors"


class WorkerSpec(StrictModel):
    """What the workers do: on what model and data, and how DeepSpeed is to be set up for it."""

    config: Config
    model_dir: Path
    tokens_dir: Path
    out_dir: Path
    device: str
    num_threads: int
    accumulation: int
    per_device_batch_size: int
    offload_dir: Path | None = None
    """Where `nvme` offload keeps this run's files."""

    @property
    def out(self) -> Workspace:
        """Where everything is written."""
        return Workspace(self.out_dir)


class TrainSpec(WorkerSpec):
    """One training run as its workers see it."""

    adapter_dir: Path
    keep_last: int
    keep_best: int
    trackers: tuple[str, ...] = Field((), strict=False)
    trackers_dir: Path | None = None
    """Where they keep files."""


class GradientSpec(WorkerSpec):
    """One estimate of the training loss's gradient. Of `config`, it takes batch size, dtype, ZeRO stage and seed."""

    modules: list[str]
    """Whose weights the gradient is taken by."""

    @property
    def num_batches(self) -> int:
        """One pass of every process each."""
        return self.accumulation
