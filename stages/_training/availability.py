"""What a training asks for that this machine has not, found before it starts. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline import machine
from pipeline.stage import Resources
from stages._training import layout

if TYPE_CHECKING:
    from stages.train import Config


def problems(config: Config, resources: Resources) -> list[str]:
    """A line for each thing that is missing."""
    device = layout.device(resources)
    return [
        *_package_problems(config),
        *_tracker_problems(resources),
        *_device_problems(config, device),
        *_offload_problems(config, resources),
    ]


def has_flash_attention() -> bool:
    """Whether FlashAttention 2 is installed."""
    return _installed("flash_attn")


def _package_problems(config: Config) -> Iterator[str]:
    if config.quantize and not _installed("bitsandbytes"):
        yield f"train.quantize: got {config.quantize}, which needs the package bitsandbytes; install it, or use null"
    if config.optimizer == "adamw_8bit" and not _installed("bitsandbytes"):
        yield "train.optimizer: got adamw_8bit, which needs the package bitsandbytes; install it, or use adamw"


def _tracker_problems(resources: Resources) -> Iterator[str]:
    packages = {"mlflow": "mlflow-skinny"}
    for name in resources.trackers if machine.is_here() else ():
        if not _installed(name):
            package = packages.get(name, name)
            yield f"resources.trackers: got {name}, which needs the package {package}; install it, or leave {name} out"
        elif name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            yield "resources.trackers: got mlflow without a server; set MLFLOW_TRACKING_URI, or leave mlflow out"


def _device_problems(config: Config, device: str) -> Iterator[str]:
    if config.dtype == "float16" and device == "cpu":
        yield "train.dtype: got float16 on a CPU, expected a GPU; use bfloat16 or float32 here"
    if config.attention == "flash_attention_2":
        yield from _gpu_package("attention: got flash_attention_2", "flash_attn", "flash-attn", device, "auto")
    if config.liger:
        yield from _gpu_package("liger: got true", "liger_kernel", "liger-kernel", device, "false")
    if config.compile and device == "cpu" and machine.is_here() and not shutil.which(os.environ.get("CXX", "g++")):
        yield "train.compile: got true, which needs a C++ compiler on a CPU, found no g++; install it, or use false"


def _gpu_package(found: str, module: str, package: str, device: str, instead: str) -> Iterator[str]:
    if device == "cpu":
        yield f"train.{found} on a CPU, expected a GPU; use {instead} here"
    elif not _installed(module):
        yield f"train.{found}, which needs the package {package}; install it, or use {instead}"


def _offload_problems(config: Config, resources: Resources) -> Iterator[str]:
    names = [name for name in ("offload_optimizer", "offload_parameters") if getattr(config, name) == "nvme"]
    if not names:
        return
    folder = resources.offload_dir
    if folder is None:
        yield f"train.{names[0]}: got nvme without a folder; set resources.offload_dir to one on a fast local disk"
    elif machine.is_here() and (not folder.is_dir() or not os.access(folder, os.W_OK)):
        yield f"resources.offload_dir: {folder} is no folder that can be written; make it, or name another"


def _installed(module: str) -> bool:
    """A folder of that name, such as wandb leaves behind, is no package. On another machine everything may be."""
    found = importlib.util.find_spec(module)
    return not machine.is_here() or (found is not None and found.origin is not None)
