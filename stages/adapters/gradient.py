"""What methods share whose start looks at the gradient of the training loss by each weight."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.strict import StrictModel
from stages.adapters.base import AdapterConfig


class Estimate(StrictModel):
    """How the gradient is estimated: on the training set and with the objective of training, before any step.

    Each batch's loss is the mean over its response tokens, and the gradient is the mean over the batches.
    """

    num_batches: Annotated[int, Field(ge=1)] = 8
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Samples of a batch, over all processes."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """3 divides the weights among the processes; the gradient is the same but for rounding."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model while it is estimated."""


class GradientConfig(AdapterConfig):
    """Options of methods that need a gradient."""

    gradient: Estimate = Estimate()

    NEEDS_GRADIENT: ClassVar[bool] = True
