"""What pipeline.machine reads from the kernel and from nvidia-smi."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline import machine


def test_cpu_count_follows_the_affinity_mask():
    core = min(os.sched_getaffinity(0))
    script = "from pipeline import machine; print(machine.cpu_count())"
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def test_cpu_count_is_within_the_hardware():
    assert 1 <= machine.cpu_count() <= (psutil.cpu_count() or 0)


def test_memory_is_within_the_hardware():
    assert 0 < machine.memory_available_bytes() <= machine.memory_total_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "inactive_file 200\nanon 5"}, [(1000, 500)]),
        ({"memory.max": "max", "memory.current": "700"}, []),
        ({}, []),
    ],
)
def test_memory_limit_of_a_control_group(tmp_path, files, limit):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert list(machine._memory_limit(tmp_path, "memory.max", "memory.current", "inactive_file")) == limit


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert machine.disk_free_bytes(tmp_path / "a" / "b") == pytest.approx(
        psutil.disk_usage(str(tmp_path)).free, rel=0.1
    )


@pytest.fixture
def two_gpus(tmp_path, monkeypatch) -> None:
    """An nvidia-smi that answers as on a machine with two GPUs, one of them without memory of its own."""
    smi = tmp_path / "nvidia-smi"
    lines = [
        "0, GPU-aaa, NVIDIA A100, 81920, 80000",
        "1, GPU-bbb, NVIDIA A100, 81920, 1000",
        "2, GPU-c, GB10, [N/A], [N/A]",
    ]
    smi.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.own_gpus.cache_clear()


@pytest.mark.parametrize(("visible", "found"), [(None, [0, 1]), ("1", [1]), ("GPU-aaa", [0]), ("", []), ("-1", [])])
def test_gpus_are_the_visible_ones(two_gpus, monkeypatch, visible, found):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in machine.gpus()] == found
    machine.own_gpus.cache_clear()


def test_gpu_memory_is_in_bytes(two_gpus):
    assert machine.gpus()[0].memory_total_bytes == 80 * 2**30
    machine.own_gpus.cache_clear()


def test_describe_is_quick_and_json():
    script = "import json, time; from pipeline import machine; print(json.dumps(machine.describe()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
