"""MATH: the references are right by both rules, Hendrycks's rule is lm-eval's, math-verify cannot hang the scoring."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from stages._data import hub
from stages._serving.requests import Request
from stages.benchmarks import hendrycks_math
from stages.benchmarks._equality import bare_answer, boxed_answer, hendrycks_equal, math_verify_equal
from stages.benchmarks.base import Item, Scores
from tests.shared_data import shared_data
from tests.stages.benchmarks.answering import answered

CONFIG = hendrycks_math.Config(name="math")
SCORER = hendrycks_math.Scorer(name="math")

# (answer, reference, equal by Hendrycks's rule, equal by math-verify)
VARIANTS = [
    ("5", "5", True, True),
    ("5.", "5", False, False),  # the full stop is taken away before
    ("x=5", "5", True, True),
    ("5", "x=5", True, True),
    (r"5\%", "5", True, False),
    (r"\$5", "5", True, True),
    (r"90^\circ", "90", True, True),
    (r"\frac12", r"\frac{1}{2}", True, True),
    (r"\dfrac{1}{2}", r"\frac{1}{2}", True, True),
    ("1/2", r"\frac{1}{2}", True, True),
    ("0.5", r"\frac{1}{2}", True, True),
    ("0.25", r"\frac{1}{4}", False, True),
    (".5", "0.5", True, True),
    (r"12\text{ cm}", "12", True, True),
    (r"\left(3, 4\right]", "(3,4]", True, True),
    (r"\sqrt3", r"\sqrt{3}", True, True),
    (r"\sqrt{12}", r"2\sqrt{3}", False, True),
    ("(x+1)^2", "x^2+2x+1", False, True),
    ("1,234", "1234", False, True),
    ("10/2", "5", False, True),
    (r"\text{(A)}", "A", False, True),
    ("2,1", "1,2", False, True),
    ("(2,1)", "(1,2)", False, False),
    ("-5", "5", False, False),
    ("0.333", r"\frac{1}{3}", False, False),
    ("", "5", False, False),
    (r"\frac{1", r"\frac{1}{2}", False, False),
    (r"\text{ a}\text{ b}", r"\text{ a}\text{ b}", True, True),  # the rule breaks off here and compares as they are
]

ANSWERS = [
    # (what a model says, marked as the paper's code reads it, what is compared otherwise)
    ("So. The answer is: 5.", "5", "5"),
    ("The answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$", "\\frac{1}{2}"),
    ("The answer is: \\boxed{7}. I hope", "\\boxed{7}. I hope", "7"),
    ("We get \\boxed{\\frac{1}{2}}.", None, "\\frac{1}{2}"),
    ("We get \\boxed{1}, no, \\boxed{2}", None, "2"),
    ("We get \\fbox{3}", None, "3"),
    ("It is \\boxed 4", None, "4"),
    ("\\boxed{5} The answer is: 6\nmore", "6", "6"),
    ("The answer is: \\$5 or \\$6", "\\$5 or \\$6", "\\$5 or \\$6"),
    ("The answer is: 1. The answer is: 2.", "2", "2"),
    ("\\boxed{8}. The answer is: \n9", "", "8"),
    ("It is 5", None, None),
    ("\\boxed{5", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("answer", "reference", "by_hendrycks", "by_math_verify"), VARIANTS)
def test_variants_by_hendryckss_rule(answer: str, reference: str, by_hendrycks: bool, by_math_verify: bool):
    assert hendrycks_equal(answer, reference) == by_hendrycks


def test_variants_by_math_verify():
    verdicts = math_verify_equal([(answer, reference) for answer, reference, *_ in VARIANTS], 20)
    found = {row[:2]: verdict for row, verdict in zip(VARIANTS, verdicts, strict=True)}
    assert found == {row[:2]: row[3] for row in VARIANTS}


@pytest.mark.parametrize(("text", "marked", "found"), ANSWERS)
def test_where_the_answer_is(text: str, marked: str | None, found: str | None):
    assert hendrycks_math.marked_answer(text) == marked
    assert hendrycks_math.found_answer(text) == found


@pytest.mark.slow
def test_the_reference_solutions_score_100_percent_by_both_rules(tmp_path: Path):
    """All 5000; and the same answers behind the marker, which the paper's code needs."""
    requests, solutions = _all_problems(tmp_path)
    scores, _ = _scored(requests, [solutions[each.doc["question"]] for each in requests], tmp_path)
    assert scores.metrics["hendrycks"].n == scores.metrics["math_verify"].n == hendrycks_math.NUM_PROBLEMS
    right = {name: metric.value for name, metric in scores.metrics.items() if not name.startswith("marked")}
    assert len(right) == 2 * (1 + 7 + 5) and set(right.values()) == {1.0}
    assert (scores.counts["unparsable"], scores.counts["undecided"]) == (0, 0)
    assert sum(scores.metrics[f"hendrycks_level_{level}"].n for level in range(1, 6)) == hendrycks_math.NUM_PROBLEMS
    assert scores.metrics["marked"].value == 0
    answers = [each.doc["references"][0].replace("\n", " ") for each in requests]  # one is two lines long
    marked = [f"So we see.\nThe answer is: {answer}." for answer in answers]
    scores, _ = _scored(requests, marked, tmp_path)
    assert {metric.value for metric in scores.metrics.values()} == {1.0}


