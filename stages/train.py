"""Train adapter factors, or the whole model, with DeepSpeed. Reads a model, tokens and the start; writes the result.

Writes adapter_config.json and adapter_model.safetensors, or for full fine-tuning a model folder in float32; and
template.json, metrics.jsonl, and quantization.json where the base was quantised. The work is done by processes of their
own (`stages._training.worker`), one per GPU or two on a CPU; a rerun goes on from the newest sealed checkpoint.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages._training.contradictions import contradictions
from stages._weights.architecture import Shapes

if TYPE_CHECKING:
    from stages._training.requirements import Size

VERSION = 2

Positive = Annotated[int, Field(ge=1)]


class EarlyStopping(StrictModel):
    """When to stop before the last step; the learning rate's schedule is not shortened."""

    patience: Positive
    """Evaluations in a row none of which lowered the best validation loss by more than `min_improvement`."""
    min_improvement: Annotated[float, Field(ge=0)] = 0.0
    """In nats a token."""


class Config(StrictModel):
    """How to train. The defaults are the paper's (section 4) where it states them."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """The share of steps in which the learning rate rises from zero."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The number of those steps, in place of `warmup_ratio`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    optimizer: Literal["adamw", "rmsprop", "adamw_8bit"] = "adamw"
    """`rmsprop` is PyTorch's, tried in the paper's Tables 10 and 11; `adamw_8bit` is bitsandbytes', whose two running
    means take 8 bits each.
    """
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    rmsprop_alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """The share of the running mean of squares that a step keeps. The paper gives no settings of RMSProp: these are
    PyTorch's.
    """
    rmsprop_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rmsprop_epsilon: Annotated[float, Field(gt=0)] = 1e-8
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
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Keep the optimizer's states, and step, in the memory of the CPU (from stage 1 on) or in files (stage 3; such
    a run has no checkpoints, because DeepSpeed cannot load them, and starts over if it is stopped).

    It belongs to the recipe, as `zero_stage` does, because the step is done by another kernel with its own rounding.
    """
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Keep the weights there and fetch each when it is needed (stage 3)."""
    deepspeed: dict[str, JsonValue] = {}
    """Raw keys of DeepSpeed's configuration that have no field here, such as zero_optimization.reduce_bucket_size."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen base and of the computation; the optimizer always works in float32. `float16` is for GPUs."""
    loss_scale: Literal["dynamic"] | Annotated[float, Field(gt=0)] = "dynamic"
    """What the loss is multiplied by in float16, so that small gradients do not vanish. A dynamic scale is halved when
    a gradient overflows, and the batch repeated; a fixed one fails then.
    """
    initial_loss_scale_power: Annotated[int, Field(ge=1, le=32)] = 16
    """A dynamic scale starts at two to this power."""
    loss_scale_window: Positive = 1000
    """After so many steps without overflow a dynamic scale is doubled."""
    gradient_checkpointing: bool = False
    """Compute a layer's activations again in the backward pass instead of keeping them: about a third more time for far
    less memory.
    """
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """`auto` is FlashAttention 2 where it is installed, the device is a GPU and the dtype has 16 bits, else PyTorch's
    sdpa where the model has it.
    """
    compile: bool = False
    """Compile each layer with torch.compile; the first steps take minutes for it."""
    liger: bool = False
    """Liger's kernels for norms, rotary embeddings and gated layers, on GPUs (package liger-kernel); not its loss, for
    logits are computed only where a label is.
    """
    quantize: Literal["nf4", "fp4"] | None = None
    """Keep the weights under the adapter in 4 bits, as QLoRA does: normal floats or plain ones. What a method takes off
    the base is taken off first. The whole base is in memory in `dtype` while it is loaded, and the merge goes into the
    base as it was, which the merge step compares with what was trained.
    """
    checkpoint_every_steps: Positive | None = None
    """By default once a minute."""
    evaluate_every_steps: Positive | None = None
    """Measure the validation loss after so many steps, too; it is always measured at the start and at the end."""
    early_stopping: EarlyStopping | None = None
    """End when the validation loss no longer improves."""
    result: Literal["last", "best"] = "last"
    """The weights after the last step, or after that of the lowest validation loss measured."""
    seed: int = 0

    @model_validator(mode="after")
    def _fields_go_together(self) -> Self:
        if problems := list(contradictions(self)):
            raise ValueError("; ".join(problems))
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
    """Batch arithmetic, packages and devices, DeepSpeed's opinion, and memory and disk for a model that is there."""
    from stages._training import availability, layout, requirements, validation

    lines = layout.problems(config, layout.num_processes(resources)) + availability.problems(config, resources)
    lines += validation.problems(config, resources)
    if "tokens" in known:
        lines += layout.room_problems(config, known["tokens"].metrics()["length_max"])
        lines += layout.evaluation_problems(config, (known["tokens"] / "validation.safetensors").exists())
    if "model" in known:
        lines += requirements.problems(config, resources, _size(known))
    return lines


def _size(known: dict[str, Artifact]) -> "Size":
    """Of a model that is there, and of the adapter and tokens as far as they are."""
    from stages._training import requirements
    from stages._weights.index import stored_tensors

    shapes = {name: tensor.shape for name, tensor in stored_tensors(known["model"].path).items()}
    num_trainable = known["adapter"].metrics()["trainable_parameters"] if "adapter" in known else 0
    length = known["tokens"].metrics()["length_max"] if "tokens" in known else requirements.DEFAULT_LENGTH
    return requirements.size_of(shapes, num_trainable, length)


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs | None:
    """Its processes, a GPU each, and their threads; on several nodes all of them."""
    from stages._training import layout, requirements

    return requirements.needs(config, resources, _size(known)) if layout.num_nodes(resources) == 1 else None


def shown(config: Config, resources: Resources) -> dict[str, dict[str, Any]]:
    """DeepSpeed's configuration on this machine. Raises UserError for a batch that cannot be shared out."""
    from stages._training import layout
    from stages._training.deepspeed_config import on_this_machine

    if problems := layout.problems(config, layout.num_processes(resources)):
        raise UserError(*problems)
    return {"deepspeed": on_this_machine(config, resources)}


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
