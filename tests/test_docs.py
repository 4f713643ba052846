"""What the documentation lists is what there is."""

from pathlib import Path

import pytest

from stages.adapters import methods
from stages.adapters.base import AdapterConfig

METHODS = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_method_is_described(method):
    assert f"\n| `{method}` |" in METHODS


def test_every_option_of_nlora_is_explained():
    for name in methods()["nlora"].Config.model_fields.keys() - AdapterConfig.model_fields.keys():
        assert f"`{name}`" in METHODS, name
