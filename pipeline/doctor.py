"""What this machine can do, checked topic by topic. Starts no model, and ends within `DEADLINE_SECONDS`."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline import machine
from pipeline.provenance import installed_packages

DEADLINE_SECONDS = 3.5
REQUIREMENTS = Path(__file__).parents[1] / "requirements"
QUICKSTART_MEMORY_BYTES = 12 * 2**30
QUICKSTART_DISK_BYTES = 5 * 2**30
UNSHARE = "unshare --user --map-root-user --mount --net --pid --ipc --uts --fork --kill-child --mount-proc --"


class Finding(NamedTuple):
    """One line of the table. "wrong" has to be mended; "note" narrows what can be done here."""

    topic: str
    status: Literal["ok", "note", "wrong"]
    found: str
    advice: str = ""


def examine(store_dir: Path, lock: Path | None = None) -> list[Finding]:
    """All findings, in a fixed order; a check that hangs becomes a note. `lock` defaults to the installed one."""
    lock = lock or installed_lock()
    checks: dict[str, Callable[[], Finding]] = {
        "python": python,
        "packages": lambda: packages(lock),
        "cpu": lambda: cpu(lock),
        "memory": memory,
        "gpus": lambda: gpus(lock),
        "disk": lambda: disk(store_dir),
        "compiler": compiler,
        "ninja": ninja,
        "sandbox": sandbox,
        "hub": hub,
        "slurm": slurm,
    }
    return _run_together(checks)


def _run_together(checks: dict[str, Callable[[], Finding]]) -> list[Finding]:
    """Run every check in a thread of its own that dies with the process, so that none can hold up the answer."""
    findings: dict[str, Finding] = {}

    def work(topic: str, check: Callable[[], Finding]) -> None:
        findings[topic] = check()

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + DEADLINE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hung = f"no answer within {DEADLINE_SECONDS:g} s"
    return [findings.get(topic) or Finding(topic, "note", hung) for topic in checks]


def installed_lock() -> Path:
    """The lock that `make setup` put into this environment; where it did not, the one for this hardware."""
    stamp = Path(sys.prefix) / ".installed"
    name = stamp.read_text().split()[0] if stamp.exists() else _lock_for_hardware()
    return REQUIREMENTS / Path(name).name


def _lock_for_hardware() -> str:
    return "cuda.lock" if machine.gpus() else "cpu.lock"


def python() -> Finding:
    """The interpreter's version against what the locks are compiled for."""
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", found)
    return Finding("python", "wrong", f"{found}, expected 3.11 or 3.12", "install one and run `make setup`")


def packages(lock: Path) -> Finding:
    """Installed versions against every pin of the lock."""
    if not lock.exists():
        return Finding("packages", "wrong", f"no lock file {lock}", "run from a clone of the repository")
    wanted = read_lock(lock)
    installed = {normal_name(name): version for name, version in installed_packages().items()}
    differing = [
        f"{name} {installed.get(name, 'missing')} (lock: {version})"
        for name, version in wanted.items()
        if installed.get(name) != version
    ]
    if not differing:
        return Finding("packages", "ok", f"all {len(wanted)} as in {lock.name}")
    shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
    return Finding(
        "packages", "wrong", f"{len(differing)} of {len(wanted)} not as in {lock.name}: {shown}", "make setup"
    )


def read_lock(lock: Path) -> dict[str, str]:
    """{normalised name: pinned version}."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", lock.read_text(), flags=re.MULTILINE)
    return {normal_name(name): version for name, version in pins}


def normal_name(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def cpu(lock: Path) -> Finding:
    """Cores, and the instructions that vLLM's CPU build is compiled for."""
    found = f"{machine.cpu_count()} cores, {machine.cpu_name()}"
    flags = machine.cpu_flags()
    if lock.name == "cpu.lock" and flags and not flags & {"avx2", "asimd"}:
        return Finding(
            "cpu", "wrong", f"{found}, without AVX2", "vLLM's CPU build needs AVX2: serve on another machine"
        )
    return Finding("cpu", "ok", found)


def memory() -> Finding:
    """Memory that is free now, of what this process may use at all."""
    available = machine.memory_available_bytes()
    found = f"{_gib(available)} free of {_gib(machine.memory_total_bytes())}"
    if available < QUICKSTART_MEMORY_BYTES:
        return Finding("memory", "note", found, f"the quickstart takes up to {_gib(QUICKSTART_MEMORY_BYTES)}")
    return Finding("memory", "ok", found)


