"""Parts of a described machine: nothing is dealt out twice, and nothing beyond what there is."""

import os
import random
import subprocess
import sys

import pytest

from pipeline import machine
from pipeline.share import Share, pinned
from pipeline.stage import Needs

NODE = Share(tuple(range(8)), 100, ("GPU-a", "GPU-b"))


def test_a_step_gets_what_it_needs_or_an_equal_part_of_the_cores():
    assert NODE.deal(Needs(num_cores=1, memory_bytes=30), [], 4) == Share((0, 1), 30)
    assert NODE.deal(Needs(num_cores=5, num_gpus=1), [], 4) == Share((0, 1, 2, 3, 4), 0, ("GPU-a",))


def test_what_others_hold_is_not_dealt_out_again():
    held = [Share((0, 1), 60, ("GPU-a",)), Share((4,), 20)]
    assert NODE.deal(Needs(num_cores=2, memory_bytes=20, num_gpus=1), held, 2) == Share((2, 3, 5, 6), 20, ("GPU-b",))
    assert NODE.deal(Needs(num_cores=6), held, 2) is None
    assert NODE.deal(Needs(memory_bytes=21), held, 2) is None
    assert NODE.deal(Needs(num_gpus=2), held, 2) is None


@pytest.mark.parametrize("needs", [None, Needs(num_cores=9), Needs(memory_bytes=101), Needs(num_gpus=3)])
def test_who_says_nothing_or_needs_too_much_gets_everything_once_it_is_free(needs):
    assert NODE.deal(needs, [], 4) == NODE
    assert NODE.deal(needs, [Share((0,), 1)], 4) is None
    assert NODE.deal(Needs(), [NODE], 4) is None


def test_shares_never_overlap_and_never_exceed_the_machine():
    rng = random.Random(0)
    num_beside = 0
    for _ in range(300):
        held: list[Share] = []
        for _ in range(12):
            needs = Needs(num_cores=rng.randint(1, 5), memory_bytes=rng.randint(0, 60), num_gpus=rng.randint(0, 2))
            if share := NODE.deal(needs, held, rng.randint(1, 4)):
                assert len(share.cores) >= needs.num_cores and len(share.gpus) == needs.num_gpus
                held.append(share)
            elif held:
                held.pop(rng.randrange(len(held)))
            cores, gpus = ([thing for share in held for thing in getattr(share, kind)] for kind in ("cores", "gpus"))
            assert len(cores) == len(set(cores)) <= 8 and len(gpus) == len(set(gpus)) <= 2
            assert sum(share.memory_bytes for share in held) <= 100
            num_beside += len(held) > 1
    assert num_beside > 100


def test_a_process_is_told_of_its_part_and_not_of_the_whole():
    part = NODE.deal(Needs(num_gpus=1), [Share((), 0, ("GPU-a",))], 4)
    assert part is not None
    assert part.environment(NODE) == {"PIPELINE_CPU_COUNT": "2", "CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert Share((0,), 0).environment(NODE)["CUDA_VISIBLE_DEVICES"] == ""
    assert Share((0,), 0).environment(Share((0, 1), 9)) == {"PIPELINE_CPU_COUNT": "1"}
    assert NODE.environment(NODE) == {}


def test_processes_stay_on_their_cores_where_these_are_ours():
    reachable = os.sched_getaffinity(0)
    one = min(reachable)
    ask = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
    with pinned(Share((one,), 0)):
        found = {int(core) for core in subprocess.check_output(ask, text=True).split()}
    assert found == ({one} if machine.cpu_count() == len(reachable) else reachable)
    assert os.sched_getaffinity(0) == reachable


def test_the_count_of_cores_is_that_of_the_share(monkeypatch):
    monkeypatch.setenv("PIPELINE_CPU_COUNT", "1")
    assert machine.cpu_count() == 1
