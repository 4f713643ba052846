"""Settings of one training that cannot go together, each as one line that says what to use. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.train import Config

_RAW = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.per_device_batch_size",
    "gradient_accumulation_steps": "train.per_device_batch_size, from which accumulation follows",
    "managed_gradient_accumulation": "nothing: the loop counts on it",
    "gradient_allreduce_op": "nothing: the loss is scaled for the mean over processes",
    "gradient_clipping": "train.max_gradient_norm",
    "optimizer": "train.optimizer",
    "zero_allow_untested_optimizer": "train.optimizer",
    "zero_force_ds_cpu_optimizer": "train.offload_optimizer",
    "scheduler": "train.schedule",
    "bf16": "train.dtype",
    "bfloat16": "train.dtype",
    "fp16": "train.dtype, loss_scale, initial_loss_scale_power, loss_scale_window",
    "torch_autocast": "train.dtype",
    "activation_checkpointing": "train.gradient_checkpointing",
    "compile": "train.compile",
    "sequence_parallel_size": "nothing: processes share out the batch only",
    "tensor_parallel": "nothing: processes share out the batch only",
    "expert_parallel": "nothing: processes share out the batch only",
    "zero_optimization.stage": "train.zero_stage",
    "zero_optimization.cpu_offload": "train.offload_optimizer",
    "zero_optimization.cpu_offload_param": "train.offload_parameters",
    "zero_optimization.offload_optimizer.device": "train.offload_optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "resources.offload_dir",
    "zero_optimization.offload_param.device": "train.offload_parameters",
    "zero_optimization.offload_param.nvme_path": "resources.offload_dir",
}
"""DeepSpeed's keys that typed fields decide -> what to use."""
_BELONGS_TO = {
    "rmsprop_alpha": ("optimizer", ("rmsprop",)),
    "rmsprop_momentum": ("optimizer", ("rmsprop",)),
    "rmsprop_epsilon": ("optimizer", ("rmsprop",)),
    "adam_beta1": ("optimizer", ("adamw", "adamw_8bit")),
    "adam_beta2": ("optimizer", ("adamw", "adamw_8bit")),
    "adam_epsilon": ("optimizer", ("adamw", "adamw_8bit")),
    "loss_scale": ("dtype", ("float16",)),
    "initial_loss_scale_power": ("dtype", ("float16",)),
    "loss_scale_window": ("dtype", ("float16",)),
}
"""A field that means something only for some values of another."""


def contradictions(config: Config) -> Iterator[str]:
    """A line for each."""
    yield from _idle_fields(config)
    yield from _schedule_problems(config)
    yield from _packing_problems(config)
    yield from _stage_problems(config)
    yield from _combination_problems(config)
    yield from _raw_problems(config.deepspeed)


def _idle_fields(config: Config) -> Iterator[str]:
    for name, (field, values) in _BELONGS_TO.items():
        found = getattr(config, field)
        if found not in values and getattr(config, name) != type(config).model_fields[name].default:
            yield f"{name}: found with {field}: {found}, where it means nothing; leave it out, or use {_list(values)}"


def _schedule_problems(config: Config) -> Iterator[str]:
    if config.warmup_steps is not None and config.warmup_ratio != type(config).model_fields["warmup_ratio"].default:
        yield (
            f"warmup_steps: found {config.warmup_steps} with warmup_ratio {config.warmup_ratio}, expected one of them; "
            f"leave the other out"
        )
    for name, is_on in (("early_stopping", config.early_stopping), ("result: best", config.result == "best")):
        if is_on and config.evaluate_every_steps is None:
            yield f"{name}: found without evaluate_every_steps; say how often to evaluate"


def _packing_problems(config: Config) -> Iterator[str]:
    if config.packing and config.compile:
        yield "compile: found with packing, whose rows are cut anew in every pass; leave one of them out"
    if config.packing and config.group_by_length:
        yield "group_by_length: found with packing, which leaves no padding to save; leave it out"
    if config.packing and config.attention == "eager":
        yield "attention: found eager with packing, whose rows are computed by sdpa or flash attention; leave one out"
    if config.pack_length and not config.packing:
        yield f"pack_length: found {config.pack_length} without packing; add packing: true, or leave it out"


def _stage_problems(config: Config) -> Iterator[str]:
    stage = config.zero_stage
    if config.quantize and stage == 3:
        yield (
            f"quantize: found {config.quantize} with zero_stage: 3, which cannot divide 4-bit weights among "
            f"processes; use zero_stage 0, 1 or 2, or leave quantize out"
        )
    if config.dtype == "float16" and stage == 0:
        yield (
            "dtype: found float16 with zero_stage: 0, where DeepSpeed divides gradients by a loss scale that it "
            "did not multiply the loss by; use zero_stage 1, 2 or 3"
        )
    if config.offload_optimizer == "cpu" and stage == 0:
        yield "offload_optimizer: found cpu with zero_stage: 0, which has nothing to offload; use zero_stage 1, 2 or 3"
    if config.offload_optimizer == "nvme" and stage != 3:
        yield f"offload_optimizer: found nvme with zero_stage: {stage}, expected 3, or cpu"
    if config.offload_optimizer == "nvme" and config.result == "best":
        yield "result: found best with offload_optimizer: nvme, which saves no checkpoints; use last, or cpu"
    if config.offload_parameters != "none" and stage != 3:
        yield (
            f"offload_parameters: found {config.offload_parameters} with zero_stage: {stage}, expected zero_stage: 3, "
            f"which alone divides the parameters"
        )
    if config.compile and stage == 3:
        yield "compile: found true with zero_stage: 3, whose weights come and go in a layer; use zero_stage 0, 1 or 2"


def _combination_problems(config: Config) -> Iterator[str]:
    if config.optimizer == "adamw_8bit" and config.offload_optimizer != "none":
        yield (
            f"offload_optimizer: found {config.offload_optimizer} with optimizer: adamw_8bit; its states are "
            f"small where they are: use offload_optimizer none, or optimizer adamw"
        )
    if config.attention == "flash_attention_2" and config.dtype == "float32":
        yield (
            "attention: found flash_attention_2 with dtype: float32, which it cannot compute in; use dtype bfloat16 or "
            "float16, or attention auto"
        )
    if config.loss_scale != "dynamic":
        for name in ("initial_loss_scale_power", "loss_scale_window"):
            if getattr(config, name) != type(config).model_fields[name].default:
                yield f"{name}: found with loss_scale: {config.loss_scale}, which stays; leave it out, or use dynamic"


def _raw_problems(raw: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in raw.items():
        name = f"{prefix}{key}"
        if name in _RAW:
            yield f"deepspeed.{name}: the recipe's own fields decide it; use {_RAW[name]}"
        elif isinstance(value, dict):
            yield from _raw_problems(value, f"{name}.")
        elif any(owned.startswith(f"{name}.") for owned in _RAW):
            yield f"deepspeed.{name}: found {value!r}, expected keys below it"


def _list(values: tuple[str, ...]) -> str:
    return " or ".join(values)
