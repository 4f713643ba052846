"""Many training runs in one launch: `python -m stages._training.agent ... tests.stages.training_runs RUNS`.

RUNS is a JSON file with a list of {"spec": a TrainSpec as JSON text, "checkpoint": null or where it goes on from}.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed import comm
from deepspeed.accelerator import get_accelerator

from stages._training import engine as engines
from stages._training.loop import Loop
from stages._training.spec import CHECKPOINTS_DIR, METRICS_FILE, TrainSpec, WorkerSpec


def partition_everything() -> None:
    """ZeRO-3 keeps small parameters whole on every process: all of a tiny model's, and then nothing is tested."""
    usual = engines.settings

    def settings(spec: WorkerSpec) -> dict[str, Any]:
        chosen = usual(spec)
        chosen["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return chosen

    engines.settings = settings


def main(runs_file: str) -> None:
    runs = json.loads(Path(runs_file).read_text())
    specs = [TrainSpec.model_validate_json(run["spec"]) for run in runs]
    engines.start_processes(specs[0])
    partition_everything()
    get_accelerator().is_fp16_supported = lambda: True  # PyTorch can compute so on any CPU, slowly
    for run, spec in zip(runs, specs, strict=True):
        torch.manual_seed(spec.config.seed * 1_000_003 + comm.get_rank())
        if run["checkpoint"] and comm.get_rank() == 0:
            go_on_from(Path(run["checkpoint"]), spec)
        comm.barrier()
        Loop(spec).run()
    engines.leave_processes()


def go_on_from(checkpoint: Path, spec: TrainSpec) -> None:
    """Put the checkpoint and the metrics of another run into a new run's folder, as if it had been killed.

    "oldest" stands for the one that was kept longest.
    """
    if checkpoint.name == "oldest":
        checkpoint = min(checkpoint.parent.glob("step-*"))
    shutil.copytree(checkpoint, spec.out / CHECKPOINTS_DIR / checkpoint.name)
    shutil.copyfile(checkpoint.parents[1] / METRICS_FILE, spec.out / METRICS_FILE)


if __name__ == "__main__":
    main(sys.argv[1])
