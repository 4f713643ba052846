"""Attacks that the sandbox stops succeed without it, or stopping them would prove nothing."""

import subprocess
import sys

import pytest

from tests.sandbox import attacks
from tests.sandbox.arena import SECRET, new_arena


@pytest.mark.parametrize("attack", sorted(attacks.REACHING.keys() - attacks.PRIVILEGED))
def test_outside_the_sandbox_it_succeeds(attack: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SECRET, "secret")
    with new_arena() as arena:
        command = [sys.executable, "-I", "-B", "-c", arena.program(attacks.REACHING[attack])]
        result = subprocess.run(command, cwd=arena.folder, capture_output=True, text=True, timeout=60)
        left = [f"{folder}/{arena.marker}" for folder in ("/tmp", "/var/tmp", "/dev/shm")]
        subprocess.run(["rm", "-f", *left], check=True)
    assert result.returncode == 0, result.stderr
