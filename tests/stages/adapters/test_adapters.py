"""What holds for every method: it is found by its file, seeded by name, counted, refused in one line."""

import inspect
import subprocess
import sys

import pytest
import torch
from peft import get_peft_model

from stages import adapters
from stages._adaptation.start import generator_for
from stages._peft.config import peft_config
from stages._weights.matrix import TensorMatrix
from stages.adapters import initializer, methods
from tests.stages.adapters.layers import NUM_IN, NUM_OUT, Net
from tests.stages.adapters.matrices import config, random_weight, refusal, start

NAMES = sorted(methods())
STARTED = [name for name in NAMES if hasattr(methods()[name], "init") and not methods()[name].Config.NEEDS_GRADIENT]
"""Methods whose start needs nothing but the weight."""


def test_a_method_is_a_file_with_a_config_of_its_name():
    assert {"lora", "rslora", "slora", "nlora", "inttune", "pissa", "olora", "dora"} <= set(STARTED)
    for name in NAMES:
        found = config(name)
        assert found.method == name
        assert inspect.getfile(type(found)).endswith(f"stages/adapters/{name}.py")
        assert adapters.method_module(found) is methods()[name]


@pytest.mark.parametrize("method", STARTED)
def test_a_start_depends_on_weight_seed_and_name_alone(method):
    weight, chosen = random_weight(NUM_OUT, NUM_IN, dtype=torch.float32), config(method)
    torch.manual_seed(0)
    first = start(method, weight)
    torch.manual_seed(1)
    assert _equal(first, start(method, weight))
    if "kaiming" in (getattr(chosen, "start", ""), getattr(chosen, "core", "")):
        assert not _equal(first, start(method, weight, seed=1))
        other = initializer(chosen)(TensorMatrix(weight), chosen, generator_for("another", 0))
        assert not _equal(first, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", STARTED)
def test_factors_are_in_float32_and_do_not_share_the_weights_memory(method, dtype):
    weight = random_weight(NUM_OUT, NUM_IN).to(dtype)
    before = weight.clone()
    for tensor in start(method, weight)[:4]:
        if tensor is not None:
            assert tensor.dtype == torch.float32
            tensor.zero_()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("method", STARTED)
def test_what_is_trained_is_counted_as_peft_counts_it(method):
    chosen = config(method)
    model = get_peft_model(Net().float(), peft_config(chosen, ["first", "second"], None))
    counted = chosen.num_trainable(NUM_OUT, NUM_IN) + chosen.num_trainable(NUM_IN, NUM_OUT)
    assert counted == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 2.5}, "rank"),
        ({"alpha": 0}, "alpha"),
        ({"targets": []}, "targets"),
        ({"dropout": 1.0}, "dropout"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"ranks": 4}, "ranks"),
    ],
)
@pytest.mark.parametrize("method", STARTED)
def test_wrong_options_are_refused_by_name(method, options, field):
    assert refusal(method, **options).startswith(field)


def test_an_unknown_method_lists_the_known_ones():
    line = refusal("lorra")
    assert all(f"'{name}'" in line for name in NAMES)


def test_configs_import_without_torch():
    code = "import sys, stages.adapters; assert not {'torch', 'numpy', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _equal(first, second) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True))
