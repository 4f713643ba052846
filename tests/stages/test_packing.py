"""Packing: several samples in a row, which see nothing of each other; the same step in another layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.stage import Resources
from stages import train
from stages._training.batches import TokenFile
from stages._training.objective import Objective
from stages._training.packed_attention import attend_within_samples
from stages._training.packing import first_fit, pack
from tests.stages.conftest import artifact

# ---- which samples lie in one row


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 60), min_size=1, max_size=12), st.integers(1, 4), st.integers(60, 200), st.integers(0, 10)
)
def test_every_sample_lies_in_one_row_that_has_room(lengths, num_processes, pack_length, seed):
    lengths = np.array(lengths * num_processes)
    rows = np.random.default_rng(seed).permutation(len(lengths))
    shares = [list(pack(rows, lengths, pack_length, rank, num_processes)) for rank in range(num_processes)]
    assert len({len(own) for own in shares}) == 1
    packed = [row for own in shares for row in own]
    assert sorted(np.concatenate(packed).tolist()) == list(range(len(lengths)))
    assert all(0 < lengths[row].sum() <= pack_length for row in packed)
    fewest = -(-int(lengths.sum()) // pack_length)
    assert len(packed) < fewest * 11 / 9 + 1 + num_processes  # first-fit decreasing's bound, and whole rounds
    again = [list(pack(rows, lengths, pack_length, rank, num_processes)) for rank in range(num_processes)]
    assert str(again) == str(shares)


def test_rows_of_one_round_are_equally_full():
    lengths = np.random.default_rng(0).integers(20, 200, 64)
    shares = [list(pack(np.arange(64), lengths, 512, rank, 2)) for rank in range(2)]
    tokens = np.array([[lengths[row].sum() for row in own] for own in shares])
    assert abs(tokens[0] - tokens[1]).max() < 0.05 * tokens.max()
    fewest = len(first_fit(np.argsort(lengths)[::-1], lengths, 512))
    assert tokens.size == fewest + fewest % 2


def test_where_rows_run_out_a_pass_is_empty():
    shares = [list(pack(np.array([0]), np.array([5]), 10, rank, 2)) for rank in range(2)]
    assert [len(own[0]) for own in shares] == [1, 0]


def test_what_makes_no_sense_is_refused(tiny_tokens_dir):
    with pytest.raises(ValidationError, match="group_by_length: found with packing"):
        train.Config(packing=True, group_by_length=True)
    with pytest.raises(ValidationError, match="compile: found with packing"):
        train.Config(packing=True, compile=True)
    with pytest.raises(ValidationError, match="pack_length: found 10 without packing"):
        train.Config(pack_length=10)


# ---- what the model makes of it


class Alone:
    """A model in place of DeepSpeed's engine."""

    def __init__(self, model: Any) -> None:
        self.module, self.device = model, model.device

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def eval(self) -> None:
        self.module.eval()


SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
ATTENTION = {"intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, **SHAPE}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", ATTENTION),
    "sliding window": ("MistralForCausalLM", {**ATTENTION, "sliding_window": 6}),
    "no GQA": ("Qwen2ForCausalLM", {**ATTENTION, "num_key_value_heads": 4}),
    "learned positions": ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 64, **NO_DROPOUT}),
}


def model_of(name: str, options: dict[str, Any]) -> Any:
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**options, initializer_range=0.2, pad_token_id=2)).float().eval()


@pytest.fixture
def tokens(tiny_tokens_dir: Path) -> TokenFile:
    return TokenFile(tiny_tokens_dir / "train.safetensors")


def sample(tokens: TokenFile) -> torch.Tensor:
    return torch.from_numpy(tokens.input_ids[: tokens.lengths[0]])


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("way", ["sdpa", "eager", "computed again"])
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_padded_rows(name, way, tokens):
    engine = Alone(model_of(*MODELS[name]))
    if way == "computed again":
        engine.module.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        engine.module.set_attn_implementation(way)
    objective, rows = Objective(engine.module), np.array([3, 0, 7, 5])
    padded = objective.target_losses(engine, tokens.batch(rows))
    padded.sum().backward()
    expected = gradients(engine.module)
    attend_within_samples(engine, objective, sample(tokens))
    engine.module.train(way == "computed again")
    packed = objective.target_losses(engine, tokens.packed(rows))
    packed.sum().backward()
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    for parameter, gradient in gradients(engine.module).items():
        torch.testing.assert_close(gradient, expected[parameter], atol=1e-4, rtol=1e-4, msg=parameter)
    assert len(packed) == tokens.num_targets(rows)


def test_no_sample_sees_another(tokens):
    engine = Alone(model_of(*MODELS["llama"]))
    objective = Objective(engine.module)
    attend_within_samples(engine, objective, sample(tokens))
    rows = np.array([3, 0, 7, 5])
    before = objective.target_losses(engine, tokens.packed(rows))
    start, length = tokens.offsets[0], tokens.lengths[0]
    tokens.input_ids = tokens.input_ids.copy()
    tokens.input_ids[start : start + length] = tokens.input_ids[start : start + length][::-1]
    after = objective.target_losses(engine, tokens.packed(rows))
    targets = [tokens.num_targets(np.array([row])) for row in rows]
    for place, (one, other) in enumerate(zip(before.split(targets), after.split(targets), strict=True)):
        assert torch.equal(one, other) == (place != 1), place


REFUSED = {
    "recurrent state": ("MambaForCausalLM", {**SHAPE, "state_size": 8}, r"type mamba .* are not kept apart"),
    "softcap": ("Gemma2ForCausalLM", {**ATTENTION, "head_dim": 16}, "Gemma2Attention has more than plain attention"),
    "ALiBi": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 64}, "type bloom"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_would_leak_are_refused_by_name(name, tokens):
    kind, options, message = REFUSED[name]
    engine = Alone(model_of(kind, options))
    with pytest.raises(UserError, match=message):
        attend_within_samples(engine, Objective(engine.module), sample(tokens))


def test_a_sample_longer_than_a_row_is_said_before_anything_is_done(tiny_tokens_dir, tmp_path):
    (tmp_path / "manifest.json").write_text('{"metrics": {"length_max": 30}}')
    known = {"tokens": artifact(tmp_path, "tokenize")}
    (line,) = train.preflight(train.Config(packing=True, pack_length=20), Resources(device="cpu"), known)
    assert "train.pack_length: got 20, must be >= the 30 tokens of the longest sample" in line
