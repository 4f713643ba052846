"""Adapters that look trained, and their export."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from stages import train
from stages._adaptation.merging import Sources
from stages._adaptation.start import start_one, targeted_weights, write_description
from stages._data.prompts import Chat
from stages._peft.load import save_factors
from stages._weights.matrix import FileMatrix
from stages.adapters import methods
from tests.stages.conftest import artifact
from tests.stages.templates import write_template

NEEDED = {"adalora": {"target_rank": 2}, "relora": {"restart_every": 10}}
"""Options that methods have no default for."""


class Matrix(FileMatrix):
    """With a gradient, for the methods that ask for one."""

    def gradient(self) -> torch.Tensor:
        """Random numbers."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(2))


def trained(model: Artifact, tmp_path: Path, method: str, nudge: float = 0.05, **options) -> Sources:
    """A started adapter, and one that looks trained: every factor moved a little."""
    init, result = tmp_path / "init", tmp_path / "trained"
    adapter = methods()[method].Config.model_validate(
        {"method": method, "rank": 8, **NEEDED.get(method, {}), **options}
    )
    init.mkdir(parents=True)
    weights = {name: Matrix(each.stored) for name, each in targeted_weights(model.path, adapter).items()}
    save_factors({name: start_one(name, weight, adapter, seed=0) for name, weight in weights.items()}, init)
    write_description(adapter, model.path, sorted(weights), init)
    shutil.copytree(init, result)
    generator = torch.Generator().manual_seed(5)
    tensors = load_file(init / "adapter_model.safetensors")
    moved = {name: t + nudge * torch.randn(t.shape, generator=generator) for name, t in sorted(tensors.items())}
    save_file(moved, result / "adapter_model.safetensors")
    write_template(Chat(kind="chat"), model.path, result)
    return Sources(model.path, init, result)


def export(model: Artifact, sources: Sources, out: Path, resources: Resources, **options) -> dict:
    """Through the train stage, as the command does it."""
    out.mkdir(exist_ok=True)
    inputs = train.Inputs(model=model, tokens=model, adapter=artifact(sources.init_dir, "init_adapter"))
    result = artifact(sources.trained_dir, "train")
    wanted = train.Export.model_validate(options)
    return train.export(train.Config(), inputs, result, Workspace(out), wanted, resources)
