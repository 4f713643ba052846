"""Training on two nodes of a Slurm allocation: agents started by srun, real training, toy ranks."""

import json
from pathlib import Path

import psutil
import pytest

from pipeline.stage import Resources, Workspace
from stages import train
from stages._training.spec import TrainSpec
from tests.slurm.case import Case
from tests.slurm.tiny import start as tiny_start
from tests.slurm.tiny.train import SETTINGS
from tests.stages.test_train import assert_equal_runs, losses

pytestmark = pytest.mark.slow

TWO_NODES = ("--nodes=2", "--cpus-per-task=1", "--no-requeue")


def test_two_nodes_train_to_the_loss_of_one_process_however_often_they_are_stopped(cluster, case, tmp_path):
    """Two trainings as an array; one gets USR2, later it is requeued by hand, and both end with the same bits."""
    recipe = "name: tiny\nresources: {device: cpu}\ntracks: {whole: {}, disturbed: {}}\n"
    tiny = case("tiny", stages="tests.slurm.tiny").write(recipe)
    tiny.describe(kinds={"train": {"nodes": 2, "signal_seconds": 100}}).submitted()
    fingerprints = [piece.fingerprint for (piece,) in tiny.last().find("train").tasks]
    partial = Workspace(tiny.store.partial("train", fingerprints[1]))
    cluster.wait(lambda: num_lines(partial / "metrics.jsonl") >= 7, "seven steps", 120)
    cluster.ask("scancel", "--batch", "--signal=USR2", tiny.job("train", 1))
    cluster.wait(lambda: tiny.whats("train", 1) == ["started", "requeued"], "it is saved")
    saved = num_lines(partial / "metrics.jsonl")
    assert (partial / ".checkpoints" / f"step-{saved:08d}" / "sealed.json").exists()
    one_process(tiny, tmp_path)
    cluster.wait(lambda: num_lines(partial / "metrics.jsonl") >= saved + 3, "three more", 120)
    cluster.ask("scontrol", "requeue", tiny.job("train", 1))
    tiny.wait(120)
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


@pytest.fixture
def toy(cluster, tmp_path):
    """Submit a launch of toy ranks with these roles, two a node; (folder, job id)."""

    def submit(name: str, roles: list[str], *options: str) -> tuple[Path, str]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "roles.json").write_text(json.dumps(dict(enumerate(roles))))
        spec = TrainSpec(
            config=train.Config(per_device_batch_size=1),
            model_dir=tmp_path,
            tokens_dir=tmp_path,
            adapter_dir=tmp_path,
            keep_last=2,
            keep_best=0,
            out_dir=folder,
            device="cpu",
            num_threads=1,
            accumulation=1,
            per_device_batch_size=1,
        )
        (folder / "spec.json").write_text(spec.model_dump_json())
        words = f"-m tests.slurm.toy_training '{folder}/spec.json' 2"
        return folder, cluster.python_job(words, folder / "log", *TWO_NODES, *options)

    return submit


def test_ranks_of_two_nodes_know_their_places_and_how_one_of_them_died_is_told(cluster, toy):
    long_lines = "[print(str(number) * 1500) for number in range(9)]"
    result = "(folder / '.result.json').write_text('{}')"
    good, good_job = toy("all is well", [f"{long_lines}; {result}", *[long_lines] * 3], "--export=NONE")
    bad, bad_job = toy("one fails", [SLEEP, SLEEP, SLEEP, f"{long_lines}; print('so it was'); 1 / 0"])
    both, both_job = toy("two fail", [f"{long_lines}; sys.exit(3)", SLEEP, f"{long_lines}; sys.exit(4)", SLEEP])
    cluster.wait_for(good_job, bad_job, both_job)
    assert cluster.exit_code(good_job) == 0, cluster.log(good / "log")
    ranks = [json.loads((good / f"ready-{rank}.json").read_text()) for rank in range(4)]
    assert [(rank["RANK"], rank["LOCAL_RANK"], rank["WORLD_SIZE"]) for rank in ranks] == [
        ("0", "0", "4"), ("1", "1", "4"), ("2", "0", "4"), ("3", "1", "4")
    ]  # fmt: skip
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in ranks}) == 1
    assert cluster.exit_code(bad_job) == 1
    log = cluster.log(bad / "log")
    assert "train: rank 3 on n2 ended with code 1, and all others were ended" in log
    assert "so it was\n" in log and "ZeroDivisionError" in log
    assert cluster.exit_code(both_job) == 1
    assert any(f"train: rank {rank} on n{node}" in cluster.log(both / "log") for rank, node in ((0, 1), (2, 2)))
    assert not ranks_of(good) + ranks_of(bad) + ranks_of(both)


def test_whatever_dies_everything_ends_on_both_nodes(cluster, toy):
    """A rank, the launcher, srun: within seconds. A node: as soon as Slurm takes it for down."""
    names = ("a rank dies", "the launcher dies", "srun dies", "a node dies")
    made = {name: toy(name, [SLEEP] * 4) for name in names}
    for folder, _ in made.values():
        cluster.wait(lambda folder=folder: len(list(folder.glob("ready-*.json"))) == 4, "all ranks run")
    pids = {name: json.loads((folder / "ready-3.json").read_text())["pid"] for name, (folder, _) in made.items()}
    psutil.Process(int(pids["a rank dies"])).kill()
    process_of(made["the launcher dies"][0], "tests.slurm.toy_training").kill()
    process_of(made["srun dies"][0], "--kill-on-bad-exit=1").kill()
    others = names[:3]
    cluster.wait(lambda: not any(cluster.state(made[name][1]) == "RUNNING" for name in others), "they end", 15)
    assert not [name for name in others if ranks_of(made[name][0])]
    assert "rank 3 on n2 was killed by SIGKILL" in cluster.log(made["a rank dies"][0] / "log")
    assert "srun on 2 nodes ended with code 137" in cluster.log(made["srun dies"][0] / "log")
    folder, job = made["a node dies"]
    cluster.crash_node("n2")
    try:
        cluster.wait(lambda: cluster.state(job) != "RUNNING", "it ends", 60)
    finally:
        cluster.start_node("n2")
    assert "srun: error: Node failure on n2" in cluster.log(folder / "log")
    cluster.wait_for(job)
    assert not ranks_of(folder)


def ranks_of(folder: Path) -> list[psutil.Process]:
    """Living toy ranks of a launch."""
    return [each for each in matching(folder) if "tests.stages.toy_rank" in each.info["cmdline"]]


def process_of(folder: Path, word: str) -> psutil.Process:
    """The one of a launch that has this word in its command, not below a guard's own."""
    found = [each for each in matching(folder) if word in each.info["cmdline"] and "--" not in each.info["cmdline"]]
    return next(
        each for each in found if "stages._training.agent" not in each.info["cmdline"] or word.startswith("--kill")
    )


def matching(folder: Path) -> list[psutil.Process]:
    """Living processes with the folder in their command."""
    running = [each for each in psutil.process_iter(["cmdline", "status"]) if each.info["status"] != "zombie"]
    return [each for each in running if any(str(folder) in word for word in each.info["cmdline"] or [])]