@pytest.mark.slow
def test_hendryckss_rule_is_lm_evals_sample_by_sample(tmp_path: Path):
    """lm-eval's own process_results, on right answers, answers of the next problem, and damaged ones."""
    from lm_eval.tasks.hendrycks_math.utils import process_results

    requests, solutions = _all_problems(tmp_path)
    references = [each.doc["references"][0] for each in requests]
    changed = [
        *[each.replace("\\frac", "\\dfrac").replace(" ", "") for each in references],
        *references[1:],
        references[0],
        *[each[:-1] for each in references],
    ]
    requests = requests * 3
    for request, answer in zip(requests, changed, strict=True):
        theirs = process_results({"solution": solutions[request.doc["question"]]}, [f"So it is $ {answer} $ ."])
        assert theirs["exact_match"] == hendrycks_equal(f" {answer} ", request.doc["references"][0]), answer


def test_metrics_of_each_subject_and_level(tmp_path: Path):
    rows = [_row("Algebra", 1, "1"), _row("Algebra", 2, "2"), _row("Counting & Probability", 2, "3")]
    requests = _requests(tmp_path, rows)
    assert [each.id for each in requests] == ["algebra/0", "counting_probability/0", "algebra/1"]
    texts = ["The answer is: 1", "The answer is: $3$", "It is \\boxed{4}"]
    scores, items = _scored(requests, texts, tmp_path)
    assert {name: (metric.value, metric.n) for name, metric in scores.metrics.items() if "marked" in name} == {
        "marked": (pytest.approx(1 / 3), 3),
        "marked_algebra": (0.5, 2),
        "marked_counting_probability": (0.0, 1),
        "marked_level_1": (1.0, 1),
        "marked_level_2": (0.0, 2),
    }
    assert scores.metrics["hendrycks_level_2"].value == scores.metrics["math_verify_level_2"].value == 0.5
    assert [item["extracted"] for item in items] == ["1", "3", "4"]
    assert "marked_level_1" not in items[1]
    by_math_verify = hendrycks_math.Scorer(name="math", primary="math_verify")
    scores, items = hendrycks_math.score(by_math_verify, CONFIG, answered(requests, texts), tmp_path)
    assert (scores.primary, [item["score"] for item in items]) == ("math_verify", [1, 1, 0])


def test_a_pathological_answer_is_counted_and_hangs_nothing(tmp_path: Path):
    """In a thread, where math-verify's own time limits refuse to work."""
    requests = _requests(tmp_path, [_row("Algebra", 1, "5"), _row("Algebra", 1, "6")])
    texts = ["The answer is: 9^{9^{9^9}}", "The answer is: 12/2"]
    scorer = hendrycks_math.Scorer(name="math", timeout_seconds=1)
    results: list[tuple[Scores, list[Item]]] = []
    thread = threading.Thread(
        target=lambda: results.append(hendrycks_math.score(scorer, CONFIG, answered(requests, texts), tmp_path))
    )
    started = time.monotonic()
    thread.start()
    thread.join()
    assert time.monotonic() - started < 60
    [(scores, items)] = results
    assert (scores.counts["undecided"], scores.counts["unparsable"]) == (1, 0)
    assert [item["math_verify"] for item in items] == [0, 1]


