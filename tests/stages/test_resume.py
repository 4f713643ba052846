"""Training that is killed, stopped, cut off from memory or disk: what it says, and that it goes on bit for bit.

All runs pack samples and accumulate gradients. One uninterrupted run for each ZeRO stage is what the others must equal.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import StepFailed, Stopped
from pipeline.stage import Resources, Workspace
from stages import train
from stages._adaptation.probe import load_adapted
from stages._training.batches import TokenFile
from stages._weights.index import stored_tensors
from tests.stages.conftest import write_tiny_model
from tests.stages.test_train import ADAPTER, RESOURCES, folder, losses, start_adapter, weights

pytestmark = pytest.mark.slow

NUM_STEPS = 24
LOOPBACK = RESOURCES.model_copy(update={"num_processes": 1, "nodes": ["localhost", "localhost"]})


def config(**options) -> train.Config:
    sizes = {"global_batch_size": 4, "per_device_batch_size": 1, "packing": True, "num_epochs": 3}
    values = {"learning_rate": 2e-2, "checkpoint_every_steps": 5, "max_steps": NUM_STEPS, **sizes}
    return train.Config.model_validate({**values, **options})


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_model_dir, tiny_tokens_dir) -> train.Inputs:
    """The tiny model with a started NLoRA adapter."""
    return start_adapter(tmp_path_factory.mktemp("init"), tiny_model_dir, tiny_tokens_dir, ADAPTER)


def assert_equal_runs(first: Workspace, second: Workspace) -> None:
    """Bit for bit: every loss and every final weight."""
    assert losses(first) == losses(second)
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, given) -> Callable[[int], tuple[Workspace, dict]]:
    """(folder, metrics) of a run from start to end, made once for each ZeRO stage."""
    made: dict[int, tuple[Workspace, dict]] = {}

    def run(zero_stage: int) -> tuple[Workspace, dict]:
        if zero_stage not in made:
            out = Workspace(tmp_path_factory.mktemp(f"zero{zero_stage}"))
            made[zero_stage] = out, train.run(config(zero_stage=zero_stage), given, out, RESOURCES)
        return made[zero_stage]

    return run


# ---- whole runs


def test_training_learns_and_writes_what_it_should(uninterrupted, given):
    out, metrics = uninterrupted(2)
    assert metrics["num_steps"] == NUM_STEPS == len(losses(out))
    assert metrics["validation_loss_end"] < metrics["validation_loss_start"] - 0.5
    assert metrics["train_loss_first"] == losses(out)[0]
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first.keys() == {
        "step", "loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds", "peak_memory_bytes", "eta_seconds"
    }  # fmt: skip
    assert len(first["peak_memory_bytes"]) == 2 and min(first["peak_memory_bytes"]) > 2**27
    assert (out / "template.json").read_bytes() == (given.tokens / "template.json").read_bytes()
    tokens = TokenFile(given.tokens / "validation.safetensors")
    adapted = load_adapted(given.model.path, out.path, start_dir=given.adapter.path)
    assert plain_loss(adapted, tokens) == pytest.approx(metrics["validation_loss_end"], abs=1e-4)
    untrained = load_adapted(given.model.path, given.adapter.path, start_dir=given.adapter.path)
    assert plain_loss(untrained, tokens) == pytest.approx(metrics["validation_loss_start"], abs=1e-4)


@torch.no_grad()
def plain_loss(model, tokens: TokenFile) -> float:
    """The loss as anyone would compute it: one sample at a time, all logits."""
    total = 0.0
    for row in range(len(tokens)):
        batch = tokens.batch(np.array([row]))
        labels = batch.input_ids.masked_fill(~batch.is_target, -100)
        total += float(model(input_ids=batch.input_ids, labels=labels).loss) * int(batch.is_target.sum())
    return total / tokens.num_targets(np.arange(len(tokens)))


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_zero_stages_agree(zero_stage, uninterrupted, given, tmp_path):
    expected, _ = uninterrupted(2)
    out, _ = uninterrupted(zero_stage)
    assert losses(out) == pytest.approx(losses(expected), rel=1e-4)


# ---- killed, stopped, resumed


def random_moments() -> random.Random:
    """Different ones in each run of the tests; those of a failure can be had again."""
    seed = random.randrange(2**32)
    print(f"moments of seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_killed_at_a_random_moment_and_resumed_is_bit_for_bit_the_same(zero_stage, uninterrupted, given, tmp_path):
    moment = random_moments()
    expected, _ = uninterrupted(zero_stage)
    out = folder(tmp_path, "killed")
    process = in_another_process(config(zero_stage=zero_stage), given, out, RESOURCES)
    wait_for_steps(out, moment.randint(2, NUM_STEPS - 6), process)
    time.sleep(moment.uniform(0.0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(losses(out)) < NUM_STEPS
    train.run(config(zero_stage=zero_stage), given, out, RESOURCES)
    assert_equal_runs(expected, out)


def test_two_agents_equal_one_and_die_together(uninterrupted, given, tmp_path):
    """ZeRO 2: a worker of the first run is killed, an agent of the second, at random moments; the third finishes."""
    moment = random_moments()
    expected, _ = uninterrupted(2)
    out = folder(tmp_path, "agents")
    for num_steps, victim, message in (
        (moment.randint(2, 9), lambda worker: worker.pid, r"train: rank \d on .* was killed by SIGKILL"),
        (
            moment.randint(10, NUM_STEPS - 6),
            lambda worker: worker.ppid(),
            r"the launch agent on localhost \(node \d\) ended with code 137",
        ),
    ):
        ended: list[float] = []
        killer = threading.Thread(target=kill_after_steps, args=(out, num_steps, victim, ended), daemon=True)
        killer.start()
        with pytest.raises(StepFailed, match=message):
            train.run(config(), given, out, LOOPBACK)
        assert time.monotonic() - ended[0] < 10.0
        assert not workers_of(out)
        assert num_steps <= len(losses(out)) < NUM_STEPS
    metrics = train.run(config(), given, out, LOOPBACK)
    assert metrics["num_processes"] == 2
    assert_equal_runs(expected, out)


def test_stopped_and_resumed_past_a_broken_checkpoint(uninterrupted, given, tmp_path, capfd):
    expected, metrics = uninterrupted(2)
    out = folder(tmp_path, "stopped")
    previous = signal.signal(signal.SIGALRM, raise_stopped)
    threading.Thread(target=alarm_after_steps, args=(out, 8), daemon=True).start()
    try:
        with pytest.raises(Stopped):
            train.run(config(), given, out, RESOURCES)
    finally:
        signal.signal(signal.SIGALRM, previous)
    newest = newest_checkpoint(out)
    assert int(newest.name.removeprefix("step-")) == len(losses(out))  # saved where it stopped
    holds = torch.load(next(newest.rglob("*model_states.pt")), weights_only=False)["module"]
    assert sum(tensor.numel() for tensor in holds.values()) == metrics["trainable_parameters"]  # nothing of the base
    assert len(list((out / ".checkpoints").glob("step-*"))) <= RESOURCES.keep_last
    broken = next(file for file in newest.rglob("*optim_states.pt"))
    broken.write_bytes(broken.read_bytes()[:-10] + b"0123456789")
    leftover = newest.with_name("step-00000099.partial")
    leftover.mkdir()
    train.run(config(), given, out, RESOURCES)
    assert newest.name in capfd.readouterr().out  # the warning names it
    assert not leftover.exists()
    assert_equal_runs(expected, out)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_another_number_of_processes_goes_on(zero_stage, uninterrupted, given, tmp_path):
    """Order and optimizer states are those of the run that made the checkpoint; sums are rounded in another order."""
    expected, _ = uninterrupted(zero_stage)
    assert go_on_with(1, config(zero_stage=zero_stage), given, expected, 15, folder(tmp_path, "one")) == 2
    if zero_stage == 2:
        assert go_on_with(2, config(), given, Workspace(tmp_path / "one"), 20, folder(tmp_path, "two")) == 1


def go_on_with(
    num_processes: int, chosen: train.Config, given: train.Inputs, made: Workspace, step: int, out: Workspace
) -> int:
    """Finish `made` from one of its checkpoints and compare the losses; the number of processes that had made it."""
    checkpoint = made / ".checkpoints" / f"step-{step:08d}"
    shutil.copytree(checkpoint, out / ".checkpoints" / checkpoint.name)
    shutil.copyfile(made / "metrics.jsonl", out / "metrics.jsonl")
    metrics = train.run(chosen, given, out, RESOURCES.model_copy(update={"num_processes": num_processes}))
    assert metrics["num_processes"] == num_processes
    assert losses(out)[step:] == pytest.approx(losses(made)[step:], rel=1e-4)
    assert losses(out)[step:] != losses(made)[step:]  # they were computed anew
    assert not list((out / ".checkpoints").glob("*.partial"))
    return int(json.loads((checkpoint / "sealed.json").read_text())["num_processes"])


# ---- trouble


def test_a_full_disk_stops_all_and_keeps_what_is_sealed(uninterrupted, given, tmp_path):
    """On a file system of its own with room for two checkpoints and a half, which grows after the failure."""
    expected, _ = uninterrupted(2)
    out = folder(tmp_path, "disk")
    script = (
        "import shutil, subprocess, sys; from pathlib import Path; from pipeline.errors import StepFailed;"
        "from pipeline.stage import Resources, Workspace; from stages import train\n"
        "config, inputs, out, resources = sys.argv[1:]; out = Path(out); disk = out / 'disk'; disk.mkdir()\n"
        "mount = lambda options: subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'none', disk], check=True)\n"
        "run = lambda: train.run(train.Config.model_validate_json(config), train.Inputs.model_validate_json(inputs),"
        "Workspace(disk), Resources.model_validate_json(resources))\n"
        "mount('size=1000k')\n"
        "try: run()\n"
        "except StepFailed as error: (out / 'message').write_text(str(error))\n"
        "left = sorted(file.name for file in (disk / '.checkpoints').iterdir())\n"
        "(out / 'left').write_text(' '.join(left))\n"
        "mount('remount,size=9m'); run()\n"
        "[shutil.copy(disk / name, out) for name in ('metrics.jsonl', 'adapter_model.safetensors')]"
    )
    chosen = config(checkpoint_every_steps=4)
    arguments = [chosen.model_dump_json(), given.model_dump_json(), str(out.path), RESOURCES.model_dump_json()]
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    subprocess.run([*namespace, sys.executable, "-c", script, *arguments], env=environment(), check=True, timeout=300)
    message = (out / "message").read_text()
    disk = out / "disk"
    assert f"train: cannot write to {disk}: no space is left" in message or f"{disk}: a write failed" in message
    assert "bytes were free; an unfinished checkpoint of" in message
    assert f"{disk}/.checkpoints/step-00000008, is kept and a rerun resumes from it" in message
    assert (out / "left").read_text() == "step-00000004 step-00000008"
    assert_equal_runs(expected, out)


def test_memory_that_runs_out_is_told_with_sizes_and_what_to_change(tmp_path, tiny_tokens_dir):
    """Under a real limit of 3 GiB of address space, with logits that do not fit."""
    for name in ("init", "out"):
        (tmp_path / name).mkdir()
    write_tiny_model(tmp_path / "model", vocab_size=400_000)
    inputs = start_adapter(tmp_path / "init", tmp_path / "model", tiny_tokens_dir, ADAPTER)
    chosen = train.Config(global_batch_size=32, per_device_batch_size=32)
    alone = RESOURCES.model_copy(update={"num_processes": 1})
    process = in_another_process(chosen, inputs, Workspace(tmp_path / "out"), alone, ["prlimit", f"--as={3 * 2**30}"])
    _, error = process.communicate(timeout=120)
    assert "StepFailed: train: out of memory: " in error
    assert "bytes were asked for at once; its peak before was" in error
    assert "Each of 1 processes takes 32 rows of at most 30 tokens at once, of a vocabulary of 400000" in error
    assert "Use per_device_batch_size: 16 (now 32; the global batch stays the same), gradient_checkpointing: t" in error


def test_a_loss_that_is_not_finite_stops_with_the_samples_to_blame(tmp_path, tiny_tokens_dir):
    """The embedding of one token is broken: only the samples that have it are to blame."""
    for name in ("init", "out"):
        (tmp_path / name).mkdir()
    write_tiny_model(tmp_path / "model", tie_word_embeddings=False)
    inputs = start_adapter(tmp_path / "init", tmp_path / "model", tiny_tokens_dir, ADAPTER)
    shard = stored_tensors(tmp_path / "model")["model.embed_tokens.weight"].file
    tensors = load_file(shard)
    tensors["model.embed_tokens.weight"][50] = torch.nan
    save_file(tensors, shard, {"format": "pt"})
    tokens = TokenFile(tiny_tokens_dir / "train.safetensors")
    bad = [row for row in range(40) if 50 in tokens.input_ids[tokens.offsets[row] : tokens.offsets[row + 1]]]
    assert 0 < len(bad) < 20
    with pytest.raises(StepFailed, match=r"the loss of step 1 is nan on samples .* there is no checkpoint yet") as told:
        train.run(config(global_batch_size=40), inputs, Workspace(tmp_path / "out"), RESOURCES)
    named = str(told.value).partition("own loss is not finite: ")[2].partition(")")[0]
    assert sorted(json.loads(named)) == bad


def raise_stopped(_number: int, _frame: object) -> None:
    raise Stopped("stopped by the test")


def alarm_after_steps(out: Workspace, num_steps: int) -> None:
    wait_for_steps(out, num_steps, None)
    os.kill(os.getpid(), signal.SIGALRM)


def wait_for_steps(out: Workspace, num_steps: int, process: subprocess.Popen | None) -> None:
    file = out / "metrics.jsonl"
    while not file.exists() or len(file.read_text().splitlines()) < num_steps:
        assert process is None or process.poll() is None, "ended too early"
        time.sleep(0.005)


def kill_after_steps(
    out: Workspace, num_steps: int, victim: Callable[[psutil.Process], int], ended: list[float]
) -> None:
    """SIGKILL for one of the processes, noting the time."""
    wait_for_steps(out, num_steps, None)
    os.kill(victim(workers_of(out)[-1]), signal.SIGKILL)
    ended.append(time.monotonic())


def workers_of(out: Workspace) -> list[psutil.Process]:
    """Living training processes of a run."""
    running = [each for each in psutil.process_iter(["cmdline", "status"]) if each.info["status"] != "zombie"]
    words = ["-m", "stages._training.worker", str(out / ".spec.json")]
    return [each for each in running if (each.info["cmdline"] or [])[1:] == words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def in_another_process(
    chosen: train.Config, given: train.Inputs, out: Workspace, resources: Resources, below: list[str] | None = None
) -> subprocess.Popen[str]:
    """Run the stage as the engine does; killing it kills the workers, which have guards. `below` starts the command."""
    code = (
        "import sys; from pathlib import Path; from pipeline.stage import Resources, Workspace;"
        "from stages import train; config, inputs, out, resources = sys.argv[1:];"
        "train.run(train.Config.model_validate_json(config), train.Inputs.model_validate_json(inputs),"
        "Workspace(Path(out)), Resources.model_validate_json(resources))"
    )
    arguments = [chosen.model_dump_json(), given.model_dump_json(), str(out.path), resources.model_dump_json()]
    command = [*(below or []), sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)


def newest_checkpoint(out: Workspace) -> Path:
    return max(file.parent for file in (out / ".checkpoints").glob("step-*/sealed.json"))
