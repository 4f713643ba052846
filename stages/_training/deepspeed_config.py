"""DeepSpeed's configuration as a function of the recipe, the sharing out of its batch, and the machine. No torch here.

Keys and defaults: https://www.deepspeed.ai/docs/config-json/ and the pydantic models of DeepSpeed 0.19.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import Resources
from stages._training import layout

if TYPE_CHECKING:
    from stages.train import Config

TESTED_BY_DEEPSPEED = frozenset({"adamw"})
"""Optimizers that DeepSpeed divides among processes without being told that it may."""
NVME_BUFFERS = 5
"""Of the largest part that is swapped: the numbers, their gradient, and up to three states of the optimizer."""
LOWEST_LOSS_SCALE = 1
"""At which the loop gives up; at a further overflow DeepSpeed would end the process."""
ASYNC_IO = {"block_size": 1 << 20, "queue_depth": 32, "single_submit": False, "overlap_events": True}
"""How files of offloaded tensors are read and written: https://www.deepspeed.ai/tutorials/deepnvme/ ."""


def deepspeed_config(config: Config, shared: layout.Layout, device: str, offload_dir: Path | None) -> dict[str, Any]:
    """What `deepspeed.initialize` gets. `device` is "cpu" or "cuda"; `offload_dir` is where `nvme` puts its files.

    The optimizer is none of its business: it is built by `optimizers` and handed over, so that it is the same function
    of PyTorch or bitsandbytes at every stage, and so is the learning rate.
    """
    settings: dict[str, Any] = {
        "train_batch_size": shared.per_device_batch_size * shared.accumulation * shared.num_processes,
        "train_micro_batch_size_per_gpu": shared.per_device_batch_size,
        "gradient_accumulation_steps": shared.accumulation,
        "gradient_clipping": config.max_gradient_norm or 0.0,
        "zero_optimization": _zero(config, device, offload_dir),
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "steps_per_print": 10**9,
    }
    if config.dtype == "float16":
        settings["fp16"] = _loss_scaling(config)
    if config.zero_stage and config.optimizer not in TESTED_BY_DEEPSPEED:
        settings["zero_allow_untested_optimizer"] = True
    if config.offload_optimizer != "none":
        settings["zero_force_ds_cpu_optimizer"] = False  # DeepSpeedCPUAdam would be compiled; ours is PyTorch's
    if "nvme" in (config.offload_optimizer, config.offload_parameters):
        settings["aio"] = dict(ASYNC_IO)
    return merged(settings, config.deepspeed)


def on_this_machine(config: Config, resources: Resources) -> dict[str, Any]:
    """The same before there are workers, for a batch that can be shared out."""
    shared = layout.layout(config, layout.num_processes(resources))
    return deepspeed_config(config, shared, layout.device(resources), resources.offload_dir)


def merged(settings: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """The settings with the raw keys on top; sections are merged key by key."""
    result = dict(settings)
    for key, value in raw.items():
        ours = result.get(key)
        result[key] = merged(ours, value) if isinstance(ours, dict) and isinstance(value, dict) else value
    return result


def _zero(config: Config, device: str, offload_dir: Path | None) -> dict[str, Any]:
    section: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": device == "cuda"}
    if config.offload_optimizer != "none":
        section["offload_optimizer"] = _offload(config.offload_optimizer, device, offload_dir)
        if config.offload_optimizer == "nvme":
            section["offload_optimizer"]["buffer_count"] = NVME_BUFFERS
    if config.offload_parameters != "none":
        section["offload_param"] = _offload(config.offload_parameters, device, offload_dir)
    return section


def _offload(where: str, device: str, offload_dir: Path | None) -> dict[str, Any]:
    """Pinned memory is for copies to and from a GPU."""
    section: dict[str, Any] = {"device": where, "pin_memory": device == "cuda"}
    return {**section, "nvme_path": str(offload_dir)} if where == "nvme" else section


def _loss_scaling(config: Config) -> dict[str, Any]:
    """A dynamic scale is halved at every overflow (no `hysteresis`), because the loop then repeats the same batch."""
    if config.loss_scale != "dynamic":
        return {"enabled": True, "loss_scale": config.loss_scale}
    return {
        "enabled": True,
        "loss_scale": 0,
        "initial_scale_power": config.initial_loss_scale_power,
        "loss_scale_window": config.loss_scale_window,
        "hysteresis": 1,
        "min_loss_scale": LOWEST_LOSS_SCALE,
    }