def test_what_is_asked(tmp_path: Path):
    [request] = _requests(tmp_path, [_row("Algebra", 1, "\\frac{1}{2}")])
    assert (request.turns, request.answer_start) == (("Find $x_{1}$ for 1.",), " Let's think step by step.")
    assert (request.sampling.max_tokens, request.sampling.stop) == (2048, ("Instruction", "Response"))
    assert request.doc["references"] == ["\\frac{1}{2}"]


def test_a_limit_takes_the_subjects_in_turn(tmp_path: Path):
    config = hendrycks_math.on_mirror(CONFIG.model_copy(update={"limit": 14}), shared_data("math").parent)
    requests = hendrycks_math.requests(config, None, tmp_path)
    assert len({each.doc["groups"][0] for each in requests[:7]}) == 7
    assert [each.doc["groups"][0] for each in requests[:7]] == [each.doc["groups"][0] for each in requests[7:]]
    scores, _ = _scored(requests, [""] * 14, tmp_path, config)
    assert scores.note == "14 of 5000 problems, the subjects in turn"


def test_the_hub_is_asked_for_all_subjects_at_the_pinned_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = []

    def rows(*arguments: str) -> list[dict[str, str]]:
        asked.append(arguments)
        return [_row(arguments[2], 1, "1")]

    monkeypatch.setattr(hub, "rows", rows)
    requests = hendrycks_math.requests(CONFIG, None, tmp_path)
    assert len(requests) == len({each.id for each in requests}) == 7
    assert {each[:2] + each[3:] for each in asked} == {
        ("EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", "test")
    }


def test_mirror_and_preflight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "math: data set EleutherAI/hendrycks_math@21a5633873b6 is not in" in hendrycks_math.problems(CONFIG)[0]
    file = tmp_path / "math" / "test.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps(_row("Algebra", 1, "1")) + "\n")
    config = hendrycks_math.on_mirror(CONFIG, tmp_path)
    assert config.problems == file
    assert hendrycks_math.problems(config) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solution": "It is 5."}, r"problems.jsonl:2: field 'solution': found no \\boxed\{\} in it"),
        ({"level": None}, r"problems.jsonl:2: field 'level': found None, expected text"),
    ],
)
def test_a_row_that_is_no_problem_is_named(changes: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        _requests(tmp_path, [_row("Algebra", 1, "1"), {**_row("Algebra", 1, "1"), **changes}])


def test_boxes_and_dollars():
    assert boxed_answer("\\boxed{a} and \\boxed {b}") in ("b", "{b}")
    assert bare_answer("$5$ and $6$") == "5$ and $6"  # as lm-eval: from the first dollar to the last
    assert bare_answer("\\$5") == "\\$5"


def _row(subject: str, level: int, answer: str) -> dict[str, Any]:
    return {
        "problem": f"Find $x_{{1}}$ for {level}.",
        "level": f"Level {level}",
        "type": subject,
        "solution": f"Clearly $x = \\boxed{{{answer}}}$.",
    }


def _requests(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Request]:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return hendrycks_math.requests(CONFIG.model_copy(update={"problems": file}), None, tmp_path)


def _all_problems(tmp_path: Path) -> tuple[list[Request], dict[str, str]]:
    """All requests, and problem -> solution."""
    config = hendrycks_math.on_mirror(CONFIG, shared_data("math").parent)
    rows = [json.loads(line) for line in shared_data("math/test.jsonl").read_text().splitlines()]
    requests = hendrycks_math.requests(config, None, tmp_path)
    assert len(requests) == hendrycks_math.NUM_PROBLEMS
    return requests, {row["problem"]: row["solution"] for row in rows}


def _scored(
    requests: list[Request], texts: list[str], tmp_path: Path, config: hendrycks_math.Config = CONFIG
) -> tuple[Scores, list[Item]]:
    return hendrycks_math.score(SCORER, config, answered(requests, texts), tmp_path)
