"""NLoRA through the pipeline. Its start: test_nystrom.py; its layer: test_peft_layer.py and test_structured.py."""

import pytest
import torch

from stages._peft.load import adapted_layers
from tests.stages.adapters.layers import Net, adapted
from tests.stages.adapters.matrices import RANK, config, refusal
from tests.stages.adapters.parity import base_weights, logits, ours, pefts

OPTIONS = [
    {},
    {"core": "pinv", "pinv_tolerance": 0.1},
    {"core": "least_squares", "sampling": "leverage"},
    {"scale": 0.1, "alpha": 16.0},
    {"order": "BAN"},
    {"dora": True},
    {"dora": True, "order": "BAN", "sampling": "uniform"},
]


@pytest.mark.parametrize("options", [{}, {"order": "BAN"}])
def test_pefts_call_gives_the_references_start(options):
    """The first rows, the first columns, and their crossing, of weights stored O x I."""
    layer = dict(adapted_layers(adapted("nlora", **options)))["first"]
    weight = Net().first.weight
    assert torch.equal(layer.lora_A["default"].weight, weight[:RANK])
    assert torch.equal(layer.lora_N["default"].weight, weight[:RANK, :RANK])
    assert torch.equal(layer.lora_B["default"].weight, weight[:, :RANK])


def test_a_kept_start_is_the_references_model(tiny_model_dir, tmp_path):
    """Step 0 is W + s B N A: nothing is subtracted."""
    model = ours(tiny_model_dir, tmp_path, "nlora", residual="keep", alpha=8.0)
    reference = pefts(tiny_model_dir, r=RANK).unload()
    with torch.no_grad():
        for name in base_weights(model):
            weight = reference.get_submodule(name).weight
            weight += 2.0 * weight[:, :RANK] @ weight[:RANK, :RANK] @ weight[:RANK]
    assert torch.allclose(logits(model), logits(reference), atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_subtracted_start_is_the_base_model(tiny_model_dir, tmp_path, options):
    base = pefts(tiny_model_dir, r=RANK)
    model = ours(tiny_model_dir, tmp_path, "nlora", **options)
    weights = base_weights(base)
    assert all(not torch.allclose(weight, weights[name], atol=1e-4) for name, weight in base_weights(model).items())
    assert torch.allclose(logits(model), logits(base), atol=2e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"core": "pinv", "order": "BAN"}, "core: pinv is a core between A and B"),
        ({"core": "least_squares", "order": "BAN"}, "core: least_squares is a core between A and B"),
        ({"scale": 0.1, "order": "BAN"}, "scale: N does not reach the whole update in order: BAN"),
        ({"order": "ABN"}, "'BNA' or 'BAN'"),
        ({"start": "kaiming"}, "start"),
    ],
)
def test_what_is_refused(options, named):
    assert named in refusal("nlora", **options)


def test_what_is_trained():
    assert config("nlora").TRAINABLE == ("A", "N", "B")
    assert config("nlora", dora=True).has_magnitude
