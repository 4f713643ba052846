"""The test cluster is what the other tests take it for."""

import pytest

from tests.slurm.cluster import NODES

pytestmark = pytest.mark.slow


def test_two_nodes_run_one_command_and_a_batch_job_comes_back_after_a_crash(cluster, tmp_path):
    said = cluster.ask("srun", "--nodes=2", "--ntasks=2", "printenv", "SLURMD_NODENAME")
    assert sorted(said.split()) == list(NODES)
    script = tmp_path / "a job.sh"
    script.write_text(f"#!/bin/bash\necho start $SLURM_RESTART_COUNT >>'{tmp_path}/starts'\nsleep 1000\n")
    job = cluster.ask("sbatch", "--parsable", "--nodelist=n1", f"--output={tmp_path}/log", str(script))
    cluster.wait((tmp_path / "starts").exists, "the job runs")
    cluster.crash_node("n1")
    cluster.wait(lambda: cluster.state(job) in ("PENDING", "REQUEUED"), "the node is found to be down", 30)
    cluster.start_node("n1")
    cluster.wait(lambda: (tmp_path / "starts").read_text() == "start\nstart 1\n", "the job runs again", 30)
