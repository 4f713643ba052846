"""Training rows that repeat evaluation items are taken out, and nothing else is."""

import importlib
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import decontaminate
from stages._data.overlap import Index
from stages.benchmarks import AnyBenchmark, only_problems, questions_of
from tests.shared_data import shared_data
from tests.stages.conftest import artifact

LONG = "A farmer has 12 hens, and each of them lays 5 eggs a day. How many eggs does she collect in three weeks?"
SHORT = "Compute $\\binom{8}{6}$."
TOO_SHORT = "What is 3x?"


def config(benchmarks: dict[str, Any], **overlap: Any) -> decontaminate.Config:
    return decontaminate.Config.model_validate_json(json.dumps({"benchmarks": benchmarks, "overlap": overlap}))


def write(file: Path, rows: list[Any]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(settings: decontaminate.Config, data: Path, out: Workspace) -> dict[str, Any]:
    return decontaminate.run(settings, decontaminate.Inputs(data=artifact(data, "prepare_data")), out, Resources())


@pytest.fixture
def own_questions(tmp_path: Path) -> dict[str, Any]:
    """A benchmark of a long, a short, and a too short question."""
    rows = [{"question": text, "answer": "1"} for text in (LONG, SHORT, TOO_SHORT)]
    return {"benchmark": {"name": "questions", "file": str(write(tmp_path / "questions.jsonl", rows))}}


def gsm8k(split: str) -> list[dict[str, Any]]:
    return read(shared_data(f"gsm8k/{split}.jsonl"))


def test_planted_questions_of_gsm8k_are_taken_out_and_nothing_else(tmp_path: Path, workspace: Workspace):
    asked = [row["question"] for row in gsm8k("test")]
    begun = " ".join(asked[900].split()[:16])  # the start of a question, long enough to be a run
    planted = [
        {"query": asked[3], "response": "four"},
        {"query": asked[100].upper().replace(",", " ;").replace(".", "!\n\n"), "response": ""},
        {"messages": [{"role": "user", "content": f"Below is a riddle.\n\nQ: {asked[500]}\n\nThink."}]},
        {"query": "Solve.", "response": f"The question is {asked[1318]}"},
    ]
    harmless = [*gsm8k("train")[:300], {"query": f"{begun} and now something else."}]
    rows = [*planted[:2], *harmless, *planted[2:]]
    data = tmp_path / "data"
    write(data / "train.jsonl", rows)
    write(data / "validation.jsonl", [harmless[0], planted[0]])
    write(data / "test.jsonl", [planted[0]])
    settings = config({"grade": {"benchmark": {"name": "gsm8k", "problems": str(shared_data("gsm8k/test.jsonl"))}}})
    metrics = run(settings, data, workspace)
    lines = (data / "train.jsonl").read_text().splitlines(keepends=True)
    assert (workspace / "train.jsonl").read_text() == "".join(lines[2:-2])
    assert read(workspace / "validation.jsonl") == harmless[:1]
    assert read(workspace / "test.jsonl") == [planted[0]]
    removed = read(workspace / "removed.jsonl")
    assert [(each["split"], each["row"], each["benchmark"], each["item"], each["overlap"]) for each in removed] == [
        ("train", 1, "grade", "gsm8k/3", 1.0),
        ("train", 2, "grade", "gsm8k/100", 1.0),
        ("train", 304, "grade", "gsm8k/500", 1.0),
        ("train", 305, "grade", "gsm8k/1318", 1.0),
        ("validation", 2, "grade", "gsm8k/3", 1.0),
    ]
    assert removed[2]["text"] == asked[500].lower().rstrip("?.")
    assert metrics["train"] == {"num_rows": 305, "num_removed": 4, "removed": {"grade": 4}}
    assert metrics["num_items"] == {"grade": 1319} and metrics["num_too_short"] == {}


def test_gsm8k_itself_has_two_rows_that_are_a_test_question_with_other_numbers(tmp_path: Path, workspace: Workspace):
    write(tmp_path / "data" / "train.jsonl", gsm8k("train"))
    problems = str(shared_data("gsm8k/test.jsonl"))
    run(config({"gsm8k": {"benchmark": {"name": "gsm8k", "problems": problems}}}), tmp_path / "data", workspace)
    assert [(each["row"], each["item"]) for each in read(workspace / "removed.jsonl")] == [
        (1315, "gsm8k/602"), (5163, "gsm8k/602"),
    ]  # fmt: skip


def test_a_changed_number_is_still_a_repetition_and_half_a_question_is_not(own_questions, tmp_path, workspace):
    half = "A farmer has 12 hens, and each of them lays eggs"
    rows = [{"text": LONG.replace("three", "four")}, {"text": half}, {"text": f"Now {SHORT}"}, {"text": TOO_SHORT}]
    write(tmp_path / "data" / "train.jsonl", rows)
    metrics = run(config({"mine": own_questions}, run_length=8), tmp_path / "data", workspace)
    assert read(workspace / "train.jsonl") == [rows[1], rows[3]]
    assert [each["overlap"] for each in read(workspace / "removed.jsonl")] == [pytest.approx(21 / 23, abs=1e-3), 1.0]
    assert metrics["num_too_short"] == {"mine": 1}


def test_what_is_stricter_takes_out_less(own_questions, tmp_path, workspace):
    write(tmp_path / "data" / "train.jsonl", [{"text": LONG.replace("three", "four")}, {"text": "Hello."}])
    run(config({"mine": own_questions}, run_length=8, min_share=0.95), tmp_path / "data", workspace)
    assert read(workspace / "removed.jsonl") == []


def test_unspaced_scripts_are_compared_by_character():
    index = Index(run_length=8, min_share=0.5, shortest=4)
    assert index.add("mgsm", "1", "小明有十二个苹果，他吃了三个，还剩几个？")
    assert index.match(["问题：小明有十二个苹果。他吃了三个，还剩几个"])
    assert not index.match(["小明有十二个梨"])


def test_no_training_row_left_is_refused(own_questions, tmp_path, workspace):
    write(tmp_path / "data" / "train.jsonl", [{"text": LONG}])
    with pytest.raises(UserError, match="in each of the 1 training rows"):
        run(config({"mine": own_questions}), tmp_path / "data", workspace)


MIRRORED = {
    "gsm8k": ({"name": "gsm8k", "problems": "gsm8k/test.jsonl"}, 1319, "Janet’s ducks lay 16 eggs per day."),
    "math": ({"name": "math", "problems": "math/test.jsonl"}, 5000, ""),
    "humaneval": ({"name": "humaneval", "problems": "humaneval/HumanEval.jsonl.gz"}, 164, "from typing import List"),
    "mbpp": ({"name": "mbpp", "problems": "mbpp/mbpp.jsonl"}, 500, "Write a python function to remove first and last"),
    "mt_bench": ({"name": "mt_bench", "questions": "mt_bench/question.jsonl"}, 80, "Compose an engaging travel blog"),
}


@pytest.mark.parametrize("name", MIRRORED)
def test_benchmarks_know_their_questions(name: str, tmp_path: Path):
    fields, number, start = MIRRORED[name]
    record = {key: value if key == "name" else str(shared_data(value)) for key, value in fields.items()}
    (compared,) = config({name: {"benchmark": {**record, "limit": 3}}}).benchmarks.values()
    problems = only_problems(compared.benchmark)
    found = list(questions_of(problems, None, tmp_path))
    assert len({item for item, _ in found}) == len(found) == number  # the limit is no matter
    assert found[0][1].strip().startswith(start)
    assert problems == only_problems(compared.benchmark.model_copy(update={"limit": None}))


def test_every_benchmark_says_which_fields_decide_its_problems():
    for config_class in get_args(get_args(AnyBenchmark)[0]):
        fields = importlib.import_module(config_class.__module__).PROBLEM_FIELDS
        assert fields and set(fields) < set(config_class.model_fields), config_class
