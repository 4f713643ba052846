"""The recipes we ship, and the one the README shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import plan, recipe
from stages.adapters.base import AdapterConfig
from stages.workflow import Recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_plans_offline_and_its_name_is_its_files(path: Path):
    planned = plan.load(path, [])
    assert planned.name == path.stem
    assert planned.steps[-1].name == "report"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_can_be_kept_for_a_batch_job(path: Path, monkeypatch: pytest.MonkeyPatch):
    planned = plan.load(path, ["resources.num_threads=1"])
    kept = json.loads(json.dumps(plan.frozen(planned)))
    monkeypatch.chdir("/")
    again = plan.thaw(kept)
    assert [(step.name, step.fingerprint) for step in again.steps] == [(s.name, s.fingerprint) for s in planned.steps]
    for thawed, variant in zip(again.variants, planned.variants, strict=True):
        assert thawed == variant and thawed.recipe.model_fields_set == variant.recipe.model_fields_set
    assert again.aliases.keys() == planned.aliases.keys()


def test_the_readmes_examples_are_recipes(tmp_path: Path):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    loaded = []
    for block in blocks:
        (tmp_path / "example.yaml").write_text(block)
        loaded.append(recipe.load(tmp_path / "example.yaml", Recipe, []))
    training, evaluation = loaded
    assert training.train
    assert training.train.zero_stage == 2
    assert evaluation.model_names() == ["ours", "theirs"]


def test_the_readmes_sweep_is_one(tmp_path: Path):
    [block] = re.findall(r"```yaml sweep\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shutil.copy(ROOT / "recipes" / "quickstart.yaml", tmp_path)
    (tmp_path / "example.yaml").write_text(block)
    planned = plan.load(tmp_path / "example.yaml", [])
    assert [variant.name for variant in planned.variants][1] == "learning_rate=1e-4,seed=0,method=lora"
    trainings = [step for step in planned.steps if step.stage == "train"]
    assert (len(planned.variants), len(trainings)) == (8, 8)
    assert len([step for step in planned.steps if step.stage == "init_adapter"]) == 4


def test_the_papers_settings_are_the_papers():
    loaded = recipe.load(ROOT / "recipes" / "llama2_nlora.yaml", Recipe, [])
    assert loaded.model
    assert loaded.init
    assert loaded.train
    train, adapter = loaded.train, loaded.init.adapter
    assert isinstance(adapter, AdapterConfig)
    assert (train.learning_rate, train.schedule, train.warmup_ratio, train.weight_decay) == (2e-4, "cosine", 0.03, 0.0)
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.targets) == (128, 128, 0.0, "all-linear")
    assert (loaded.model.dtype, train.dtype, train.global_batch_size) == ("float32", "float32", 4)
    assert list(loaded.tracks) == ["math", "code", "chat"]


def test_equal_work_appears_once():
    planned = plan.load(ROOT / "recipes" / "mistral_nlora.yaml", [])
    names = [step.name for step in planned.steps]
    assert [name for name in names if "init_adapter" in name or "prepare_model" in name] == [
        "prepare_model",
        "init_adapter",
    ]


def test_without_a_hub_preflight_lists_all_that_is_missing(tmp_path: Path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        "recipes/mistral_nlora.yaml",
        "--store",
        str(tmp_path / "store"),
    ]
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    for missing in (
        "Mistral-7B-v0.1",
        "MetaMathQA",
        "CodeFeedback",
        "WizardLM_evol",
        "gsm8k",
        "hendrycks_math",
        "mbpp",
    ):
        assert missing in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_leaderboards_tasks_are_lm_evals_and_need_no_guessing():
    """Worked examples and headline metrics are those of the leaderboard's archive."""
    from stages.benchmarks._lm_eval_index import data_sets

    loaded = recipe.load(ROOT / "recipes" / "leaderboard.yaml", Recipe, [])
    asked = {name: benchmark.ask.model_dump() for name, benchmark in loaded.benchmarks.items()}
    assert {name: (ask["task"], ask["num_fewshot"]) for name, ask in asked.items()} == {
        "arc_challenge": ("arc_challenge", 25),
        "hellaswag": ("hellaswag", 10),
        "mmlu": ("mmlu", 5),
        "truthfulqa": ("truthfulqa_mc2", None),
        "winogrande": ("winogrande", 5),
        "gsm8k": ("gsm8k", 5),
    }
    assert all(data_sets(ask["task"]) and not ask["use_template"] for ask in asked.values())
    primary = {name: each.score.model_dump()["primary"] for name, each in loaded.benchmarks.items() if each.score}
    assert primary == {"arc_challenge": "acc_norm,none", "hellaswag": "acc_norm,none"}


def test_a_sweep_of_four_learning_rates_prepares_and_starts_once():
    sweep = "sweep.train.learning_rate=[5e-5, 1e-4, 2e-4, 4e-4]"
    planned = plan.load(ROOT / "recipes" / "quickstart.yaml", [sweep])
    stages = [step.stage for step in planned.steps]
    once = ("prepare_model", "prepare_data", "tokenize", "init_adapter")
    assert [stages.count(stage) for stage in once] == [1, 1, 1, 1]
    assert [stages.count(stage) for stage in ("train", "merge", "report")] == [4, 4, 4]
    assert stages.count("generate") == 3 * (4 + 1), "three benchmarks, of which the base model answers each once"
    alone = plan.load(ROOT / "recipes" / "quickstart.yaml", ["train.learning_rate=4e-4"])
    ours = planned.find("learning_rate=4e-4/report")
    assert ours.fingerprint == alone.find("report").fingerprint
    again = plan.thaw(json.loads(json.dumps(plan.frozen(planned))))
    assert [step.name for step in again.steps] == [step.name for step in planned.steps]
