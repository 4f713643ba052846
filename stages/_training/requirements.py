"""What training will need of memory and disk, estimated before it starts. Standard library only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline import machine
from pipeline.artifact import Artifact
from pipeline.stage import Resources
from stages._training import layout
from stages._weights.index import stored_tensors

if TYPE_CHECKING:
    from stages.train import Config

PROCESS_BYTES = 0.7e9
"""What a worker takes before it holds any weight: PyTorch, transformers, DeepSpeed."""
ACTIVATION_BYTES_PER_PARAMETER = 2.0
"""Room for activations and temporary buffers, in proportion to the model; measured on small batches."""
NUM_CHECKPOINTS = 3
"""The two that are kept and the one being written."""


class Need(NamedTuple):
    """Bytes, over all processes of this machine."""

    memory: float
    disk: float


def need(config: Config, num_processes: int, num_parameters: int, num_trainable: int) -> Need:
    """An estimate for a frozen base of `num_parameters` with `num_trainable` adapter parameters.

    Weights are divided among the processes at ZeRO stage 3, gradients from stage 2, optimizer states from stage 1.
    """
    width = 4 if config.dtype == "float32" else 2
    copies = [1 if config.zero_stage >= stage else num_processes for stage in (3, 2, 1)]
    weights = (num_parameters + num_trainable) * width * copies[0]
    gradients = num_trainable * 4 * copies[1]
    optimizer = num_trainable * 12 * copies[2]
    activations = num_parameters * ACTIVATION_BYTES_PER_PARAMETER * num_processes
    memory = weights + gradients + optimizer + activations + PROCESS_BYTES * num_processes
    return Need(memory, num_trainable * 16 * NUM_CHECKPOINTS)


def problems(
    config: Config, resources: Resources, num_processes: int, model_dir: Path, adapter: Artifact | None
) -> list[str]:
    """Lines for what this machine does not have, for a model (and an adapter's start) that are there."""
    num_parameters = sum(tensor.num_elements for tensor in stored_tensors(model_dir).values())
    num_trainable = _num_trainable(adapter) if adapter else 0
    return shortages(config, resources, need(config, num_processes, num_parameters, num_trainable), num_processes)


def shortages(config: Config, resources: Resources, needed: Need, num_processes: int) -> list[str]:
    """Lines for what of `needed` this machine does not have."""
    lines = []
    memory, kind = _memory(resources)
    if needed.memory > memory:
        lines.append(
            f"train: the model needs about {_gib(needed.memory)} at ZeRO stage {config.zero_stage} on {num_processes} "
            f"processes in {config.dtype}, found {_gib(memory)} of {kind}; use a higher zero_stage, bfloat16, or fewer "
            f"processes (resources.num_processes)"
        )
    store = resources.store_dir or Path.cwd()
    free = machine.disk_free_bytes(store)
    if needed.disk > free:
        lines.append(f"{store}: checkpoints need {_gib(needed.disk)}, found {_gib(free)} free; use --store elsewhere")
    return lines


def _memory(resources: Resources) -> tuple[float, str]:
    if layout.device(resources) == "cuda":
        return sum(gpu.memory_total_bytes for gpu in machine.gpus()), "GPU memory"
    return machine.memory_total_bytes(), "memory"


def _num_trainable(adapter: Artifact) -> int:
    metrics = adapter.metrics()
    return int(metrics["trainable_parameters"])


def _gib(num_bytes: float) -> str:
    return f"{math.ceil(num_bytes / 2**30 * 10) / 10:.1f} GiB"
