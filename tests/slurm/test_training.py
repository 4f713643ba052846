"""Training on two nodes of a Slurm allocation: agents started by srun, real training, toy ranks."""

import json
from pathlib import Path

import psutil
import pytest

from pipeline.stage import Resources, Workspace
from stages import train
from tests.slurm.case import Case
from tests.slurm.tiny import start as tiny_start
from tests.slurm.tiny.train import SETTINGS
from tests.slurm.toy_training import processes, ranks, submit
from tests.stages.test_train import assert_equal_runs, losses

pytestmark = pytest.mark.slow


def test_two_nodes_train_to_the_loss_of_one_process_however_often_they_are_stopped(cluster, case, tmp_path):
    """Two trainings as an array; one gets USR2, later it is requeued by hand, and both end with the same bits."""
    recipe = "name: tiny\nresources: {device: cpu}\ntracks: {whole: {}, disturbed: {}}\n"
    tiny = case("tiny", stages="tests.slurm.tiny").write(recipe)
    tiny.describe(kinds={"train": {"nodes": 2, "signal_seconds": 100}}).submitted()
    fingerprints = [piece.fingerprint for (piece,) in tiny.last().find("train").tasks]
    partial = Workspace(tiny.store.partial("train", fingerprints[1]))
    cluster.wait(lambda: num_lines(partial / "metrics.jsonl") >= 7, "seven steps", 240)
    cluster.ask("scancel", "--batch", "--signal=USR2", tiny.job("train", 1))
    cluster.wait(lambda: tiny.whats("train", 1) == ["started", "requeued"], "it is saved", 120)
    saved = num_lines(partial / "metrics.jsonl")
    assert (partial / ".checkpoints" / f"step-{saved:08d}" / "sealed.json").exists()
    one_process(tiny, tmp_path)
    cluster.wait(lambda: num_lines(partial / "metrics.jsonl") >= saved + 3, "three more", 240)
    cluster.ask("scontrol", "requeue", tiny.job("train", 1))
    tiny.wait(240)
    whole, disturbed = (Workspace(tiny.store.directory("train", each)) for each in fingerprints)
    assert_equal_runs(whole, disturbed)
    assert losses(whole) == pytest.approx(losses(Workspace(tmp_path / "one")), rel=1e-4)
    assert losses(whole)[-1] < losses(whole)[0] - 0.5
    assert tiny.whats("train", 0) == ["started", "finished"], tiny.all_logs()
    starts = [event.restart for event in tiny.events("train", 1) if event.what == "started"]
    assert starts == [0, 1, 2], tiny.all_logs()
    # a process for each core of the allocation, not of the machine
    assert json.loads((whole / "manifest.json").read_text())["metrics"]["num_processes"] == 2


def one_process(tiny: Case, folder: Path) -> None:
    """Train here from the same start."""
    (start,) = tiny.store.root.glob("start/*")
    parts = {part: tiny_start.folder(start, part) for part in ("model", "tokens", "adapter")}
    config, inputs = train.Config.model_validate(SETTINGS), train.Inputs.model_validate(parts)
    (folder / "one").mkdir()
    train.run(config, inputs, Workspace(folder / "one"), Resources(device="cpu", num_processes=1, num_threads=1))


def num_lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


# ---- toy ranks

SLEEP = "import time; time.sleep(100)"


def test_ranks_of_two_nodes_know_their_places_and_how_one_of_them_died_is_told(cluster, tmp_path):
    long_lines = "[print(str(number) * 1500) for number in range(9)]"
    result = "(folder / '.result.json').write_text('{}')"
    good, bad, both = (tmp_path / name for name in ("all is well", "one fails", "two fail"))
    jobs = [
        submit(cluster, good, [f"{long_lines}; {result}", *[long_lines] * 3], "--export=NONE"),
        submit(cluster, bad, [SLEEP, SLEEP, SLEEP, f"{long_lines}; print('so it was'); 1 / 0"]),
        submit(cluster, both, [f"{long_lines}; sys.exit(3)", SLEEP, f"{long_lines}; sys.exit(4)", SLEEP]),
    ]
    cluster.wait_for(*jobs)
    assert [cluster.exit_code(job) for job in jobs] == [0, 1, 1], cluster.log(good / "log")
    ready = [json.loads((good / f"ready-{rank}.json").read_text()) for rank in range(4)]
    assert [(rank["RANK"], rank["LOCAL_RANK"], rank["WORLD_SIZE"]) for rank in ready] == [
        ("0", "0", "4"), ("1", "1", "4"), ("2", "0", "4"), ("3", "1", "4")
    ]  # fmt: skip
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in ready}) == 1
    log = cluster.log(bad / "log")
    assert "train: rank 3 on n2 ended with code 1, and all others were ended" in log
    assert "so it was\n" in log and "ZeroDivisionError" in log
    assert any(f"train: rank {rank} on n{node}" in cluster.log(both / "log") for rank, node in ((0, 1), (2, 2)))
    assert not ranks(good) + ranks(bad) + ranks(both)


def test_a_rank_the_launcher_or_srun_takes_all_with_it(cluster, tmp_path):
    names = ("a rank", "the launcher", "srun")
    jobs = {name: submit(cluster, tmp_path / name, [SLEEP] * 4) for name in names}
    cluster.wait(lambda: len(list(tmp_path.glob("*/ready-*.json"))) == 12, "all ranks run")
    pid = json.loads((tmp_path / "a rank" / "ready-3.json").read_text())["pid"]
    psutil.Process(int(pid)).kill()
    process_of(tmp_path / "the launcher", "tests.slurm.toy_training").kill()
    process_of(tmp_path / "srun", "--kill-on-bad-exit=1").kill()
    cluster.wait(lambda: not any(cluster.state(job) == "RUNNING" for job in jobs.values()), "they end", 15)
    assert not [name for name in names if ranks(tmp_path / name)]
    assert "rank 3 on n2 was killed by SIGKILL" in cluster.log(tmp_path / "a rank" / "log")
    assert "srun on 2 nodes ended with code 137" in cluster.log(tmp_path / "srun" / "log")


def process_of(folder: Path, word: str) -> psutil.Process:
    """The one of a launch that has this word in its command, but not the guard of it."""
    return next(each for each in processes(folder) if word in each.info["cmdline"] and "--" not in each.info["cmdline"])
