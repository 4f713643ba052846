"""Train adapter factors, or the whole model, with DeepSpeed. Reads a model, tokens and the start; writes the result.

Writes adapter_config.json and adapter_model.safetensors, or for full fine-tuning a model folder in float32; and
template.json, metrics.jsonl, and quantization.json where the base was quantised. The work is done by processes of their
own (`stages._training.worker`), one per GPU or two on a CPU; a rerun goes on from the newest sealed checkpoint.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel
from stages._weights.architecture import Shapes

VERSION = 2

Positive = Annotated[int, Field(ge=1)]


class Config(StrictModel):
    """How to train. The defaults are the paper's (section 4) where it states them."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """The share of steps in which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the gradient to this norm; null leaves it."""
    global_batch_size: Positive = 4
    """Samples per step over all processes."""
    per_device_batch_size: Positive | None = None
    """Samples per forward pass of one process; gradients are accumulated over the rest. By default its whole share."""
    num_epochs: Positive = 1
    max_steps: Positive | None = None
    """Stop after this many steps, whatever `num_epochs` says."""
    group_by_length: bool = False
    """Put samples of similar length into one batch: less padding, a slightly less random order."""
    packing: bool = False
    """Put a forward pass's samples into one row without padding, as many as fit, each attending to itself alone. The
    steps, their samples and the weight of each token stay those of padded rows; only dropout draws differently.
    """
    pack_length: Positive | None = None
    """Tokens of a packed row, at most; by default `per_device_batch_size` times those of the longest sample."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen base and of the computation; the optimizer always works in float32."""
    quantize: Literal["nf4", "fp4"] | None = None
    """Keep the weights under the adapter in 4 bits, as QLoRA does: normal floats or plain ones. What a method takes off
    the base is taken off first. The whole base is in memory in `dtype` while it is loaded, and the merge goes into the
    base as it was, which the merge step compares with what was trained.
    """
    checkpoint_every_steps: Positive | None = None
    """By default once a minute."""
    seed: int = 0

    @model_validator(mode="after")
    def _packing_needs_no_grouping(self) -> Self:
        if self.packing and self.group_by_length:
            raise ValueError("group_by_length: found with packing, which leaves no padding to save; leave it out")
        if self.pack_length and not self.packing:
            raise ValueError(
                f"pack_length: found {self.pack_length} without packing; add packing: true, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _quantized_weights_are_whole(self) -> Self:
        if self.quantize and self.zero_stage == 3:
            raise ValueError(
                f"quantize: found {self.quantize} with zero_stage: 3, which cannot divide 4-bit weights among "
                f"processes; use zero_stage 0, 1 or 2, or leave quantize out"
            )
        return self


class Export(StrictModel):
    """What other programs can be given of a training."""

    format: Literal["peft-lora", "merged"] = "peft-lora"
    """An ordinary LoRA adapter of the untouched base, or the merged and verified model."""
    rank: Positive | None = None
    """Of the adapter, at most: the nearest update of that rank. By default its own, without loss."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """By default float32 for an adapter, and that of the base for a merged model."""

    @model_validator(mode="after")
    def _rank_is_an_adapters(self) -> Self:
        if self.rank is not None and self.format != "peft-lora":
            raise ValueError(f"--rank: found with --format {self.format}, expected with peft-lora; leave it out")
        return self


class Inputs(StrictModel):
    """What it trains, on what, from where."""

    model: Artifact
    tokens: Artifact
    adapter: Artifact


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Batch arithmetic, and memory and disk for a model that is there."""
    from stages._training import layout, requirements
    from stages._weights.index import stored_tensors

    lines = layout.problems(config, layout.num_processes(resources)) + requirements.package_problems(config)
    if "tokens" in known:
        lines += layout.room_problems(config, known["tokens"].metrics()["length_max"])
    if "model" in known:
        shapes = {name: tensor.shape for name, tensor in stored_tensors(known["model"].path).items()}
        num_trainable = known["adapter"].metrics()["trainable_parameters"] if "adapter" in known else 0
        length = known["tokens"].metrics()["length_max"] if "tokens" in known else requirements.DEFAULT_LENGTH
        lines += requirements.problems(config, resources, requirements.size_of(shapes, num_trainable, length))
    return lines


def size_problems(
    config: Config, resources: Resources, num_parameters: int, shapes: Shapes | None, num_trainable: int = 0
) -> list[str]:
    """Memory and disk for a model that is not there yet, of which only its size, or also its tensors, are known."""
    from stages._training import requirements

    size = requirements.Size(num_parameters, num_trainable)
    return requirements.problems(config, resources, requirements.size_of(shapes, num_trainable) if shapes else size)


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Train to the end. Raises UserError for batch sizes that do not divide, StepFailed, Stopped."""
    from stages._training import launch, layout

    problems = layout.problems(config, layout.num_processes(resources))
    if problems:
        raise UserError(*problems)
    return launch.train(config, inputs, out, resources)


def export(
    config: Config, inputs: Inputs, artifact: Artifact, out: Workspace, options: Export, resources: Resources
) -> dict[str, Any]:
    """Write the trained adapter as an ordinary one, or merge it. Raises UserError, StepFailed."""
    from stages._adaptation import exporting, merging

    if options.format == "merged":
        sources = merging.Sources(inputs.model.path, inputs.adapter.path, artifact.path)
        return merging.merge(sources, options.dtype, out, resources)
    form = exporting.form(options.rank, options.dtype)
    return exporting.export_trained(inputs.model, inputs.adapter.path, artifact.path, form, out, resources)
