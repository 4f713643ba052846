"""GSM8K in the paper's zero-shot form: its prompt, its reading of numbers, and what is counted beside the score."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from stages._data import hub
from stages._data.prompts import PAPER
from stages._data.template import render
from stages._serving.requests import Request
from stages.benchmarks import gsm8k
from stages.benchmarks._numbers import numbers, reference_number
from stages.benchmarks._zero_shot import after_marker
from tests.shared_data import shared_data
from tests.stages.benchmarks.answering import answered

CONFIG = gsm8k.Config(name="gsm8k")
SCORER = gsm8k.Scorer(name="gsm8k")
EXACT = gsm8k.Scorer(name="gsm8k", marked="exact")

# (what a model says, the number the paper's code reads, the one that is written there). The second column was made by
# running extract_answer_number of github.com/TracyGuo2001/NLoRA at 0a1a022 on the first.
READINGS = [
    ("The answer is: 18", 18, 18),
    ("The answer is: 1,234.", 1234, 1234),
    ("The answer is: $1,450,000.", 1450, 1450000),
    ("The answer is: $18.00", 18, 18),
    ("The answer is: 3.5", 4, Fraction(7, 2)),
    ("The answer is: 2.5", 2, Fraction(5, 2)),
    ("The answer is: -5", -5, -5),
    ("The answer is: -$5", 5, -5),
    ("The answer is: $-5", -5, -5),
    ("The answer is: +7", 7, 7),
    ("The answer is: 5-3", 5, 5),
    ("The answer is: 50%", 50, 50),
    ("The answer is: 12 apples and 3 pears", 12, 12),
    ("The answer is: about 12", 12, 12),
    ("The answer is: 1/2", 0, Fraction(1, 2)),
    ("The answer is: 7/2", 4, Fraction(7, 2)),
    ("The answer is: 3/0", 3, None),
    ("The answer is: 3/00", None, None),
    ("The answer is: /2", None, 2),
    ("The answer is: 0,5", 5, 0),
    ("The answer is: .5", 0, Fraction(1, 2)),
    ("The answer is: x = 4 meters.", 4, 4),
    ("The answer is: 3. The answer is: 9", 9, 9),
    ("The answer is: \n8", 8, 8),
    ("The answer is: eight", None, None),
    ("The answer is:8", None, None),
    ("the answer is: 8", None, None),
    ("The answer is 8.", None, None),
    ("#### 8", None, None),
    ("", None, None),
    (f"The answer is: {'9' * 400}", None, int("9" * 400)),
    (f"The answer is: {'9' * 5000}", None, None),
]


@pytest.mark.parametrize(("text", "by_reference", "written"), READINGS, ids=[text[:40] for text, *_ in READINGS])
def test_the_marked_number(text: str, by_reference: int | None, written: Fraction | None):
    marked = after_marker(text)
    assert (None if marked is None else reference_number(marked)) == by_reference
    assert (None if marked is None else next(iter(numbers(marked)), None)) == written


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("He pays 7 - 4 = 3 dollars.", 3),
        ("It is $1,234,567.89!", Fraction(123456789, 100)),
        ("so −4 degrees", -4),
        ("(-3)", -3),
        ("10 dollars (50%)", 50),
        ("1.5e3 or 2", 2),
        ("1.5e3", 1500),
        ("1e999", 999),
        ("12,34", 34),
        ("1,2,3", 3),
        ("2/3.", Fraction(2, 3)),
        ("none at all", None),
    ],
)
def test_the_last_number(text: str, last: Fraction | None):
    found = numbers(text)
    assert (found[-1] if found else None) == last


def test_the_prompt_is_the_papers(tmp_path: Path):
    [request] = _requests(tmp_path, [{"question": "How many {eggs}?", "answer": "...\n#### 1,200"}])
    prompt = render(PAPER, [{"role": "user", "content": request.turns[0]}], "<s>", "</s>") + request.answer_start
    assert prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHow many {eggs}?\n\n### Response: Let's think step by step."
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.stop) == (0, 512, ("Instruction", "Response"))
    assert request.doc["references"] == ["1200"]


def test_without_a_template_the_whole_prompt_is_the_recipes(tmp_path: Path):
    """For a completions endpoint, whose template is not known."""
    config = CONFIG.model_copy(update={"use_template": False, "prompt": "Q: {question}\nA:"})
    [request] = _requests(tmp_path, [{"question": "How many?", "answer": "#### 1"}], config)
    assert request.raw
    assert request.turns[0] + request.answer_start == "Q: How many?\nA: Let's think step by step."


def test_scores_and_counts(tmp_path: Path):
    requests = _requests(tmp_path, [_row(18)] * 4)
    texts = ["The answer is: 18", "So 18.", "The answer is: 17. No, 18", "I do not know."]
    scores, items = gsm8k.score(SCORER, CONFIG, answered(requests, texts, "length"), tmp_path)
    assert list(scores.metrics) == ["marked", "last_number"]
    assert {name: (metric.value, metric.n) for name, metric in scores.metrics.items()} == {
        "marked": (0.25, 4),
        "last_number": (0.75, 4),
    }
    assert (scores.primary, scores.counts["unparsable"], scores.counts["truncated"]) == ("marked", 2, 4)
    assert [item["extracted"] for item in items] == ["18", None, "17", None]
    assert items[0]["reference"] == "18"
    assert scores.details["source"] == "openai/gsm8k@740312add88f781978c0658806c59bc2815b9866"
    by_last = gsm8k.Scorer(name="gsm8k", primary="last_number")
    scores, items = gsm8k.score(by_last, CONFIG, answered(requests, texts), tmp_path)
    assert (scores.metrics[scores.primary].value, [item["score"] for item in items]) == (0.75, [1, 1, 1, 0])
    assert scores.counts["unparsable"] == 1


def test_large_numbers_need_the_exact_reading(tmp_path: Path):
    """Two of the 1319 answers are above a million, which the paper's code cannot read when written with commas."""
    requests = _requests(tmp_path, [_row("1,450,000")])
    given = answered(requests, ["The answer is: 1,450,000"])
    assert gsm8k.score(SCORER, CONFIG, given, tmp_path)[0].metrics["marked"].value == 0
    assert gsm8k.score(EXACT, CONFIG, given, tmp_path)[0].metrics["marked"].value == 1


