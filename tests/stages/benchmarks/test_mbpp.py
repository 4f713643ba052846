"""MBPP's two forms, and verdicts on right, wrong and hostile answers."""

import json
from pathlib import Path

import pytest

from pipeline.errors import UserError
from stages._serving.requests import Answer
from stages.benchmarks import mbpp
from stages.benchmarks.base import Answered

SCORER = mbpp.Scorer(name="mbpp", timeout_seconds=5.0)
ANSWER = {
    "sample": 0,
    "turn": 0,
    "finish_reason": "stop",
    "num_prompt_tokens": 1,
    "num_tokens": 1,
    "prompt_sha256": "",
}
CODE = "import math\r\ndef twice(x):\r\n  return 2 * x\r\n"


def task(number: int) -> dict:
    tests = ["assert twice(1) == 2", "assert twice(0) == 0", "assert twice(-3) == -6"]
    return {
        "task_id": number,
        "text": f"Double it ({number}).",
        "code": CODE,
        "test_setup_code": "",
        "test_list": tests,
    }


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(task(number)) + "\n" for number in (1, 2, 3, 4, 11, 12, 13, 510, 511)))
    return path


def score(config: mbpp.Config, texts: list[str], tmp_path: Path) -> list[str]:
    requests = mbpp.requests(config, None, tmp_path)[: len(texts)]
    answers = {
        (request.id, 0, 0): Answer.model_validate({**ANSWER, "id": request.id, "text": text})
        for request, text in zip(requests, texts, strict=True)
    }
    _, items = mbpp.score(SCORER, config, Answered(requests=requests, answers=answers, data_dir=None), tmp_path)
    return [item["verdicts"][0] for item in items]


def test_only_the_test_split_is_asked(problems: Path, tmp_path: Path):
    config = mbpp.Config(name="mbpp", problems=problems)
    assert [request.id for request in mbpp.requests(config, None, tmp_path)] == [
        "MBPP/11",
        "MBPP/12",
        "MBPP/13",
        "MBPP/510",
    ]


def test_few_shot_shows_three_worked_tasks(problems: Path, tmp_path: Path):
    config = mbpp.Config(name="mbpp", style="few_shot", problems=problems)
    request = mbpp.requests(config, None, tmp_path)[0]
    assert request.raw and request.sampling.stop == ("[DONE]",)
    assert request.turns[0].count("[DONE]") == 3 and request.turns[0].endswith("[BEGIN]\n")
    problems.write_text(json.dumps(task(11)))
    with pytest.raises(UserError, match=r"worked examples \[2, 3, 4\] are missing"):
        mbpp.requests(config, None, tmp_path)


@pytest.mark.parametrize("style", ["zero_shot", "few_shot"])
def test_verdicts(style: str, problems: Path, tmp_path: Path):
    config = mbpp.Config.model_validate({"name": "mbpp", "style": style, "problems": problems})
    wrong, hostile, endless = "def twice(x):\n  return x", "import os\nos._exit(0)", "while True: pass"
    if style == "zero_shot":
        texts = [f"Sure:\n```python\n{code}\n```\nDone." for code in (CODE, wrong)] + ["I do not know."]
        assert score(config, texts, tmp_path) == ["passed", "failed", "no code"]
    else:
        assert score(config, [CODE, wrong, hostile, endless], tmp_path) == ["passed", "failed", "failed", "timeout"]


def test_missing_data_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    missing = mbpp.Config(name="mbpp", problems=tmp_path / "none.jsonl")
    assert mbpp.problems(missing) == [f"mbpp: {tmp_path / 'none.jsonl'} does not exist"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "is not in the hub cache" in mbpp.problems(mbpp.Config(name="mbpp"))[0]
