"""A user's own questions: every kind of file, every rule, and errors that name the line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from stages._serving.requests import Request
from stages.benchmarks import questions
from stages.benchmarks._rules import Judged, Reading, judge
from stages.benchmarks.base import Item, Scores
from tests.stages.benchmarks.answering import answered

ROWS: list[dict[str, Any]] = [
    {"question": "Capital of France?", "answer": "Paris", "topic": "Geography"},
    {"question": "2 + 2?", "answer": "4", "topic": "Sums, simple"},
]

# (rule, reference, what a model says, what is compared, whether it is right)
JUDGED = [
    ("exact", "Paris", " Paris\n", "Paris", True),
    ("exact", "Paris", "Paris.", "Paris.", False),
    ("exact", "Paris", "paris", "paris", False),
    ("contains", "Paris", "It is Paris.", "It is Paris.", True),
    ("contains", "Paris", "It is paris.", "It is paris.", False),
    ("number", "1,234", "I think $1234.00.", "1234", True),
    ("number", "50%", "50 percent", "50", True),
    ("number", "-3", "so -3", "-3", True),
    ("number", "0.5", "1/2", "1/2", True),
    ("number", "4", "2 + 2 = 5", "5", False),
    ("number", "4", "four", None, False),
    ("choice", "B", "B", "B", True),
    ("choice", "b", "B. Because", "B", True),
    ("choice", "B", "(B) because", "B", True),
    ("choice", "B", "**B**", "B", True),
    ("choice", "B", "A good question. The answer is (B).", "B", True),
    ("choice", "B", "The answer is A. No: the answer is **B**.", "B", True),
    ("choice", "B", "Answer: B", "B", True),
    ("choice", "A", "The correct option is A", "A", True),
    ("choice", "A", "A river is wet, and Berlin is not", None, False),
    ("choice", "B", "It must be the second, (B), since (A) fails", "A", False),
    ("choice", "B", "I do not know", None, False),
    ("choice", "B", "Answer: Berlin", None, False),
    ("math", r"\frac{1}{2}", "So it is $0.5$.", r"\frac{1}{2}", True),  # as math-verify writes it
    ("math", r"\frac{1}{2}", "\\boxed{\\frac{2}{4}}", r"\frac{2}{4}", True),
    ("math", "(x+1)^2", "The answer is $x^2+2x+1$", "x^2+2x+1", True),
    ("math", "5", "The answer is 6", "6", False),
    ("math", "5", "no idea", None, False),
    ("regex", r"^(yes|yep)\b", "yes, sure", "yes", True),
    ("regex", r"^(yes|yep)\b", "Yes", None, False),
]


@pytest.mark.parametrize(("rule", "reference", "text", "extracted", "is_right"), JUDGED)
def test_rules(rule: Any, reference: str, text: str, extracted: str | None, is_right: bool):
    assert judge(Reading(rule, None, False), text, [reference], []) == Judged(extracted, is_right)


@pytest.mark.parametrize(("rule", "text"), [("exact", "PARIS"), ("contains", "it is PARIS"), ("regex", "oh pariS")])
def test_case_can_be_ignored(rule: Any, text: str):
    assert judge(Reading(rule, None, True), text, ["Paris"], []).is_right
    assert not judge(Reading(rule, None, False), text, ["Paris"], []).is_right


@pytest.mark.parametrize(
    ("extract", "text", "extracted"),
    [
        (r"Answer: (.*)", "Answer: 3\nAnswer: 4", "4"),
        (r"\d+", "first 3, then 4", "4"),
        (r"Answer: (.*)", "4", None),
        (r"(x)?4", "4", ""),
    ],
)
def test_a_part_of_the_answer_is_extracted(extract: str, text: str, extracted: str | None):
    assert judge(Reading("exact", extract, False), text, ["4"], []) == Judged(extracted, extracted == "4")


def test_any_of_several_answers_is_right():
    assert judge(Reading("exact", None, False), "Peking", ["Beijing", "Peking"], []).is_right
    assert judge(Reading("number", None, False), "about 8", ["7", "8"], []).is_right


def test_a_choice_may_be_said_in_its_words():
    choices = ["Berlin", "Paris"]
    assert judge(Reading("choice", None, False), "paris.", ["B"], choices) == Judged("B", True)
    assert judge(Reading("choice", None, False), "The answer is C", ["B"], choices) == Judged(None, False)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_files_of_every_kind(suffix: str, tmp_path: Path):
    config = _config(tmp_path, ROWS, suffix, prompt="Topic: {topic}\n{question}", group="topic")
    assert questions.problems(config) == []
    requests = questions.requests(config, None, tmp_path)
    assert [each.id for each in requests] == ["1", "2"]
    assert requests[0].turns == ("Topic: Geography\nCapital of France?",)
    assert [each.doc["references"] for each in requests] == [["Paris"], ["4"]]
    scores, items = _scored(config, requests, ["Paris", "5"])
    assert {name: (metric.value, metric.n) for name, metric in scores.metrics.items()} == {
        "exact": (0.5, 2),
        "exact_geography": (1.0, 1),
        "exact_sums_simple": (0.0, 1),
    }
    assert [item["score"] for item in items] == [1, 0]
    assert str(tmp_path) not in json.dumps([each.model_dump(mode="json") for each in requests])


def test_everything_about_asking_can_be_set(tmp_path: Path):
    rows = [{"q": "2 + 2?", "a": [4, "four"], "name": "sum", "hint": "{think}"}]
    config = _config(
        tmp_path,
        rows,
        question="q",
        answer="a",
        id="name",
        prompt="{{Q}} {question} {hint}",
        reply_start="It is",
        stop=("\n",),
        use_template=False,
        max_tokens=9,
        temperature=0.5,
        num_samples=2,
    )
    [request] = questions.requests(config, None, tmp_path)
    assert (request.id, request.turns, request.raw) == ("sum", ("{Q} 2 + 2? {think}",), True)
    assert (request.answer_start, request.num_samples) == ("It is", 2)
    assert (request.sampling.stop, request.sampling.max_tokens, request.sampling.temperature) == (("\n",), 9, 0.5)
    scores, items = _scored(config, [request], [["four", "five"]])
    assert (items[0]["score"], items[0]["reference"], items[0]["extracted"]) == (0.5, ["4", "four"], ["four", "five"])
    assert scores.metrics["exact"].n == 1


@pytest.mark.parametrize("answer", ["B", "b", "Paris", 1])
def test_choices_become_letters(answer: Any, tmp_path: Path):
    rows = [{"question": "Capital?", "options": ["Berlin", "Paris", "Rome"], "answer": answer}]
    config = _config(tmp_path, rows, choices="options", prompt="{question}\n{choices}\nAnswer:")
    requests = questions.requests(config, None, tmp_path)
    assert requests[0].turns == ("Capital?\nA. Berlin\nB. Paris\nC. Rome\nAnswer:",)
    scores, _ = _scored(config, requests, ["Paris"], rule="choice")
    assert scores.metrics["choice"].value == 1


def test_choices_may_be_columns(tmp_path: Path):
    rows = [{"question": "Capital?", "one": "Berlin", "two": "Paris", "answer": "B"}]
    config = _config(tmp_path, rows, "csv", choices=("one", "two"), prompt="{question}\n{choices}")
    assert questions.requests(config, None, tmp_path)[0].turns == ("Capital?\nA. Berlin\nB. Paris",)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"question": "?"}, {}, "no field 'answer', found question"),
        ({"question": "", "answer": "1"}, {}, "field 'question': found '', expected text or a number"),
        ({"question": "?", "answer": None}, {}, "field 'answer': found None, expected text or a number"),
        ({"question": "?", "answer": True}, {}, "field 'answer': found True, expected text or a number"),
        ({"question": "?", "answer": []}, {}, "field 'answer': found an empty list"),
        ({"question": "?", "answer": ["1", {}]}, {}, "field 'answer': found {}, expected text or a number"),
        ({"question": "?", "answer": "1"}, {"prompt": "{question} {hint}"}, "no field 'hint', found question, answer"),
        ({"question": "?", "answer": "1"}, {"id": "name"}, "no field 'name'"),
        ({"question": "?", "answer": "1"}, {"group": "topic"}, "no field 'topic'"),
    ],
)
def test_a_row_that_is_no_question_is_named(row: dict[str, Any], options: Any, message: str, tmp_path: Path):
    good = {"question": "?", "answer": "1", "hint": "h", "name": "n", "topic": "t"}
    config = _config(tmp_path, [good, row], **options)
    expected = f"{config.file}:2: {message}"
    with pytest.raises(UserError) as caught:
        questions.requests(config, None, tmp_path)
    assert caught.value.problems[0].startswith(expected)
    assert questions.problems(config)[0].startswith(f"questions: {expected}")


@pytest.mark.parametrize(
    ("answer", "choices", "message"),
    [
        ("D", ["x", "y"], "field 'answer': found 'D', expected A to B, or one of the choices"),
        (2, ["x", "y"], "field 'answer': found '2', expected A to B, or one of the choices"),
        ("A", ["x"], "choices: found 1, expected 2 to 26"),
        ("A", "x", "choices: found 1, expected 2 to 26"),
    ],
)
def test_choices_that_do_not_fit_are_named(answer: Any, choices: Any, message: str, tmp_path: Path):
    rows = [{"question": "?", "answer": answer, "choices": choices}]
    config = _config(tmp_path, rows, choices="choices", prompt="{question} {choices}")
    with pytest.raises(UserError, match=f"own.jsonl:1: {message}"):
        questions.requests(config, None, tmp_path)


def test_broken_lines_and_files_are_named(tmp_path: Path):
    config = _config(tmp_path, ROWS)
    config.file.write_text('{"question": "?", "answer": "1"}\n\n{"question"\n')
    with pytest.raises(UserError, match=r"own.jsonl:3: not JSON"):
        questions.requests(config, None, tmp_path)
    config.file.write_text("")
    with pytest.raises(UserError, match=r"own.jsonl: no rows, expected questions"):
        questions.requests(config, None, tmp_path)
    missing = config.model_copy(update={"file": tmp_path / "none.csv"})
    assert questions.problems(missing)[0].startswith(f"questions: {tmp_path / 'none.csv'} does not exist")
    other = config.model_copy(update={"file": tmp_path / "own.txt"})
    assert "cannot read .txt, known: .jsonl, .json, .parquet, .csv" in questions.problems(other)[0]


def test_many_bad_rows_are_five_lines_and_a_number(tmp_path: Path):
    config = _config(tmp_path, [{"question": "?"}] * 9)
    with pytest.raises(UserError) as caught:
        questions.requests(config, None, tmp_path)
    assert len(caught.value.problems) == 6
    assert caught.value.problems[-1] == "and 4 more problems like these"


def test_two_questions_of_one_name_are_refused(tmp_path: Path):
    config = _config(tmp_path, [{**ROWS[0], "name": "x"}, {**ROWS[1], "name": "x"}], id="name")
    with pytest.raises(UserError, match=r"own.jsonl: field 'name': found 'x' 2 times"):
        questions.requests(config, None, tmp_path)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("number", "found the answer 'Paris', expected one number for `rule: number`"),
        ("choice", "found the answer 'Paris', expected a letter for `rule: choice`"),
    ],
)
def test_answers_that_do_not_fit_the_rule_are_named(rule: str, problem: str, tmp_path: Path):
    config = _config(tmp_path, ROWS)
    requests = questions.requests(config, None, tmp_path)
    with pytest.raises(UserError, match=f"^own.jsonl:1: {problem}"):
        _scored(config, requests, ["x", "y"], rule=rule)


def test_a_reference_that_is_no_expression_is_named(tmp_path: Path):
    config = _config(tmp_path, [{"question": "?", "answer": "(("}])
    requests = questions.requests(config, None, tmp_path)
    with pytest.raises(UserError, match=r"own.jsonl:1: found the answer '\(\(', no regular expression"):
        _scored(config, requests, ["x"], rule="regex")


def test_an_expression_that_never_ends_is_counted(tmp_path: Path):
    config = _config(tmp_path, [{"question": "?", "answer": "(a+)+$"}, {"question": "!", "answer": "b"}])
    requests = questions.requests(config, None, tmp_path)
    scores, items = _scored(config, requests, ["a" * 40 + "!", "b"], rule="regex", timeout_seconds=1)
    assert [item["score"] for item in items] == [0, 1]
    assert (scores.counts["undecided"], scores.counts["unparsable"]) == (1, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"choices": "options"},  # no {choices} in the prompt
        {"prompt": "{question"},
        {"num_samples": 0},
        {"fields": "x"},
    ],
)
def test_a_config_that_cannot_work_is_refused(options: dict[str, Any], tmp_path: Path):
    with pytest.raises(ValueError, match="1 validation error"):
        _config(tmp_path, ROWS, **options)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no regular expression"):
        questions.Scorer(name="questions", extract="(")


def test_the_file_counts_by_its_content(tmp_path: Path):
    record = json.dumps({"name": "questions", "file": "own.jsonl"})
    _config(tmp_path, ROWS)
    config = questions.Config.model_validate_json(record, context={"base_dir": tmp_path})
    assert set(config.canonical()["file"]) == {"content"}


def _config(tmp_path: Path, rows: list[dict[str, Any]], suffix: str = "jsonl", **options: Any) -> questions.Config:
    file = tmp_path / f"own.{suffix}"
    if suffix == "csv":
        with file.open("w", newline="") as text:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        file.write_text(lines if suffix == "jsonl" else json.dumps(rows))
    return questions.Config.model_validate({"name": "questions", "file": file, **options})


def _scored(
    config: questions.Config, requests: list[Request], texts: list[Any], **options: Any
) -> tuple[Scores, list[Item]]:
    scorer = questions.Scorer.model_validate({"name": "questions", **options})
    return questions.score(scorer, config, answered(requests, texts), Path())
