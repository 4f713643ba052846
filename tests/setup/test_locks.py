"""The lock files: complete, alike, and free of the machine they were compiled on."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline.doctor import read_lock

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
LOCKS = [REQUIREMENTS / "cpu.lock", REQUIREMENTS / "cuda.lock"]


def direct(name: str) -> list[Requirement]:
    """The requirements of one .in file."""
    lines = (line.partition("#")[0].strip() for line in (REQUIREMENTS / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


@pytest.mark.parametrize("file", ["direct.in", "data.in", "cpu.in", "cuda.in", "optional.in"])
def test_every_requirement_has_a_reason(file):
    unexplained = [
        line
        for line in (REQUIREMENTS / file).read_text().splitlines()
        if re.match(r"[a-zA-Z]", line) and not line.startswith("torch==") and not re.search(r"  # \w+", line)
    ]
    assert not unexplained


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_satisfies_what_is_asked_for(lock):
    pins = read_lock(lock)
    for wanted in [*direct("direct.in"), *direct("data.in"), *direct(f"{lock.stem}.in")]:
        found = pins[wanted.name.lower()]
        assert wanted.specifier.contains(found, prereleases=True), f"{wanted} is locked at {found}"


def test_both_locks_have_the_same_versions():
    cpu, cuda = map(read_lock, LOCKS)
    differing = {name: (cpu[name], cuda[name]) for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert differing == {"torch": ("2.13.0+cpu", "2.13.0")}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_line_is_one_exact_version_without_address_or_path(lock):
    for line in lock.read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[A-Za-z0-9.+!]+( +# via .+)?", line), line
        assert not re.search(r"://|file:|(?<!requirements)/(?!(direct|data|cpu|cuda)\.in)", line), line


def test_cpu_lock_leaves_out_what_does_not_import_beside_its_torch():
    assert not read_lock(LOCKS[0]).keys() & {"torchvision", "torchaudio", "torchcodec"}
