"""Training on two nodes of a Slurm allocation: agents started by srun, real training, toy ranks."""

import json
from pathlib import Path

import psutil
import pytest

from pipeline.artifact import Artifact
from pipeline.child import Order
from pipeline.stage import Resources, Workspace
from pipeline.store import Store, seal
from stages import train
from stages._data.prompts import Chat
from stages._training.spec import TrainSpec
from tests.slurm.cluster import Cluster
from tests.stages.conftest import write_tiny_model, write_tokens
from tests.stages.templates import write_template
from tests.stages.test_train import ADAPTER, assert_equal_runs, losses, start_adapter

pytestmark = pytest.mark.slow

NUM_STEPS = 24
CONFIG = train.Config.model_validate(
    {
        "zero_stage": 3,
        "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},  # else all of it stays whole
        "learning_rate": 2e-2,
        "global_batch_size": 4,
        "num_epochs": 3,
        "max_steps": NUM_STEPS,
        "checkpoint_every_steps": 1000,
    }
)
RESOURCES = Resources(device="cpu")
TWO_NODES = ("--nodes=2", "--cpus-per-task=1", "--no-requeue")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Artifact]:
    """The tiny model, tokens and a started adapter, as sealed artifacts."""
    folder = tmp_path_factory.mktemp("given artifacts")
    parts = {name: folder / f"{name}.partial" for name in train.Inputs.model_fields}
    for part in parts.values():
        part.mkdir()
    write_tiny_model(parts["model"])
    write_tokens(parts["tokens"] / "train.safetensors", num_samples=40, seed=0)
    write_tokens(parts["tokens"] / "validation.safetensors", num_samples=10, seed=1)
    write_template(Chat(kind="chat"), parts["model"], parts["tokens"])
    start_adapter(parts["adapter"], parts["model"], parts["tokens"], ADAPTER)
    for part in parts.values():
        seal(part, part.with_suffix(""), {"fingerprint": "0" * 64, "metrics": {}})
    return {name: Artifact(path=folder / name, stage=name, fingerprint="0" * 64) for name in parts}


def child_job(cluster: Cluster, store: Store, fingerprint: str, given: dict[str, Artifact], *options: str) -> str:
    """Train as the engine's child process, in a job; its id."""
    order = Order(
        stage="train",
        fingerprint=fingerprint,
        config=CONFIG.model_dump(mode="json"),
        inputs={role: artifact.model_dump(mode="json") for role, artifact in given.items()},
        store=store.root,
        resources=RESOURCES,
        provenance={},
    )
    file = store.root / f"{fingerprint[:4]}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(order.model_dump_json())
    return cluster.python_job(f"-m pipeline.child <'{file}'", file.with_suffix(".log"), *options)


def test_two_nodes_train_to_the_loss_of_one_process_and_a_stop_saves_on_both(cluster, given, tmp_path):
    store = Store(tmp_path / "the store")
    whole, stopped, alone = (digit * 64 for digit in "abc")
    jobs = [child_job(cluster, store, fingerprint, given, *TWO_NODES) for fingerprint in (whole, stopped)]
    jobs.append(child_job(cluster, store, alone, given, "--nodes=1", "--cpus-per-task=1"))
    partial = Workspace(store.partial("train", stopped))
    cluster.wait(lambda: has_lines(partial / "metrics.jsonl", 5), "five steps", 120)
    cluster.ask("scancel", "--batch", "--signal=USR2", jobs[1])
    cluster.wait_for_jobs(120)
    assert [cluster.exit_code(job) for job in jobs] == [0, 75, 0], cluster.log(store.root / "bbbb.log")
    saved = [int(file.parent.name.removeprefix("step-")) for file in (partial / ".checkpoints").glob("*/sealed.json")]
    assert saved == [len(losses(partial))]
    assert 5 <= saved[0] < NUM_STEPS
    again = child_job(cluster, store, stopped, given, *TWO_NODES)
    cluster.wait_for_jobs(120)
    assert cluster.exit_code(again) == 0, cluster.log(store.root / "bbbb.log")
    runs = {each: Workspace(store.directory("train", each)) for each in (whole, stopped, alone)}
    assert_equal_runs(runs[whole], runs[stopped])
    assert losses(runs[whole]) == pytest.approx(losses(runs[alone]), rel=1e-4)
    assert losses(runs[whole])[-1] < losses(runs[whole])[0] - 0.5
    counts = {each: store.artifact("train", each).metrics()["num_processes"] for each in runs}
    assert counts == {whole: 2, stopped: 2, alone: 1}  # a process for each core of the allocation, not of the machine


def has_lines(file: Path, count: int) -> bool:
    return file.exists() and len(file.read_text().splitlines()) >= count


# ---- toy ranks

SLEEP = "import time; time.sleep(100)"


@pytest.fixture
def toy(cluster, tmp_path, given):
    """Submit a launch of toy ranks with these roles, two a node; (folder, job id)."""

    def submit(name: str, roles: list[str], *options: str) -> tuple[Path, str]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "roles.json").write_text(json.dumps(dict(enumerate(roles))))
        spec = TrainSpec(
            config=train.Config(per_device_batch_size=1),
            model_dir=given["model"].path,
            tokens_dir=given["tokens"].path,
            adapter_dir=given["adapter"].path,
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
    cluster.wait_for_jobs()
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
    cluster.wait_for_jobs()
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
