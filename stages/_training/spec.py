"""What the launcher tells its workers, as a JSON file, and the names of the files between them."""

from pathlib import Path

from pipeline.stage import Workspace
from pipeline.strict import StrictModel
from stages.train import Config

SPEC_FILE = ".spec.json"
RESULT_FILE = ".result.json"
FAILURE_FILE = ".failure.json"
STOP_FILE = ".stop"
CHECKPOINTS_DIR = ".checkpoints"
METRICS_FILE = "metrics.jsonl"


class TrainSpec(StrictModel):
    """One training run as its workers see it."""

    config: Config
    model_dir: Path
    tokens_dir: Path
    adapter_dir: Path
    out_dir: Path
    device: str
    num_threads: int
    accumulation: int
    per_device_batch_size: int

    @property
    def out(self) -> Workspace:
        """Where everything is written."""
        return Workspace(self.out_dir)
