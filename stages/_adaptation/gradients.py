"""Readers of weights that know the training loss's gradient too, for methods whose start asks for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages._adaptation.start import targeted_weights
from stages._training import launch
from stages._training.batches import TokenFile
from stages._training.spec import GRADIENTS_FILE, RESULT_FILE
from stages._weights.index import StoredTensor, tensors_of
from stages._weights.matrix import FileMatrix
from stages.adapters.gradient import GradientConfig

if TYPE_CHECKING:
    from stages.init_adapter import Config


class GradientMatrix(FileMatrix):
    """A weight in one file, its gradient in another."""

    def __init__(self, weight: StoredTensor, gradient: StoredTensor) -> None:
        super().__init__(weight)
        self._gradient = gradient

    def gradient(self) -> torch.Tensor:
        """dL/dW [O, I] in float32."""
        gradient = FileMatrix(self._gradient)
        value_OI = gradient.full()
        self.bytes_read += gradient.bytes_read
        return value_OI


def readers(
    config: Config, model: Artifact, tokens: Artifact | None, out: Workspace, resources: Resources
) -> tuple[dict[str, GradientMatrix], dict[str, Any]]:
    """(module name -> reader, of every targeted module; the estimate's metrics). What an interrupted step has estimated
    is not estimated again. Raises UserError without enough tokens, StepFailed if a worker fails.
    """
    adapter = config.adapter
    assert isinstance(adapter, GradientConfig)
    if tokens is None:
        raise UserError(
            f"adapter.method: {adapter.method} starts from a gradient, expected a track's tokens as an input"
        )
    num_samples, size = len(TokenFile(tokens / "train.safetensors")), adapter.gradient.batch_size
    if num_samples < size:
        raise UserError(f"adapter.gradient.batch_size: got {size}, must be <= the {num_samples} training samples")
    weights = targeted_weights(model.path, adapter)
    if not ((out / GRADIENTS_FILE).exists() and (out / RESULT_FILE).exists()):
        spec = launch.make_gradient_spec(
            adapter.gradient, list(weights), config.seed, model.path, tokens.path, out, resources
        )
        launch.run_workers("init_adapter", spec, resources)
    gradients = tensors_of(out / GRADIENTS_FILE)
    metrics = json.loads((out / RESULT_FILE).read_text())
    return {
        module: GradientMatrix(weight.stored, gradients[f"{module}.weight"]) for module, weight in weights.items()
    }, metrics
