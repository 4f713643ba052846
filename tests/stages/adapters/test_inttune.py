"""IntTune: NLoRA's start, with the core alone trained. Its start: test_nystrom.py."""

import pytest
import torch

from stages._peft.load import load_adapter
from tests.stages.adapters.layers import NUM_IN, Net, adapted, inputs, layer_of
from tests.stages.adapters.matrices import RANK, config, random_weight, refusal, start
from tests.stages.adapters.parity import descend, ours, trained_names


def test_it_starts_as_nlora():
    weight = random_weight(20, 12)
    for found, expected in zip(start("inttune", weight)[:3], start("nlora", weight)[:3], strict=True):
        assert torch.equal(found, expected)


def test_the_core_alone_is_trained(tiny_model_dir, tmp_path):
    model = ours(tiny_model_dir, tmp_path, "inttune")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    descend(model)
    changed = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert changed == trained_names(model) == [name for name in before if ".lora_N." in name]
    assert len(changed) == 14


def test_it_stays_so_when_saved_and_loaded(tmp_path):
    model = adapted("inttune")
    assert trained_names(model)
    model.save_pretrained(tmp_path)
    assert trained_names(load_adapter(Net(), tmp_path, trainable=True)) == trained_names(model)


@pytest.mark.parametrize(("method", "keeps_inputs"), [("nlora", True), ("inttune", False)])
@pytest.mark.parametrize("num_tokens", [6, 40])
def test_no_inputs_are_kept_for_backward(method, keeps_inputs, num_tokens):
    layer, x = layer_of(method), inputs(num_tokens)
    kept: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    assert (torch.Size([num_tokens, NUM_IN]) in kept) == keeps_inputs
    assert torch.Size([num_tokens, RANK]) in kept


@pytest.mark.parametrize("options", [{"dora": True}, {"order": "BAN"}])
def test_what_is_refused(options):
    (name,) = options
    assert name in refusal("inttune", **options)


def test_what_is_trained_is_counted():
    assert config("inttune").TRAINABLE == ("N",)
    assert config("inttune").num_trainable(20, 12) == RANK**2
