"""What training will need of memory and disk, estimated before it starts. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline import machine
from pipeline.stage import Needs, Resources
from stages._training import layout
from stages._weights import targets

if TYPE_CHECKING:
    from stages.adapters.gradient import Estimate
    from stages.train import Config

PROCESS_BYTES = 0.7e9
"""What a worker takes before it holds any weight: PyTorch, transformers, DeepSpeed (measured)."""
ACTIVATION_FACTOR = 1.5
"""Over the inputs and outputs of all matrices, which are kept for the backward pass: attention, norms, buffers."""
RECOMPUTED_SHARE = 0.1
"""Of the activations, with gradient checkpointing: each layer's input, a nineteenth of what a Llama layer keeps, and
all of one layer at a time.
"""
STATE_BYTES = {"adamw": 8.0, "rmsprop": 4.0, "adamw_8bit": 2 + 2 * 4 / 256}
"""Running means of one trained number; those in 8 bits have a scale in 32 for each 256."""
QUANTIZED_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a number in 4 bits: blocks of 64 have a scale in 8 bits, 256 scales have one in 32 (QLoRA, section 3)."""
DEFAULT_LENGTH = 512


class Size(NamedTuple):
    """What is known of a model and its adapter before they are loaded; zero stands for unknown."""

    num_parameters: int
    num_trainable: int = 0
    """As many as `num_parameters` when the model itself is trained."""
    num_activations: int = 0
    """Numbers kept for one token: the sum of rows and columns of all matrices."""
    max_length: int = DEFAULT_LENGTH
    """Tokens of the longest sample."""
    num_in_matrices: int = 0
    """Of the parameters, those that `quantize` is for."""


class Need(NamedTuple):
    """Bytes, over all processes of all nodes."""

    memory: float
    disk: float
    """Of one checkpoint."""
    host_memory: float = 0.0
    """What is offloaded to the CPU; on a CPU it is part of the same memory."""
    files: float = 0.0
    """What is offloaded to NVMe."""


def size_of(shapes: Mapping[str, tuple[int, ...]], num_trainable: int = 0, max_length: int = DEFAULT_LENGTH) -> Size:
    """The size of a model with these tensors."""
    matrices = targets.matrices(shapes).values()
    num_activations, num_in_matrices = sum(map(sum, matrices)), sum(map(math.prod, matrices))
    return Size(sum(map(math.prod, shapes.values())), num_trainable, num_activations, max_length, num_in_matrices)


def need(config: Config, shared: layout.Layout, size: Size) -> Need:
    """An estimate for a frozen base with a trained adapter, or for a model that is trained itself: the optimizer keeps
    a master copy and its running means of what is trained.
    """
    num_added = size.num_trainable if size.num_trainable < size.num_parameters else 0
    num_quantized = size.num_in_matrices if config.quantize else 0
    num_whole = size.num_parameters + num_added - num_quantized
    weights = num_whole * _width(config) + num_quantized * QUANTIZED_BYTES
    state = 4 + STATE_BYTES[config.optimizer] + (4 if config.rmsprop_momentum else 0)
    moved = {"none": 0.0, "cpu": 0.0, "nvme": 0.0}
    copies = 1 if config.zero_stage else shared.num_processes
    moved[config.offload_optimizer] += size.num_trainable * state * copies
    moved[config.offload_parameters] += weights  # at stage 3 alone, which has one copy of them
    memory = _memory_need(config, shared, size, weights, state) - moved["cpu"] - moved["nvme"]
    return Need(memory, size.num_trainable * (4 + state), moved["cpu"], moved["nvme"])


