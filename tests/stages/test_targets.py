"""Which matrices an adapter goes on, and what is said about the ones it cannot go on."""

import json

import pytest
from pydantic import TypeAdapter

from pipeline.stage import Resources
from stages import init_adapter
from stages._weights import targets
from stages.adapters import AnyAdapter
from stages.adapters.base import AdapterConfig
from tests.stages.conftest import artifact

LLAMA = {
    "model.embed_tokens.weight": (100, 8),
    "model.layers.0.self_attn.qkv_proj.weight": (24, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.mlp.gate_up_proj.weight": (32, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
    "model.layers.0.input_layernorm.weight": (8,),
}
GPT2 = {
    "wte.weight": (100, 8),
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.attn.c_attn.bias": (24,),
    "h.0.mlp.c_fc.weight": (8, 32),
}
EXPERTS = {**LLAMA, "model.layers.0.mlp.experts.gate_up_proj": (4, 8, 32)}


def adapter(**options) -> AdapterConfig:
    checked = TypeAdapter(AnyAdapter).validate_python({"method": "nlora", "rank": 2, **options})
    assert isinstance(checked, AdapterConfig)
    return checked


def line(shapes, dtypes=None, model_config=None, **options) -> str:
    (only,) = targets.problems(shapes, adapter(**options), dtypes, model_config)
    return only


@pytest.mark.parametrize("chosen", ["all-linear", ["qkv_proj", "gate_up_proj"], r".*_proj", ["o_proj"]])
def test_fused_projections_are_matrices_like_others(chosen):
    assert targets.problems(LLAMA, adapter(targets=chosen)) == []
    assert "model.layers.0.self_attn.qkv_proj" in targets.matrices(LLAMA)


@pytest.mark.parametrize("chosen", [["embed_tokens", "o_proj"], ["model.embed_tokens"], r"model\.embed.*"])
def test_an_embedding_is_refused(chosen):
    assert "model.embed_tokens is an embedding" in line(LLAMA, targets=chosen)


@pytest.mark.parametrize("chosen", [["lm_head"], "lm_head"])
def test_a_head_is_refused_tied_or_not(chosen):
    assert "lm_head is the embedding itself (tied" in line(LLAMA, targets=chosen)
    untied = {**LLAMA, "lm_head.weight": (100, 8)}
    assert "lm_head is the output head" in line(untied, targets=chosen)


@pytest.mark.parametrize("chosen", [["experts.gate_up_proj"], r".*\.experts\..*"])
def test_fused_experts_are_refused(chosen):
    said = line(EXPERTS, targets=chosen)
    assert "model.layers.0.mlp.experts.gate_up_proj is 4 x 8 x 32, expected a matrix" in said
    assert targets.problems(EXPERTS, adapter()) == []  # they are no linear layers


def test_single_experts_are_refused():
    expert = "model.layers.0.block_sparse_moe.experts.1.w1"
    assert f"{expert} is one expert of a mixture" in line({**LLAMA, f"{expert}.weight": (16, 8)})
    assert targets.problems({**LLAMA, f"{expert}.weight": (16, 8)}, adapter(targets=["o_proj"])) == []


@pytest.mark.parametrize("dtype", ["U8", "I8", "F8_E4M3"])
def test_quantised_weights_are_refused(dtype):
    stored = {name: dtype if "proj" in name else "BF16" for name in LLAMA}
    assert f"qkv_proj (one of 4) is stored as {dtype}, expected float" in line(LLAMA, stored)
    assert "o_proj is stored as" in line(LLAMA, stored, targets=["o_proj"])
    assert targets.problems(LLAMA, adapter(), dict.fromkeys(LLAMA, "BF16")) == []


def test_packed_weights_are_refused():
    shapes = {"model.layers.0.self_attn.q_proj.qweight": (1, 8), "model.embed_tokens.weight": (100, 8)}
    assert "q_proj is quantised (found qweight)" in line(shapes, targets=["q_proj"])
    assert "finds no linear layer" in line(shapes)


def test_transposed_layers_are_refused():
    said = line(GPT2, model_config={"model_type": "gpt2"})
    assert "h.0.attn.c_attn (one of 2) is a Conv1D of transformers, stored in x out" in said
    assert targets.problems(GPT2, adapter(), model_config={"model_type": "gpt_bigcode"}) == []  # the same names, linear


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_matches_no_target_is_refused(field):
    assert targets.problems(LLAMA, adapter(**{field: {"o_proj": 1, r"0\.mlp\..*_proj": 2}})) == []
    said = line(LLAMA, **{field: {"down_prj": 1}})
    assert f"adapter.{field}: 'down_prj' matches no target; near names: down_proj" in said
    assert "'down_proj' matches no target" in line(LLAMA, targets=["o_proj"], **{field: {"down_proj": 1}})


@pytest.mark.parametrize("options", [{"targets": "(q"}, {"rank_pattern": {"(q": 1}}, {"alpha_pattern": {"(q": 1}}])
def test_what_is_no_regex_is_said(options):
    assert f"adapter.{next(iter(options))}: '(q' is not a regex" in line(LLAMA, **options)


def test_every_problem_is_said_at_once():
    said = targets.problems(
        LLAMA, adapter(rank=20, targets=["o_proj", "embed_tokens", "nonsense"], rank_pattern={"q": 1})
    )
    assert [each.split(":")[0] for each in said] == [
        "adapter.targets",
        "adapter.targets",
        "adapter.rank_pattern",
        "adapter.rank",
    ]


def test_a_rank_is_compared_to_where_it_holds():
    assert "must be <= 8" in line(LLAMA, rank_pattern={"o_proj": 9})
    assert targets.problems(LLAMA, adapter(rank=9, rank_pattern={".*_proj": 8})) == []


def test_the_stage_looks_at_the_model_s_files(tmp_path):
    import torch
    from safetensors.torch import save_file

    tensors = {name: torch.zeros(shape) for name, shape in GPT2.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    (tmp_path / "tokenizer.json").write_text("{}")
    config = init_adapter.Config(adapter=adapter())
    (said,) = init_adapter.preflight(config, Resources(), {"model": artifact(tmp_path, "prepare_model")})
    assert "Conv1D" in said
