"""Every method trains under ZeRO-2 and ZeRO-3, goes on bit for bit where it was stopped, and merges."""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.stage import Resources, Workspace
from stages import init_adapter, merge, train
from stages._training import launch, nodes
from stages._training.spec import CHECKPOINTS_DIR, TrainSpec
from stages.adapters import methods
from tests.stages.conftest import artifact

pytestmark = pytest.mark.slow

RESOURCES = Resources(device="cpu", num_processes=2, num_threads=1)
NUM_STEPS, RESUMED_AT = 7, 3

BUDGET = {"target_rank": 2, "allocate_every": 1}
OPTIONS: dict[str, dict[str, Any]] = {"adalora": BUDGET, "relora": {"restart_every": 2, "restart_warmup_steps": 1}}
"""What a method must be told beyond its rank."""
VARIANTS: dict[str, dict[str, Any]] = {
    "relora reset": {"method": "relora", "restart_every": 3, "restart_warmup_steps": 0, "keep_optimizer": 0.0},
    "nlora subtract": {"method": "nlora", "residual": "subtract"},
    "nlora dora": {"method": "nlora", "dora": True},
    "nlora budget": {"method": "nlora", "budget": BUDGET},
    "nlora BAN": {"method": "nlora", "order": "BAN"},
    "slora dora dropout": {"method": "slora", "dora": True, "dropout": 0.2},
    "dora dropout": {"method": "dora", "dropout": 0.2},
}
"""Options that change what happens in training."""


def adapters() -> dict[str, dict[str, Any]]:
    """The `adapter:` section of every case; a new method is one without being named here."""
    chosen = {name: {"method": name, **OPTIONS.get(name, {})} for name in methods()} | VARIANTS
    ranked = {name for name, module in methods().items() if "rank" in module.Config.model_fields}
    return {name: {"rank": 4, **each} if each["method"] in ranked else each for name, each in chosen.items()}


ZERO_STAGES = dict.fromkeys(("adalora", "loraplus", "nlora budget", "relora", "relora reset"), (0, 1, 2, 3))
"""Where not only 2 and 3: what reads or writes DeepSpeed's own tensors must do so at every stage."""
CASES = [(name, stage) for name in adapters() for stage in ZERO_STAGES.get(name, (2, 3))]


class Runs(NamedTuple):
    """One case's folders: an uninterrupted run, and one that went on from its checkpoint."""

    inputs: train.Inputs
    whole: Path
    resumed: Path


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory, tiny_model_dir, tiny_tokens_dir) -> dict[tuple[str, int], Runs]:
    """(case, ZeRO stage) -> what came of it, for all cases that are asked for, from one launch of two processes."""
    root = tmp_path_factory.mktemp("runs")
    asked = {item.callspec.params["name"] for item in request.session.items if item.fspath == request.fspath}
    inputs = {
        name: start(root / name / "init", adapter, tiny_model_dir, tiny_tokens_dir)
        for name, adapter in adapters().items()
        if name in asked
    }
    runs, todo = {}, []
    for name, stage in CASES:
        if name in asked:
            folders = [root / name / f"zero{stage}" / kind for kind in ("whole", "resumed")]
            specs = [make_spec(stage, inputs[name], folder) for folder in folders]
            checkpoint = folders[0] / CHECKPOINTS_DIR / f"step-{RESUMED_AT:08d}"
            todo += [(specs[0], None), (specs[1], checkpoint)]
            runs[name, stage] = Runs(inputs[name], *folders)
    run_all(root / "runs.json", todo)
    return runs


def start(folder: Path, adapter: dict[str, Any], model_dir: Path, tokens_dir: Path) -> train.Inputs:
    """What the train stage reads, the adapter started in `folder`."""
    folder.mkdir(parents=True)
    given = {"model": artifact(model_dir, "prepare_model"), "tokens": artifact(tokens_dir, "tokenize")}
    init_adapter.run(
        init_adapter.Config.model_validate({"adapter": adapter, "probe": False}),
        init_adapter.Inputs(**{role: given[role] for role in init_adapter.Inputs.model_fields}),
        Workspace(folder),
        RESOURCES,
    )
    return train.Inputs(**given, adapter=artifact(folder, "init_adapter"))


def make_spec(zero_stage: int, inputs: train.Inputs, out: Path) -> TrainSpec:
    out.mkdir(parents=True)
    sizes = {"global_batch_size": 4, "per_device_batch_size": 1, "max_steps": NUM_STEPS}
    options = {"learning_rate": 1e-2, "zero_stage": zero_stage, "checkpoint_every_steps": RESUMED_AT, **sizes}
    return launch.make_spec(train.Config.model_validate(options), inputs, Workspace(out), RESOURCES)


def run_all(file: Path, todo: list[tuple[TrainSpec, Path | None]]) -> None:
    """Run them one after the other in the same two processes, from the start or from a checkpoint of another run."""
    runs = [{"spec": spec.model_dump_json(), "checkpoint": path and str(path)} for spec, path in todo]
    file.write_text(json.dumps(runs))
    command = [*nodes.command(file, 2)[:-2], "tests.stages.training_runs", str(file)]
    subprocess.run(command, env=launch.environment(todo[0][0]), check=True, timeout=900)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("name", "zero_stage"), CASES)
def test_it_learns_resumes_and_merges(name, zero_stage, trained, tmp_path):
    inputs, whole, resumed = trained[name, zero_stage]
    assert len(losses(whole)) == NUM_STEPS
    assert min(losses(whole)[4:]) < losses(whole)[0]
    assert losses(resumed) == losses(whole)
    assert written(resumed) == written(whole)
    metrics = merge.run(
        merge.Config(),
        merge.Inputs(model=inputs.model, init=inputs.adapter, trained=artifact(whole, "train")),
        Workspace(tmp_path),
        RESOURCES,
    )
    assert metrics["max_relative_error"] < 1e-5


@pytest.mark.parametrize("name", adapters())
def test_zero_stages_agree(name, trained):
    expected = losses(trained[name, 2].whole)
    for case, runs in trained.items():
        assert case[0] != name or losses(runs.whole) == pytest.approx(expected, rel=1e-4), case


def written(out: Path) -> dict[str, bytes]:
    """What a run is for: its weights and their description."""
    files = {file.name: file.read_bytes() for file in out.iterdir() if file.suffix in (".safetensors", ".json")}
    assert any(name.endswith(".safetensors") for name in files)
    return {name: content for name, content in files.items() if not name.startswith(".")}
