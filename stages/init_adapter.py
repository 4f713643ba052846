"""Start an adapter: its factors for every targeted matrix. Reads a model's shards, writes a PEFT adapter.

Full fine-tuning has none: nothing is read then, and no adapter written.

Nystrom methods read r rows and r columns of each matrix straight from the files; no model is built, except to measure
the loss of the start when `probe` is on. Writes adapter_config.json, adapter_model.safetensors, adapter.json and
init_report.json.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs
from stages._weights.architecture import Shapes
from stages.adapters import AnyAdapter
from stages.adapters.base import AdapterConfig, total_trainable
from stages.adapters.gradient import GradientConfig

VERSION = 2


class Config(StrictModel):
    """Which adapter, and how its start is judged."""

    adapter: AnyAdapter
    seed: int = 0
    probe: bool = True
    """Measure each initial update, its error and its core, and the loss on a few texts before and after; this loads
    the model.
    """
    max_start_loss_increase: Annotated[float, Field(gt=0)] = 1.0
    """In nats a token: a start that loses more than this fails the step (half of the model's knowledge of a text)."""
    accept_start: bool = False
    """Go on with such a start all the same, as the paper's own code does."""


class Export(StrictModel):
    """The start as an ordinary LoRA adapter of the untouched base."""

    format: Literal["peft-lora"] = "peft-lora"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Inputs(StrictModel):
    """What it starts from."""

    model: Artifact
    tokens: Artifact | None = None
    """The training set, for methods that start from the loss's gradient."""


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Rank and targets against the model's matrices, the probe against its kind, and the memory that a gradient takes,
    when the model is there.
    """
    from stages._weights import architecture, targets

    if "model" not in known or not isinstance(config.adapter, AdapterConfig):
        return []
    folder = known["model"].path
    lines = targets.folder_problems(folder, config.adapter)
    if config.probe:
        lines += architecture.probe_problems(folder)
    if isinstance(config.adapter, GradientConfig):
        lines += _gradient_problems(config.adapter, resources, known)
    return lines


def target_problems(config: Config, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The same for tensor shapes known in another way (see `stages._weights.sources.shapes`)."""
    from stages._weights import targets

    return targets.problems(shapes, config.adapter) if isinstance(config.adapter, AdapterConfig) else []


def num_trainable(config: Config, shapes: Shapes | None, num_parameters: int = 0) -> int:
    """Numbers that training this way would change on a model with these tensors, or of which only the size is known;
    0 if that does not tell.
    """
    from stages._weights import targets

    if not isinstance(config.adapter, AdapterConfig):
        return sum(map(math.prod, shapes.values())) if shapes else num_parameters
    known = targets.matrices(shapes or {})
    return total_trainable(config.adapter, known, targets.select(known, config.adapter.targets)[0])


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs | None:
    """The model, which a probe loads. The factors do not depend on the number of cores; the loss that a probe measures
    may, in its last digits. An estimate of the gradient takes the machine.
    """
    if isinstance(config.adapter, GradientConfig):
        return None
    return Needs(num_cores=resources.num_threads or 1, memory_bytes=_needs.model_bytes(known["model"], 1.0))


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Start, write and judge the adapter. Raises UserError for targets or ranks that do not fit, StepFailed for a start
    that costs more than `max_start_loss_increase`.
    """
    problems = preflight(config, resources, {"model": inputs.model})
    if problems:
        raise UserError(*problems)
    if not isinstance(config.adapter, AdapterConfig):
        from stages._adaptation import full

        return full.write_start(config.adapter, num_trainable(config, _shapes(inputs.model)), out)
    from stages._adaptation import gradients, start

    if not config.adapter.NEEDS_GRADIENT:
        return start.write_adapter(config, inputs.model.path, out, resources)
    readers, estimated = gradients.readers(config, inputs.model, inputs.tokens, out, resources)
    return {**start.write_adapter(config, inputs.model.path, out, resources, readers), **estimated}


def _gradient_problems(adapter: GradientConfig, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the model, and the gradient by all targeted weights, fit into memory."""
    from stages._training import requirements
    from stages._weights import targets

    shapes = _shapes(known["model"])
    matrices = targets.matrices(shapes)
    num_targeted = sum(math.prod(matrices[module]) for module in targets.select(matrices, adapter.targets)[0])
    length = known["tokens"].metrics()["length_max"] if "tokens" in known else requirements.DEFAULT_LENGTH
    return requirements.gradient_problems(
        adapter.gradient, resources, requirements.size_of(shapes, num_targeted, length)
    )


def _shapes(model: Artifact) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape."""
    from stages._weights.index import stored_tensors

    return {name: stored.shape for name, stored in stored_tensors(model.path).items()}


def export(
    config: Config, inputs: Inputs, artifact: Artifact, out: Workspace, options: Export, resources: Resources
) -> dict[str, Any]:
    """Write the start. Raises UserError where it is the base model itself."""
    from stages._adaptation import exporting

    return exporting.export_start(inputs.model, artifact.path, exporting.form(None, options.dtype), out, resources)