def gpus(lock: Path) -> Finding:
    """Visible NVIDIA GPUs, and whether the installed packages can use them."""
    found = ", ".join(
        f"{gpu.name} ({_gib(gpu.memory_free_bytes)} free of {_gib(gpu.memory_total_bytes)})" for gpu in machine.gpus()
    )
    if found and lock.name == "cpu.lock":
        return Finding("gpus", "wrong", f"{found}, but the CPU packages are installed", "make setup")
    if not found and lock.name == "cuda.lock":
        return Finding("gpus", "note", "none visible, but the CUDA packages are installed", "fine on a login node")
    if found and not (shutil.which("nvcc") or os.environ.get("CUDA_HOME") or Path("/usr/local/cuda").exists()):
        return Finding(
            "gpus", "note", f"{found}, no CUDA toolkit", "DeepSpeed compiles its CUDA ops with nvcc: set CUDA_HOME"
        )
    return Finding("gpus", "ok", found or "none: training and serving run on the CPU")


def disk(store_dir: Path) -> Finding:
    """Free space where artifacts go."""
    free = machine.disk_free_bytes(store_dir)
    found = f"{_gib(free)} free at {store_dir}"
    if free < QUICKSTART_DISK_BYTES:
        advice = f"the quickstart writes up to {_gib(QUICKSTART_DISK_BYTES)}: make room or choose another --store"
        return Finding("disk", "wrong", found, advice)
    return Finding("disk", "ok", found)


def compiler() -> Finding:
    """What DeepSpeed compiles its ops with on first use: a C++ compiler and Python's headers."""
    missing = [] if shutil.which("g++") else ["g++"]
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("python3-dev")
    if missing:
        found = f"missing: {', '.join(missing)}, which DeepSpeed compiles its communication op with"
        return Finding("compiler", "wrong", found, f"apt-get install -y {' '.join(missing)}")
    return Finding("compiler", "ok", _first_line("g++", "--version"))


def ninja() -> Finding:
    """DeepSpeed's build tool, on the PATH or beside this interpreter."""
    path = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if path is None:
        return Finding("ninja", "wrong", "missing, and DeepSpeed builds its communication op with it", "make setup")
    return Finding("ninja", "ok", _first_line(path, "--version"))


def sandbox() -> Finding:
    """Whether code that a model wrote can be run in namespaces of its own, without a network."""
    if shutil.which("unshare") and _succeeds([*UNSHARE.split(), "true"]):
        return Finding("sandbox", "ok", "namespaces work: model-written code runs without network and files")
    advice = "install util-linux and allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
    return Finding("sandbox", "note", "no namespaces: model-written code runs under limits alone", advice)


def hub() -> Finding:
    """Whether models and data sets can be downloaded. Any answer that is no error counts."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if folder := os.environ.get("PIPELINE_FETCHED"):
        if Path(folder).is_dir():
            return Finding("hub", "ok", f"not asked: models and data come from {folder} (PIPELINE_FETCHED)")
        return Finding("hub", "wrong", f"PIPELINE_FETCHED is {folder}: no such folder", "unset it, or fetch to there")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return Finding(
            "hub", "note", "not asked, HF_HUB_OFFLINE is set", "models and data come from the cache or folders"
        )
    import urllib.request

    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS - 1):
            return Finding("hub", "ok", f"{endpoint} answers")
    except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
        reason = getattr(error, "reason", None) or error
        advice = "the quickstart needs no hub; else name local folders, or a mirror in HF_ENDPOINT"
        return Finding("hub", "note", f"{endpoint} not reachable: {reason}", advice)


def slurm() -> Finding:
    """The partitions that `sinfo` lists."""
    if shutil.which("sinfo") is None:
        return Finding("slurm", "ok", "none: steps run on this machine")
    partitions = _output(["sinfo", "--noheader", "--format", "%P %D nodes %G"])
    if partitions is None:
        return Finding("slurm", "note", "installed, but sinfo gets no answer", "is slurmctld running?")
    return Finding("slurm", "ok", "; ".join(partitions.splitlines()) or "no partitions")


def _first_line(*command: str) -> str:
    return ((_output(list(command)) or "").splitlines() or [command[0]])[0]


def _succeeds(command: list[str]) -> bool:
    return _output(command) is not None


def _output(command: list[str]) -> str | None:
    """The command's output; None when it fails, hangs or does not exist."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS - 0.5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
