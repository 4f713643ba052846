"""What a method may do during training beyond the steps of the optimizer.

A method that does says so in its own file: its `training(config, context)` returns a `TrainingPart`, which the loop
calls at fixed points of every step. Every process has one and calls it alike; parameters are read and written with
`stages._training.whole`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class TrainingContext(NamedTuple):
    """The run that a part belongs to."""

    engine: Any
    """DeepSpeed's, around a PeftModel"""
    num_steps: int
    """from start to end, resumed or not"""
    seed: int
    max_gradient_norm: float | None

    def clipping(self, gradient_norm: float) -> float:
        """What gradients of this norm are multiplied by before the optimizer uses them."""
        if self.max_gradient_norm is None:
            return 1.0
        return min(1.0, self.max_gradient_norm / (gradient_norm + 1e-6))


class TrainingPart:
    """Nothing: what most methods do. A method overrides what it needs."""

    def rate_factor(self, step: int) -> float:
        """What the learning rate of step 0, 1, ... is multiplied by, on top of the schedule."""
        return 1.0

    def gradients_complete(self, step: int) -> None:
        """Gradients may be read and changed: they are summed over the whole batch and not yet clipped."""

    def step_done(self, step: int, gradient_norm: float) -> None:
        """The optimizer has stepped in step 0, 1, ...; the norm is of the gradient before clipping."""

    def save(self, folder: Path) -> None:
        """Add files to a checkpoint: what `load` needs to go on bit for bit. Only the first process is asked."""

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint, whose factors and optimizer are loaded already."""

    def final(
        self, tensors: dict[str, torch.Tensor], config: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The trained adapter's tensors and adapter_config.json, from the trained factors and the start's
        adapter_config.json. Only the first process is asked.
        """
        return tensors, config