def test_samples_of_a_problem_are_one_score(tmp_path: Path):
    config = CONFIG.model_copy(update={"num_samples": 2, "temperature": 0.7})
    requests = _requests(tmp_path, [_row(1), _row(2)], config)
    texts = [["The answer is: 1", "The answer is: 3"], ["The answer is: 2", "The answer is: 2"]]
    scores, items = gsm8k.score(SCORER, config, answered(requests, texts), tmp_path)
    assert [item["score"] for item in items] == [0.5, 1.0]
    assert (scores.metrics["marked"].value, scores.metrics["marked"].n) == (0.75, 2)
    assert scores.metrics["marked"].interval.startswith("bootstrap")
    assert items[0]["extracted"] == ["1", "3"]


def test_the_reference_solutions_score_100_percent(tmp_path: Path):
    """All 1319, with a marker before the number as the paper's training data has it."""
    config = gsm8k.on_mirror(CONFIG, shared_data("gsm8k").parent)
    requests = gsm8k.requests(config, None, tmp_path)
    solutions = [json.loads(line)["answer"] for line in shared_data("gsm8k/test.jsonl").read_text().splitlines()]
    texts = [solution.replace("#### ", "The answer is: ").replace(",", "") for solution in solutions]
    scores, _ = gsm8k.score(SCORER, config, answered(requests, texts), tmp_path)
    assert {metric.value for metric in scores.metrics.values()} == {1.0}
    assert scores.metrics["marked"].n == gsm8k.NUM_PROBLEMS
    texts = [solution.replace("#### ", "The answer is: ") for solution in solutions]
    scores, _ = gsm8k.score(EXACT, config, answered(requests, texts), tmp_path)
    assert {metric.value for metric in scores.metrics.values()} == {1.0}
    scores, _ = gsm8k.score(SCORER, config, answered(requests, texts), tmp_path)
    assert scores.metrics["marked"].value == pytest.approx(1 - 1 / gsm8k.NUM_PROBLEMS)


def test_a_mirror_stands_in_for_the_hub(tmp_path: Path):
    file = tmp_path / "gsm8k" / "test.jsonl"
    assert gsm8k.on_mirror(CONFIG, tmp_path) == CONFIG
    file.parent.mkdir()
    file.write_text(json.dumps(_row(1)) + "\n")
    assert gsm8k.on_mirror(CONFIG, tmp_path).problems == file
    own = CONFIG.model_copy(update={"problems": tmp_path / "own.jsonl"})
    assert gsm8k.on_mirror(own, tmp_path) == own


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = []

    def rows(*arguments: str) -> list[dict[str, str]]:
        asked.append(arguments)
        return [_row(1), _row(2)]

    monkeypatch.setattr(hub, "rows", rows)
    assert len(gsm8k.requests(CONFIG, None, tmp_path)) == 2
    assert asked == [("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "main", "test")]
    assert [each.id for each in gsm8k.requests(gsm8k.Config(name="gsm8k", limit=1), None, tmp_path)] == ["gsm8k/0"]


def test_missing_data_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "gsm8k: data set openai/gsm8k@740312add88f is not in the hub cache" in gsm8k.problems(CONFIG)[0]
    [line] = gsm8k.problems(CONFIG.model_copy(update={"problems": tmp_path / "none.jsonl"}))
    assert line.startswith(f"gsm8k: {tmp_path / 'none.jsonl'} does not exist")
    [line] = gsm8k.problems(CONFIG.model_copy(update={"problems": tmp_path / "none.txt"}))
    assert "cannot read .txt, known: .jsonl" in line


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, r"problems.jsonl:2: field 'answer': found None, expected text"),
        ({"question": 3, "answer": "#### 3"}, r"problems.jsonl:2: field 'question': found 3, expected text"),
        ({"question": "?", "answer": "42"}, r"problems.jsonl:2: field 'answer': found '42', expected an end such as"),
        ({"question": "?", "answer": "#### two"}, r"problems.jsonl:2: field 'answer': found '#### two'"),
    ],
)
def test_a_row_that_is_no_problem_is_named(row: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        _requests(tmp_path, [_row(1), row])


def test_an_empty_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="has no rows"):
        _requests(tmp_path, [])


@pytest.mark.parametrize(
    "prompt", ["none", "{question} {hint}", "{question.__class__}", "{0}", "{question!r}", "{question:>9}", "{", "}"]
)
def test_a_prompt_that_is_no_plain_form_is_refused(prompt: str):
    with pytest.raises(ValueError, match="prompt"):
        gsm8k.Config.model_validate({"name": "gsm8k", "prompt": prompt})


def _row(answer: object) -> dict[str, Any]:
    return {"question": f"How many? ({answer})", "answer": f"Think.\n#### {answer}"}


def _requests(tmp_path: Path, rows: list[dict[str, Any]], config: gsm8k.Config = CONFIG) -> list[Request]:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return gsm8k.requests(config.model_copy(update={"problems": file}), None, tmp_path)
