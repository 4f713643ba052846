"""`python -m pipeline doctor` on this machine, with one thing at a time missing or hanging."""

import http.server
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def lock(tmp_path) -> Path:
    """A lock that this environment satisfies."""
    path = tmp_path / "cpu.lock"
    path.write_text(f"pytest=={importlib.metadata.version('pytest')}  # via -r requirements/direct.in\n")
    return path


@pytest.fixture
def doctor(tmp_path, lock) -> Doctor:
    """Run it; its exit code and its output with white space evened out. Keywords are environment variables."""

    def run(**variables: object) -> tuple[int, str]:
        command = [sys.executable, "-m", "pipeline", "doctor", "--lock", str(lock), "--store", str(tmp_path / "store")]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"} | {name: str(value) for name, value in variables.items()}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, re.sub(r"\s+", " ", done.stdout)

    return run


@pytest.fixture
def tools(tmp_path) -> Path:
    """A PATH of its own with a compiler and a build tool."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("g++", "unshare", "true"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_sound_machine(doctor):
    code, output = doctor()
    assert code == 0, output
    assert "ok packages all 1 as in cpu.lock" in output
    assert "nothing is wrong" in output
    for topic in ("python", "cpu", "memory", "gpus", "disk", "compiler", "ninja", "sandbox", "hub", "slurm"):
        assert f" {topic} " in output


def test_a_missing_package_and_another_version(doctor, lock):
    lock.write_text("pytest==0.1\nno_such.package==2.0\n")
    code, output = doctor()
    assert code == 2
    version = importlib.metadata.version("pytest")
    assert f"2 of 2 not as in cpu.lock: pytest {version} (lock: 0.1), no-such-package missing (lock: 2.0)" in output
    assert "-> make setup" in output
    assert "1 to mend" in output


def test_a_missing_lock(doctor, lock):
    lock.unlink()
    code, output = doctor()
    assert code == 2
    assert "no lock file" in output


def test_a_missing_compiler(doctor, tools):
    (tools / "g++").unlink()
    code, output = doctor(PATH=tools)
    assert code == 2
    assert "wrong compiler missing: g++" in output
    assert "apt-get install -y g++" in output


def test_a_gpu_beside_cpu_packages(doctor, tools):
    program(tools / "nvidia-smi", "echo '0, GPU-1, NVIDIA H100, 81559, 81000'")
    code, output = doctor(PATH=tools)
    assert code == 2
    assert "wrong gpus NVIDIA H100 (79.1 GiB free of 79.6 GiB), but the CPU packages are installed" in output


def test_slurm_partitions(doctor, tools):
    program(tools / "sinfo", "echo 'gpu* 4 nodes gpu:8'")
    assert "ok slurm gpu* 4 nodes gpu:8" in doctor(PATH=tools)[1]


def test_what_hangs_does_not_hold_up_the_answer(doctor, tools):
    """A hub behind a firewall that drops packets, and Slurm without its controller."""
    program(tools / "sinfo", "exec /bin/sleep 60")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        code, output = doctor(PATH=tools, HF_HUB_OFFLINE="", HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        seconds = time.monotonic() - started
    assert code == 0
    assert "note hub" in output
    assert "note slurm" in output
    assert seconds < 5


@pytest.fixture
def endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hub_that_answers(doctor, endpoint):
    output = doctor(HF_HUB_OFFLINE="", HF_ENDPOINT=endpoint, NO_PROXY="127.0.0.1")[1]
    assert f"ok hub {endpoint} answers" in output


def test_a_fetched_folder_stands_for_the_hub(doctor, tmp_path):
    assert f"ok hub not asked: models and data come from {tmp_path}" in doctor(PIPELINE_FETCHED=tmp_path)[1]
    code, output = doctor(PIPELINE_FETCHED=tmp_path / "none")
    assert code == 2 and "wrong hub PIPELINE_FETCHED is" in output


def test_a_hub_that_refuses(doctor, endpoint):
    output = doctor(HF_HUB_OFFLINE="0", HF_ENDPOINT=f"{endpoint}/missing", NO_PROXY="127.0.0.1")[1]
    assert "note hub" in output
    assert "not reachable: File not found" in output
