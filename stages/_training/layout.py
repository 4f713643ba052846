"""How a global batch is shared out among processes and forward passes. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pipeline import machine
from pipeline.stage import Resources

if TYPE_CHECKING:
    from stages.train import Config

MAX_CPU_PROCESSES = 2
LOOPBACK = ("localhost", "127.0.0.1")
"""Names in `resources.nodes` that mean this machine once more."""


class Layout(NamedTuple):
    """`num_processes * accumulation * per_device_batch_size` is the global batch size."""

    num_processes: int
    accumulation: int
    per_device_batch_size: int


def device(resources: Resources) -> str:
    """The kind of device that training runs on: "cuda" or "cpu"."""
    if resources.device != "auto":
        return resources.device
    return "cuda" if machine.gpus() else "cpu"


def num_nodes(resources: Resources, environment: Mapping[str, str] = os.environ) -> int:
    """As many as the recipe names; else as Slurm has given us; else one."""
    if resources.nodes is not None:
        return len(resources.nodes)
    return int(environment.get("SLURM_JOB_NUM_NODES", "1"))


def cores_per_node(environment: Mapping[str, str]) -> int | None:
    """CPUs that a Slurm allocation has on each node at least, from a list like "8(x2),4"; None outside of one."""
    counts = re.findall(r"(?:^|,)(\d+)", environment.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return min(map(int, counts)) if counts else None


def processes_here(resources: Resources) -> int:
    """Training processes on this machine: of several nodes, if they are loopback names."""
    nodes = resources.nodes or []
    agents = 1 + sum(node in LOOPBACK for node in nodes[1:])
    return agents * processes_per_node(resources)


def share_here(resources: Resources) -> float:
    """The part of all processes that is on this machine."""
    return processes_here(resources) / num_processes(resources)


def num_processes(resources: Resources) -> int:
    """Over all nodes: the world size."""
    return num_nodes(resources) * processes_per_node(resources)


def processes_per_node(resources: Resources) -> int:
    """What the user asked for; else one per GPU, or one per core up to two."""
    if resources.num_processes:
        return resources.num_processes
    if device(resources) == "cuda":
        return max(1, len(machine.gpus()))
    return min(MAX_CPU_PROCESSES, machine.cpu_count())


def num_threads(resources: Resources) -> int:
    """CPU threads of one process."""
    return resources.num_threads or max(1, machine.cpu_count() // processes_here(resources))


def layout(config: Config, processes: int) -> Layout:
    """The sharing out of a config without `problems`."""
    share = config.global_batch_size // processes
    per_device = min(config.per_device_batch_size or share, share)
    return Layout(processes, share // per_device, per_device)


def problems(config: Config, processes: int) -> list[str]:
    """Why the batch cannot be shared out evenly, with the sizes that work."""
    total, per_device = config.global_batch_size, config.per_device_batch_size
    if total % processes:
        below, above = total // processes * processes, (total // processes + 1) * processes
        near = f"{below} or {above}" if below else str(above)
        fits = [count for count in range(1, total + 1) if total % count == 0]
        return [
            f"train.global_batch_size: got {total}, must be a multiple of the {processes} processes; use {near}, "
            f"or resources.num_processes = {_list(fits)}"
        ]
    share = total // processes
    if per_device and per_device < share and share % per_device:
        works = [size for size in range(1, share + 1) if share % size == 0]
        return [
            f"train.per_device_batch_size: got {per_device}, must divide each process's share of {share} "
            f"(global_batch_size {total} / {processes} processes); use {_list(works)}"
        ]
    return []


def room_problems(config: Config, longest: int) -> list[str]:
    """Why a sample of so many tokens lies in no packed row."""
    if config.pack_length is None or longest <= config.pack_length:
        return []
    return [
        f"train.pack_length: got {config.pack_length}, must be >= the {longest} tokens of the longest sample; "
        f"raise it, or lower tokenize.max_length"
    ]


def evaluation_problems(config: Config, has_validation: bool) -> list[str]:
    """Why nothing can be measured during training."""
    if config.evaluate_every_steps is None or has_validation:
        return []
    return [
        "train.evaluate_every_steps: there is no validation split; set samples aside (data.carve_validation), or leave "
        "evaluate_every_steps out"
    ]


def _list(numbers: list[int]) -> str:
    return " or ".join(str(number) for number in numbers[:8])
