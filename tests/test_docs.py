"""What the documentation lists is what there is."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pipeline import recipe
from pipeline.slurm.profile import Options, Profile
from pipeline.stage import Resources, Workspace
from stages import prepare_data, tokenize
from stages._data.formats import Format
from stages._data.turns import Learn
from stages.adapters import methods
from stages.adapters.base import AdapterConfig
from stages.benchmarks import AnyBenchmark
from stages.workflow import KINDS
from tests.stages.conftest import artifact
from tests.stages.test_tokenize import write_byte_tokenizer

DOCS = Path(__file__).parents[1] / "docs"
METHODS = (DOCS / "methods.md").read_text()
BENCHMARKS = (DOCS / "benchmarks.md").read_text()
SLURM = (DOCS / "slurm.md").read_text()
DATA = (DOCS / "data.md").read_text()


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_method_is_described(method):
    assert f"\n| `{method}` |" in METHODS


def test_every_option_of_nlora_is_explained():
    for name in methods()["nlora"].Config.model_fields.keys() - AdapterConfig.model_fields.keys():
        assert f"`{name}`" in METHODS, name


def test_every_benchmark_is_described():
    names = {get_args(config.model_fields["name"].annotation)[0] for config in get_args(get_args(AnyBenchmark)[0])}
    assert {"lm_eval", "gsm8k", "mt_bench"} <= names
    for name in names:
        assert f"`{name}`" in BENCHMARKS, name


def test_the_data_examples_run(tmp_path):
    """Every example is a config, and the mix with its tokenize section gives the rows that the text promises."""
    sections: dict[str, Any] = {"data": prepare_data.Config, "tokenize": tokenize.Config}
    examples: dict[str, list[Any]] = {name: [] for name in sections}
    for name, text in re.findall(r"```yaml (\w+)\n(.*?)```", DATA, re.DOTALL):
        examples[name].append(sections[name].model_validate_json(json.dumps(yaml.safe_load(text))))
    [mix], [chats, texts] = examples["data"], examples["tokenize"]
    assert texts.format.kind == "text"
    data, tokens = Workspace(tmp_path / "data"), Workspace(tmp_path / "tokens")
    for folder in (data, tokens):
        folder.path.mkdir()
    prepared = prepare_data.run(mix, prepare_data.Inputs(), data, Resources())
    assert prepared["num_rows"] == {"train": 280, "validation": 20}
    assert {name: part["num_taken"] for name, part in prepared["parts"].items()} == {"short": 100, "long": 200}
    write_byte_tokenizer(tmp_path / "model")
    inputs = tokenize.Inputs(model=artifact(tmp_path / "model", ""), data=artifact(data.path, ""))
    assert tokenize.run(chats, inputs, tokens, Resources())["num_samples"] == 280


def test_every_format_source_and_way_to_learn_is_described():
    formats = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(Format)[0])}
    sources = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(prepare_data.Source)[0])}
    for name in {*formats, *sources, *get_args(Learn)}:
        assert f"\n| `{name}`" in DATA, name


def test_every_field_of_a_cluster_profile_is_described_and_the_examples_are_valid(tmp_path):
    for name in {*Profile.model_fields, *Options.model_fields} - {"default", "kinds"}:
        assert re.search(rf"^\|[^|]*`{name}`", SLURM, re.MULTILINE), name
    examples = re.findall(r"```yaml profile\n(.*?)```", SLURM, re.DOTALL)
    assert len(examples) == 2
    for text in examples:
        (tmp_path / "mine.yaml").write_text(text)
        recipe.load(tmp_path / "mine.yaml", Profile, [])
    for kind in KINDS.values():
        assert f"`{kind}`" in SLURM
