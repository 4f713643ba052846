"""The real training, from one artifact with all that it reads."""

from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel
from stages import train
from tests.slurm.tiny.start import folder

VERSION = 1
SETTINGS = {
    "zero_stage": 3,
    "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},  # else all of it stays whole
    "learning_rate": 2e-2,
    "global_batch_size": 4,
    "num_epochs": 3,
    "max_steps": 30,
    "checkpoint_every_steps": 5,
}


class Config(StrictModel):
    label: str
    """Runs of different labels are the same work, done once each."""


class Inputs(StrictModel):
    start: Artifact


def run(_config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict:
    parts = {part: folder(inputs.start.path, part) for part in ("model", "tokens", "adapter")}
    return train.run(train.Config.model_validate(SETTINGS), train.Inputs.model_validate(parts), out, resources)
