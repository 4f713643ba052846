"""Toy recipes submitted to the test cluster, from the command to the result."""

import re

import pytest

pytestmark = pytest.mark.slow

SWEEP = """
name: "it's a sweep"
tracks:
  one: {value: 1, pause_seconds: 2}
  two: {value: 2, pause_seconds: 2}
  three: {value: 3, pause_seconds: 2}
  four: {value: 4, pause_seconds: 2}
"""


def test_a_sweep_of_four_is_an_array_with_a_limit_on_two_nodes(case):
    """Two tasks at a time, each of more than half a node."""
    sweep = case("it's four").write(SWEEP)
    sweep.describe(top={"max_array_tasks": 2}, kinds={"prepare": {"cpus_per_task": 6}}).submitted()
    numbers, total = sweep.last().jobs
    assert (numbers.name, len(numbers.tasks), numbers.after) == ("number", 4, [])
    assert (total.name, len(total.tasks), total.after) == ("sum", 1, ["number"])
    again = sweep.submit()
    assert again.returncode == 2
    assert (
        f"four/number: job {numbers.job_id} (number) of the submission {sweep.last().id} does that already; wait"
        in (again.stderr)
    )
    sweep.wait()
    events = [sweep.events("number", task) for task in range(4)]
    assert [[event.what for event in each] for each in events] == [["started", "finished"]] * 4, sweep.all_logs()
    assert {each[0].node for each in events} == {"n1", "n2"}
    starts, ends = ([each[index].at for each in events] for index in (0, 1))
    assert sorted(starts)[2] >= min(ends)
    assert "total 10.0" in next(sweep.store.root.glob("add/*/summary.md")).read_text()
    assert sweep.is_done()


def test_what_only_the_nodes_can_tell_is_a_line_of_status(case):
    lost = case("no python").write(SWEEP).describe(command=["/no/such python"]).submitted()
    module = case("no module").write(SWEEP).describe(setup=["module load nothing"]).submitted()
    told = {lost: "command: '/no/such python' does not start a Python", module: "setup: a line of it failed"}
    for each, text in told.items():
        status = each.wait().status()
        assert len(re.findall(rf"(?m)number +failed +job .*{text}", status)) == 4, status
        assert each.describe().submitted().wait().is_done()
