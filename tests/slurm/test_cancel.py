"""`cancel` and `logs` on the test cluster."""

import pytest

pytestmark = pytest.mark.slow

SAVING = """
name: saving
tracks:
  one: {value: 1, pause_seconds: 60, save_seconds: 7}
"""
"""To save takes longer than the cluster's KillWait of 5 s."""


def test_cancelled_work_has_the_time_it_needs_to_save_itself(cluster, case):
    saving = case("saving").write(SAVING).submitted()
    cluster.wait(lambda: list(saving.store.root.glob("number/*.partial/.progress.json")), "its step runs")
    job, total = saving.job("one-number"), saving.job("sum")
    cancelled = saving.pipeline("cancel", "one/number")
    assert cancelled.returncode == 0, cancelled.stderr
    assert f"job {total} (sum): cancelled" in cancelled.stdout
    assert f"job {job} (one/number): asked to save and stop" in cancelled.stdout
    status = saving.wait().status()
    assert f"cancelled job {job} on n" in status and "what it saved is kept" in status, saving.all_logs()
    assert f"cancelled job {total}: was cancelled" in status or "dropped" in status
    assert next(saving.store.root.glob("number/*.partial/.saved")).read_text()
    logs = saving.pipeline("logs", "one/number").stdout
    assert "stopped  one/number" in logs and "stopped by SIGTERM; a rerun resumes" in logs
    assert "nothing to cancel" in saving.pipeline("cancel").stdout
