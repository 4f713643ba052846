"""Parity with lm-eval: what is asked and what it makes of the answers, sample by sample."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from stages._serving.requests import Answer, Request
from stages.benchmarks import lm_eval
from stages.benchmarks.base import Answered

ROWS = [
    {"question": "Ann has 3 pears and buys 4. How many?", "answer": "3 + 4 = 7\n#### 7"},
    {"question": "Ten boxes of 120 nails. How many nails?", "answer": "10 * 120 = 1200\n#### 1,200"},
    {"question": "Half of 5?", "answer": "#### 2.5"},
    {"question": "2 - 5?", "answer": "#### -3"},
    {"question": "1 + 1?", "answer": "#### 2"},
]
TEXTS = ["3 + 4 = 7\n#### 7", "That makes $1,200 in all.", "#### 2.5", "It is -3", "no number"]
ARITHMETIC = lm_eval.Config(name="lm_eval", task="arithmetic_word_problems")
SCORER = lm_eval.Scorer(name="lm_eval")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def _answered(requests: list[Request], texts: list[str], data_dir: Path) -> Answered:
    answers = {(each.id, 0, 0): _answer(each.id, text) for each, text in zip(requests, texts, strict=True)}
    return Answered(requests=requests, answers=answers, data_dir=data_dir)


def _answer(name: str, text: str) -> Answer:
    return Answer(
        id=name, sample=0, turn=0, text=text, finish_reason="stop", num_prompt_tokens=1, num_tokens=1, prompt_sha256=""
    )


def test_the_shipped_task_asks_the_bare_questions(data_dir: Path, tmp_path: Path):
    requests = lm_eval.requests(ARITHMETIC, data_dir, tmp_path)
    assert [each.turns for each in requests] == [(row["question"],) for row in ROWS]
    assert requests[0].sampling.model_dump() == {
        "max_tokens": 256, "temperature": 0.0, "top_p": 1.0, "stop": (), "seed": 1234
    }  # fmt: skip


def test_the_shipped_task_scores_both_ways(data_dir: Path, tmp_path: Path):
    requests = lm_eval.requests(ARITHMETIC, data_dir, tmp_path)
    scores, items = lm_eval.score(SCORER, ARITHMETIC, _answered(requests, TEXTS, data_dir), tmp_path)
    assert [item["score"] for item in items] == [1, 1, 1, 1, 0]
    assert [item["exact_match,strict-match"] for item in items] == [1, 0, 1, 0, 0]
    assert scores.primary == "exact_match,flexible-extract"
    assert scores.metrics["exact_match,flexible-extract"].value == 0.8
    assert scores.metrics["exact_match,strict-match"].stderr == pytest.approx(0.2449, abs=1e-4)
    assert scores.counts["unparsable"] == 1
    assert scores.details["task_version"] == 1.0
    assert len(scores.details["task_hash"]) == 64


def test_a_registered_task_scores_as_lm_evals_own_run(data_dir: Path, tmp_path: Path):
    """gsm8k, five-shot with plain prompts, against `simple_evaluate` over a model that gives the same answers."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from stages.benchmarks._lm_eval import _on_local_files

    config = lm_eval.Config(name="lm_eval", task="gsm8k", num_fewshot=2, use_template=False)
    requests = lm_eval.requests(config, data_dir, tmp_path)
    scores, items = lm_eval.score(SCORER, config, _answered(requests, TEXTS, data_dir), tmp_path)
    asked: list[str] = []

    class Same(LM):
        def generate_until(self, requests: list[Any]) -> list[str]:
            asked.extend(each.args[0] for each in requests)
            return TEXTS

        loglikelihood = loglikelihood_rolling = None

    spec = _on_local_files(TaskManager().task_index["gsm8k"].yaml_path, data_dir, tmp_path)
    theirs = simple_evaluate(Same(), tasks=[spec], num_fewshot=2)
    assert [each.turns[0] for each in requests] == asked
    for name, metric in scores.metrics.items():
        assert metric.value == theirs["results"]["gsm8k"][name]
        assert metric.stderr == theirs["results"]["gsm8k"][name.replace(",", "_stderr,")]
    for sample in theirs["samples"]["gsm8k"]:
        assert items[sample["doc_id"]][f"exact_match,{sample['filter']}"] == sample["exact_match"]


def test_worked_examples_become_earlier_messages(data_dir: Path, tmp_path: Path):
    config = lm_eval.Config(name="lm_eval", task="gsm8k", num_fewshot=2, limit=1)
    (request,) = lm_eval.requests(config, data_dir, tmp_path)
    assert [message.role for message in request.history] == ["user", "assistant"] * 2
    assert request.turns[0].startswith("Question: Ann has 3 pears")
    assert "Question:" in request.sampling.stop


def test_an_unknown_task_names_near_ones(tmp_path: Path):
    with pytest.raises(UserError, match="no task 'gsm8kk'; near names: gsm8k"):
        lm_eval.requests(lm_eval.Config(name="lm_eval", task="gsm8kk"), None, tmp_path)


def test_a_loglikelihood_task_is_refused(data_dir: Path, tmp_path: Path):
    with pytest.raises(UserError, match="expected a generate_until task"):
        lm_eval.requests(lm_eval.Config(name="lm_eval", task="arc_easy"), data_dir, tmp_path)


def test_missing_data_says_so(tmp_path: Path):
    with pytest.raises(UserError, match=r"no data for the task, expected one of test\.jsonl"):
        lm_eval.requests(ARITHMETIC, tmp_path, tmp_path / "cache")


def test_an_unknown_primary_metric_lists_the_known(data_dir: Path, tmp_path: Path):
    requests = lm_eval.requests(ARITHMETIC, data_dir, tmp_path)
    scorer = lm_eval.Scorer(name="lm_eval", primary="accuracy")
    with pytest.raises(UserError, match="expected one of exact_match,flexible-extract, exact_match,strict-match"):
        lm_eval.score(scorer, ARITHMETIC, _answered(requests, TEXTS, data_dir), tmp_path)
