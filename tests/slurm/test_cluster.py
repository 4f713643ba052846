"""The test cluster is what the other tests take it for."""

import subprocess
import sys

import psutil
import pytest

from tests.pipeline.test_run import _wait_for
from tests.slurm.cluster import NODES, ROOT, running

pytestmark = pytest.mark.slow


def test_two_clusters_run_side_by_side_and_two_nodes_run_one_command(cluster):
    with running() as other:
        for each in (cluster, other):
            said = each.ask("srun", "--nodes=2", "--ntasks=2", "printenv", "SLURMD_NODENAME", "SLURM_CONF")
            assert sorted(said.split()) == sorted([*NODES, str(each.conf), str(each.conf)])
    assert not processes_of(str(other.folder)) and not other.folder.exists()


def test_nothing_outlives_tests_that_were_killed():
    script = "from tests.slurm.cluster import running\nwith running() as it: print(it.folder, flush=True); input()"
    command = [sys.executable, "-c", script]
    tests = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert tests.stdout and tests.stdin
    folder = tests.stdout.readline().strip()
    assert len(processes_of(folder)) >= 4
    tests.kill()
    tests.communicate()
    _wait_for(lambda: not processes_of(folder), 10)


def processes_of(folder: str) -> list[psutil.Process]:
    return [
        each for each in psutil.process_iter(["cmdline"]) if any(folder in word for word in each.info["cmdline"] or [])
    ]
