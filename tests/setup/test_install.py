"""The installation script, on a lock file of three small packages and in a virtual environment of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.doctor import read_lock

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "requirements" / "setup.sh"
PINS = read_lock(ROOT / "requirements" / "cpu.lock")
TINY = [f"{name}=={PINS[name]}" for name in ("uv", "iniconfig", "shellingham")]

Setup = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def venv(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("installed") / "venv"


@pytest.fixture
def lock(tmp_path) -> Path:
    path = tmp_path / "tiny.lock"
    path.write_text("\n".join(TINY) + "\n")
    return path


@pytest.fixture
def setup(venv, lock) -> Setup:
    """Run the script; keywords are environment variables."""

    def run(**variables: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"VENV": str(venv), "LOCK": str(lock)} | {k: str(v) for k, v in variables.items()}
        return subprocess.run([SETUP], env=environment, capture_output=True, text=True, timeout=300)

    return run


def installed(venv: Path) -> set[str]:
    """Names of the installed packages, without pip and setuptools, which belong to the environment itself."""
    names = {path.name.partition("-")[0] for path in venv.glob("lib/python*/site-packages/*.dist-info")}
    return names - {"pip", "setuptools"}


def wheel(folder: Path, name: str, version: str) -> None:
    """An installable package with nothing in it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.mark.slow
def test_installs_exactly_the_lock_and_then_does_nothing(setup, venv, lock):
    first = setup()
    assert first.returncode == 0, first.stderr
    assert installed(venv) == {"uv", "iniconfig", "shellingham"}

    lock.write_text(lock.read_text().replace("\n", "  # via another comment\n"))
    started = time.monotonic()
    second = setup()
    assert time.monotonic() - started < 1
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


@pytest.mark.slow
def test_another_lock_adds_and_removes(setup, venv, lock):
    assert setup().returncode == 0
    lock.write_text("\n".join([*TINY[:2], f"six=={PINS['six']}"]) + "\n")
    assert setup().returncode == 0
    assert installed(venv) == {"uv", "iniconfig", "six"}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 2.5])
def test_an_interrupted_installation_is_finished(tmp_path, lock, seconds):
    venv = tmp_path / "venv"
    environment = os.environ | {"VENV": str(venv), "LOCK": str(lock)}
    first = subprocess.Popen([SETUP], env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (venv / ".installed").exists()

    again = subprocess.run([SETUP], env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert installed(venv) == {"uv", "iniconfig", "shellingham"}


@pytest.mark.slow
def test_a_failed_installation_leaves_no_stamp(setup, venv, lock, tmp_path):
    assert setup().returncode == 0
    lock.write_text("\n".join([*TINY, "nlora-pipeline-no-such-package==1.0"]) + "\n")
    assert setup(PIP_NO_INDEX="1", PIP_FIND_LINKS=tmp_path).returncode != 0
    assert not (venv / ".installed").exists()


@pytest.mark.slow
def test_packages_come_from_where_pip_is_told_to_look(setup, venv, lock, tmp_path):
    """Also the CPU build of torch, which is looked for in PyTorch's index only when no other place has it."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, name, version in ((one, "probe_a", "1.0"), (two, "torch", "0.0.1+cpu")):
        folder.mkdir()
        wheel(folder, name, version)
    assert setup().returncode == 0
    lock.write_text("\n".join([*TINY, "probe-a==1.0", "torch==0.0.1+cpu"]) + "\n")

    done = setup(PIP_FIND_LINKS=f"{one} {two}", PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr
    assert {"probe_a", "torch"} <= installed(venv)


@pytest.mark.slow
def test_pip_configuration_files_count_too(setup, venv, lock, tmp_path, monkeypatch):
    wheel(tmp_path, "probe_b", "1.0")
    assert setup().returncode == 0
    lock.write_text("\n".join([*TINY, "probe-b==1.0"]) + "\n")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nno-index = true\nfind-links =\n    {tmp_path / 'empty'}\n    {tmp_path}\n")
    (tmp_path / "empty").mkdir()

    done = setup(PIP_CONFIG_FILE=config)
    assert done.returncode == 0, done.stderr
    assert "probe_b" in installed(venv)


@pytest.fixture
def bare_path(tmp_path) -> Path:
    """A folder to be the whole PATH: what the script needs, but no compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in "bash dirname sha256sum cut flock grep sed rm cat xargs mktemp python3".split():
        (folder / name).symlink_to(sys.executable if name == "python3" else str(shutil.which(name)))
    return folder


def test_a_missing_compiler_is_one_clear_line(setup, bare_path, tmp_path):
    done = setup(PATH=bare_path, VENV=tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.startswith("setup: no C++ compiler (g++)")
    assert "apt-get install -y g++" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_missing_python_is_one_clear_line(setup, tmp_path):
    done = setup(PYTHON="python2.6", VENV=tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.startswith("setup: no Python 3.11 or 3.12 (tried python2.6)")
    assert done.stderr.count("\n") == 1


def test_a_missing_lock_is_one_clear_line(setup, tmp_path):
    done = setup(LOCK=tmp_path / "none.lock", VENV=tmp_path / "none")
    assert (done.returncode, done.stderr) == (2, f"setup: no lock file {tmp_path / 'none.lock'}\n")


def test_a_gpu_chooses_the_cuda_lock(setup, bare_path, tmp_path):
    smi = bare_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    smi.chmod(0o755)
    (bare_path / "g++").symlink_to("/bin/false")
    (bare_path / "python3").unlink()
    (bare_path / "python3").symlink_to("/bin/false")
    environment = {"PATH": str(bare_path), "VENV": str(tmp_path / "none")}
    traced = subprocess.run(["bash", "-x", SETUP], env=environment, capture_output=True, text=True, timeout=60)
    assert "lock=requirements/cuda.lock" in traced.stderr
