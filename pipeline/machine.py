"""What this machine lets this process use: CPU cores, memory, GPUs, disk.

A container or a Slurm job may have less than the hardware, so affinity and control groups (v1 and v2) count too.

What is to run on another machine can be judged before it is there: within `judged(node)` all of this is about that one.
"""

import functools
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.strict import StrictModel

NVIDIA_SMI_SECONDS = 10
CORES_VARIABLE = "PIPELINE_CPU_COUNT"
"""Cores of a step that shares the machine with others (`pipeline.share`)."""
ENOUGH_BYTES = 2**60
_JUDGED = "PIPELINE_JUDGED_NODE"
_NETWORK = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cifs",
    "smb",
    "orangefs",
    "pvfs",
    "wekafs",
    "fuse.",
    "glusterfs",
)
"""Beginnings of types of file systems, as /proc/self/mountinfo has them."""
_QUERY = "--query-gpu=index,uuid,name,memory.total,memory.free"


class Gpu(StrictModel):
    """One NVIDIA GPU that CUDA_VISIBLE_DEVICES leaves visible."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int
    memory_free_bytes: int


class Node(StrictModel):
    """Another machine, as far as it is known; of what is not known it is taken to have enough."""

    num_nodes: int = 1
    """Machines like this that work together."""
    cpu_count: int = 1
    memory_bytes: int = ENOUGH_BYTES
    num_gpus: int = 0
    gpu_memory_bytes: int = ENOUGH_BYTES
    """Of each GPU."""


@contextmanager
def judged(node: Node, environment: Mapping[str, str]) -> Iterator[None]:
    """Within, this module tells of `node`, which has these variables, in this process and in those that it starts."""
    variables = {**environment, _JUDGED: node.model_dump_json(), "SLURM_JOB_NUM_NODES": str(node.num_nodes)}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def is_here() -> bool:
    """Whether this machine is the one that is told of: packages, programs and local disks of another are not seen."""
    return _JUDGED not in os.environ


def _node() -> Node | None:
    text = os.environ.get(_JUDGED)
    return Node.model_validate_json(text) if text else None


def describe() -> dict[str, Any]:
    """The hardware as JSON, for manifests: {"cpu", "cpu_count", "memory_bytes", "gpus": [names]}."""
    return {
        "cpu": cpu_name(),
        "cpu_count": cpu_count(),
        "memory_bytes": memory_total_bytes(),
        "gpus": [gpu.name for gpu in gpus()],
    }


def cpu_count() -> int:
    """Cores this process may use: its affinity mask, the CPU quota of its control groups rounded up, what Slurm gave,
    its share beside other steps.

    Not every Slurm holds a job to its cores, but the others belong to other jobs.
    """
    if node := _node():
        return node.cpu_count
    allowed = len(os.sched_getaffinity(0))
    quotas = [*_cpu_quotas_v2(), *_cpu_quotas_v1(), *_counts("SLURM_CPUS_ON_NODE"), *_counts(CORES_VARIABLE)]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def cpu_name() -> str:
    """The processor's own name, such as "AMD EPYC 7763"."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions, such as "avx2"; empty where the kernel does not tell."""
    return frozenset(_cpu_info("flags").split())


def memory_total_bytes() -> int:
    """Physical memory, or the control groups' limit where that is lower."""
    if node := _node():
        return node.memory_bytes
    return min([_memory_info("MemTotal"), *(limit for limit, _ in _memory_limits())])


def memory_available_bytes() -> int:
    """What new processes can take before the kernel swaps or kills."""
    if node := _node():
        return node.memory_bytes
    return min([_memory_info("MemAvailable"), *(limit - used for limit, used in _memory_limits())])


def disk_free_bytes(path: Path) -> int:
    """Free space where `path` is, or will be once its missing folders are made."""
    existing = next(folder for folder in [path.absolute(), *path.absolute().parents] if folder.exists())
    return shutil.disk_usage(existing).free


def gpus() -> tuple[Gpu, ...]:
    """The visible NVIDIA GPUs; none where nvidia-smi is missing, fails or hangs. Asked once per process."""
    if node := _node():
        total = node.gpu_memory_bytes
        gpu = Gpu(index=0, uuid="", name="GPU", memory_total_bytes=total, memory_free_bytes=total)
        return tuple(gpu.model_copy(update={"index": index}) for index in range(node.num_gpus))
    return own_gpus()


def is_on_network(path: Path) -> bool:
    """Whether `path` is, or will be, on a file system that other machines see too."""
    existing = next(folder for folder in [path.absolute(), *path.absolute().parents] if folder.exists())
    wanted, kind = existing.stat().st_dev, ""
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        fields, _, source = line.partition(" - ")
        major, _, minor = fields.split()[2].partition(":")
        if os.makedev(int(major), int(minor)) == wanted:
            kind = source.split()[0]
    return kind.startswith(_NETWORK)


@functools.cache
def own_gpus() -> tuple[Gpu, ...]:
    """Those of this machine."""
    command = ["nvidia-smi", _QUERY, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(gpu for gpu in map(_parse_gpu, answer.stdout.splitlines()) if gpu and _is_visible(gpu))


def _parse_gpu(line: str) -> Gpu | None:
    """None for a GPU that reports no memory of its own (integrated ones) or none at all (a lost one)."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 5 or not (fields[3].isdigit() and fields[4].isdigit()):
        return None
    index, uuid, name, total, free = fields  # memory comes in MiB
    return Gpu(
        index=int(index),
        uuid=uuid,
        name=name,
        memory_total_bytes=int(total) * 2**20,
        memory_free_bytes=int(free) * 2**20,
    )


def _is_visible(gpu: Gpu) -> bool:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return True
    chosen = [device.strip() for device in visible.split(",") if device.strip()]
    return str(gpu.index) in chosen or any(gpu.uuid.startswith(device) for device in chosen if not device.isdigit())


def _cpu_info(key: str) -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _memory_info(key: str) -> int:
    """Bytes of one line of /proc/meminfo."""
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, use that cannot be reclaimed) in bytes of every control group around this process that sets a limit."""
    for folder in _groups("", Path("/sys/fs/cgroup")):
        yield from _memory_limit(folder, "memory.max", "memory.current", "inactive_file")
    for folder in _groups("memory", Path("/sys/fs/cgroup/memory")):
        yield from _memory_limit(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _memory_limit(folder: Path, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    most, used = _read(folder / limit), _read(folder / usage)
    if not (most.isdigit() and used.isdigit()) or int(most) >= 2**60:  # v1 writes "no limit" as a huge number
        return
    statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    yield int(most), max(0, int(used) - int(statistics.get(cache, 0)))


def _cpu_quotas_v2() -> Iterator[float]:
    for folder in _groups("", Path("/sys/fs/cgroup")):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit():
            yield int(quota) / int(period)


def _cpu_quotas_v1() -> Iterator[float]:
    for folder in _groups("cpu", Path("/sys/fs/cgroup/cpu")):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _counts(variable: str) -> Iterator[int]:
    """A number of cores, if it is set. Slurm's is of the job on this node: https://slurm.schedmd.com/sbatch.html."""
    given = os.environ.get(variable, "")
    if given.isdigit():
        yield int(given)


def _groups(controller: str, root: Path) -> list[Path]:
    """The folders of this process's control group and those around it. `controller` is "" for version 2.

    Inside a container the path in /proc may be the host's; the root is then the container's own group.
    """
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = root / path.lstrip("/")
            return [folder for folder in [group, *group.parents] if folder == root or root in folder.parents]
    return []


def _read(path: Path) -> str:
    """The file's text; empty when there is no such file or it may not be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
