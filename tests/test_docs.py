"""What the documentation lists is what there is."""

from pathlib import Path
from typing import get_args

import pytest

from stages.adapters import methods
from stages.adapters.base import AdapterConfig
from stages.benchmarks import AnyBenchmark

DOCS = Path(__file__).parents[1] / "docs"
METHODS = (DOCS / "methods.md").read_text()
BENCHMARKS = (DOCS / "benchmarks.md").read_text()


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
