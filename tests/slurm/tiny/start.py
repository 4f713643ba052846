"""A tiny random model, tokens for it and a started adapter, in one folder each."""

from pathlib import Path

from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel
from stages import init_adapter
from tests.stages.conftest import write_tiny_model, write_tokens

VERSION = 1


class Config(StrictModel):
    pass


class Inputs(StrictModel):
    pass


def run(_config: Config, _inputs: Inputs, out: Workspace, resources: Resources) -> dict:
    from stages._data.prompts import Chat
    from tests.stages.templates import write_template

    for part in ("model", "tokens", "adapter"):
        (out / part).mkdir(exist_ok=True)
    write_tiny_model(out / "model")
    write_tokens(out / "tokens" / "train.safetensors", num_samples=40, seed=0)
    write_tokens(out / "tokens" / "validation.safetensors", num_samples=10, seed=1)
    write_template(Chat(kind="chat"), out / "model", out / "tokens")
    config = {"adapter": {"method": "nlora", "rank": 8, "residual": "subtract"}, "probe": False}
    init_adapter.run(
        init_adapter.Config.model_validate(config),
        init_adapter.Inputs(model=folder(out.path, "model")),
        Workspace(out / "adapter"),
        resources,
    )
    return {}


def folder(start: Path, part: str) -> Artifact:
    """One of the three as an input of a stage."""
    return Artifact(path=start / part, stage=part, fingerprint="0" * 64)