def gradient_problems(estimate: Estimate, resources: Resources, size: Size) -> list[str]:
    """A line if this machine has not the memory to estimate the gradient by `num_trainable` of the model's numbers, of
    which DeepSpeed keeps a master copy from stage 1 on.
    """
    num_processes = layout.num_processes(resources)
    shared = layout.Layout(num_processes, estimate.num_batches, -(-estimate.batch_size // num_processes))
    weights = size.num_parameters * _width(estimate)
    needed = _memory_need(estimate, shared, size, weights, 4 if estimate.zero_stage else 0)
    needed *= layout.share_here(resources)
    memory, kind = _memory(resources)
    if needed <= memory:
        return []
    return [
        f"adapter.gradient: it needs about {_gib(needed)} at ZeRO stage {estimate.zero_stage} on {num_processes} "
        f"processes in {estimate.dtype}, found {_gib(memory)} of {kind}; use a higher zero_stage, bfloat16, or a "
        f"smaller batch_size in adapter.gradient, or fewer processes (resources.num_processes)"
    ]


def _memory_need(
    setup: Config | Estimate, shared: layout.Layout, size: Size, weight_bytes: float, state_bytes: float
) -> float:
    """Bytes over all processes, given those of the weights and of the optimizer's states of one trained number.

    Weights are divided among the processes at ZeRO stage 3, gradients from stage 2, optimizer states from stage 1.
    """
    copies = {stage: 1 if setup.zero_stage >= stage else shared.num_processes for stage in (1, 2, 3)}
    row = getattr(setup, "pack_length", None) or shared.per_device_batch_size * size.max_length
    tokens = shared.num_processes * row
    kept = RECOMPUTED_SHARE if getattr(setup, "gradient_checkpointing", False) else 1.0
    activations = tokens * size.num_activations * _width(setup) * ACTIVATION_FACTOR * kept
    trained = size.num_trainable * (4 * copies[2] + state_bytes * copies[1])
    return weight_bytes * copies[3] + trained + activations + PROCESS_BYTES * shared.num_processes


def _width(setup: Config | Estimate) -> int:
    """Bytes of a number."""
    return 4 if setup.dtype == "float32" else 2


def problems(config: Config, resources: Resources, size: Size) -> list[str]:
    """Lines for what this machine does not have; none for a batch that cannot be shared out: that is a line already."""
    num_processes = layout.num_processes(resources)
    if layout.problems(config, num_processes):
        return []
    return shortages(config, resources, need(config, layout.layout(config, num_processes), size), num_processes)


def needs(config: Config, resources: Resources, size: Size) -> Needs:
    """What training takes of this machine beside other steps, the number of its processes and threads as without them.

    Beside a GPU threads do no arithmetic, unless something is offloaded: a share of the cores is enough.
    """
    num_processes = layout.num_processes(resources)
    num_cores = min(machine.cpu_count(), num_processes * layout.num_threads(resources))
    needed = need(config, layout.layout(config, num_processes), size)
    if layout.device(resources) == "cpu":
        return Needs(num_cores=num_cores, memory_bytes=int(needed.memory + needed.host_memory))
    if resources.num_threads is None and not needed.host_memory and not needed.files:
        num_cores = max(num_processes, num_cores * num_processes // len(machine.gpus()))
    host = PROCESS_BYTES * num_processes + 4 * size.num_parameters + needed.host_memory
    return Needs(num_cores=num_cores, memory_bytes=int(host), num_gpus=num_processes)


def shortages(config: Config, resources: Resources, needed: Need, num_processes: int) -> list[str]:
    """Lines for what of `needed` this machine does not have."""
    lines = []
    memory, kind = _memory(resources)
    share, on_gpu = layout.share_here(resources), layout.device(resources) == "cuda"
    here = (needed.memory if on_gpu else needed.memory + needed.host_memory) * share
    if here > memory:
        lines.append(
            f"train: the model needs about {_gib(here)} at ZeRO stage {config.zero_stage} on {num_processes} "
            f"processes in {config.dtype}, found {_gib(memory)} of {kind}; use a higher zero_stage, bfloat16, "
            f"gradient_checkpointing, offload, a smaller per_device_batch_size, or fewer processes "
            f"(resources.num_processes)"
        )
    if on_gpu and needed.host_memory * share > machine.memory_total_bytes():
        lines.append(
            f"train: offload to cpu needs about {_gib(needed.host_memory * share)}, found "
            f"{_gib(machine.memory_total_bytes())} of memory; use nvme, or offload less"
        )
    folder = resources.offload_dir
    if needed.files and folder and machine.is_here() and needed.files * share > machine.disk_free_bytes(folder):
        lines.append(
            f"{folder}: offload to nvme needs about {_gib(needed.files * share)}, found "
            f"{_gib(machine.disk_free_bytes(folder))} free; name another resources.offload_dir"
        )
    store = resources.store_dir or Path.cwd()
    free = machine.disk_free_bytes(store)
    disk = needed.disk * (resources.keep_last + resources.keep_best + 1)  # and the one being written
    if disk > free:
        lines.append(f"{store}: checkpoints need {_gib(disk)}, found {_gib(free)} free; use --store elsewhere")
    return lines


def _memory(resources: Resources) -> tuple[float, str]:
    if layout.device(resources) == "cuda":
        return sum(gpu.memory_total_bytes for gpu in machine.gpus()), "GPU memory"
    return machine.memory_total_bytes(), "memory"


def _gib(num_bytes: float) -> str:
    return f"{math.ceil(num_bytes / 2**30 * 10) / 10:.1f} GiB"
