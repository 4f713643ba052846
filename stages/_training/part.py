"""Which part the adapter's method takes in a run."""

from typing import Any, cast

from pipeline.errors import UserError
from stages._adaptation.start import read_adapter
from stages._training.spec import TrainSpec
from stages.adapters import method_module
from stages.adapters.training import TrainingContext, TrainingPart


def training_part(spec: TrainSpec, engine: Any, num_steps: int) -> TrainingPart:
    """The method's own, or one that does nothing.

    Raises UserError where DeepSpeed gives no access to the values that the optimizer works on.
    """
    adapter = read_adapter(spec.adapter_dir)
    training = getattr(method_module(adapter), "training", None)
    if training is None:
        return TrainingPart()
    context = TrainingContext(engine, num_steps, spec.config.seed, spec.config.max_gradient_norm)
    part = cast(TrainingPart, training(adapter, context))
    if type(part) is TrainingPart:
        return part
    if spec.config.dtype == "float16":
        raise UserError(
            f"train.dtype: got float16, whose gradients are scaled, which {adapter.method} does not know; "
            f"use bfloat16 or float32"
        )
    if spec.config.zero_stage == 0 and spec.config.dtype != "float32":
        raise UserError(
            f"train.zero_stage: got 0 with dtype {spec.config.dtype}, where {adapter.method} cannot reach the values "
            f"that the optimizer works on; use zero_stage 1, 2 or 3, or dtype float32"
        )
    return part
