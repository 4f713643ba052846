"""Training sets of several sources: how many rows of each, which, in what order, and in what form."""

import io
import json
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import prepare_data
from stages._data import formats, json_list, mixing

SIZES = {"a": 7, "b": 3, "c": 12}
QUESTIONS = {"kind": "prompt_response", "prompt": "q", "response": "a"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """a.jsonl, b.jsonl and c.jsonl, every row different."""
    folder = tmp_path_factory.mktemp("parts")
    for name, size in SIZES.items():
        write(folder / f"{name}.jsonl", [{"from": name, "number": number} for number in range(size)])
    return folder


def write(file: Path, rows: list[dict]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def mixed(parts: dict, seed: int = 0, **more) -> prepare_data.Config:
    record = {"source": {"kind": "mix", "parts": parts, **more}, "seed": seed}
    return prepare_data.Config.model_validate_json(json.dumps(record))


def part(folder: Path, name: str, **more) -> dict:
    return {"source": {"kind": "files", "train": str(folder / f"{name}.jsonl")}, **more}


def prepared(config: prepare_data.Config) -> tuple[list[dict], dict]:
    """The training rows, and what the step says of the parts."""
    with tempfile.TemporaryDirectory() as out:
        metrics = prepare_data.run(config, prepare_data.Inputs(), Workspace(Path(out)), Resources())
        lines = (Path(out) / "train.jsonl").read_text().splitlines()
        assert [file.name for file in Path(out).iterdir()] == ["train.jsonl"]
    assert metrics["num_rows"] == {"train": len(lines)}
    return [json.loads(line) for line in lines], metrics["parts"]


@settings(deadline=None, max_examples=40)
@given(
    counts=st.fixed_dictionaries({name: st.integers(1, size) for name, size in SIZES.items()}), seed=st.integers(0, 9)
)
def test_counts_are_taken_without_repeating_or_losing_a_row(folder, counts, seed):
    rows, parts = prepared(mixed({name: part(folder, name, count=count) for name, count in counts.items()}, seed))
    assert Counter(row["from"] for row in rows) == counts
    assert len({json.dumps(row) for row in rows}) == len(rows)
    assert {name: each["num_taken"] for name, each in parts.items()} == counts
    assert {name: each["num_available"] for name, each in parts.items()} == SIZES
    for name in counts:  # each part keeps its order
        numbers = [row["number"] for row in rows if row["from"] == name]
        assert numbers == sorted(numbers)


@settings(deadline=None)
@given(
    weights=st.dictionaries(st.sampled_from("abcde"), st.floats(0.01, 100), min_size=1), num_rows=st.integers(1, 10_000)
)
def test_shares_add_up_and_are_off_by_less_than_a_row(weights, num_rows):
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    counts = mixing.by_weight(exact, num_rows)
    assert sum(counts.values()) == num_rows
    for name, weight in exact.items():
        assert abs(counts[name] - num_rows * weight / sum(exact.values())) < 1


def test_all_rows_are_there_when_all_are_asked_for_and_the_parts_are_mingled(folder):
    rows, _ = prepared(mixed({name: part(folder, name, count=size) for name, size in SIZES.items()}))
    assert Counter((row["from"], row["number"]) for row in rows) == Counter(
        (name, number) for name, size in SIZES.items() for number in range(size)
    )
    assert sum(left["from"] != right["from"] for left, right in pairwise(rows)) > 5


def test_a_mix_is_a_function_of_its_seed_and_not_of_the_order_in_the_recipe(folder):
    parts = {name: part(folder, name, count=3) for name in SIZES}
    same = mixed(dict(reversed(parts.items())))
    assert same.canonical() == mixed(parts).canonical()
    assert prepared(same) == prepared(mixed(parts))
    drawn = {json.dumps(prepared(mixed(parts, seed))[0]) for seed in range(5)}
    assert len(drawn) == 5


def test_every_row_has_the_same_chance(folder):
    chosen = Counter(
        row["number"] for seed in range(300) for row in prepared(mixed({"a": part(folder, "a", count=2)}, seed))[0]
    )
    assert sum(chosen.values()) == 600 and all(60 < chosen[number] < 115 for number in range(7))


def test_weights_without_a_number_take_as_much_as_keeps_the_shares(folder):
    rows, _ = prepared(mixed({"a": part(folder, "a", weight=2), "b": part(folder, "b", weight=1)}))
    assert Counter(row["from"] for row in rows) == {"a": 7, "b": 3}  # of 10: 6.67 and 3.33
    rows, _ = prepared(mixed({"a": part(folder, "a", weight=1), "c": part(folder, "c", weight=3)}, num_rows=8))
    assert Counter(row["from"] for row in rows) == {"a": 2, "c": 6}


def test_a_part_that_runs_out_is_an_error_with_numbers(folder):
    with pytest.raises(UserError, match=r"source.parts.b: found 3 rows, but count is 4; lower it, or set repeat: true"):
        prepared(mixed({"b": part(folder, "b", count=4)}))
    halves = {"b": part(folder, "b", weight=1), "c": part(folder, "c", weight=1)}
    with pytest.raises(UserError, match=r"b: found 3 rows, but its share of num_rows 20 is 10; .* for 6 rows at most"):
        prepared(mixed(halves, num_rows=20))
    with pytest.raises(UserError, match=r"source.parts.b: its share of 2 rows is none"):
        prepared(mixed({"b": part(folder, "b", weight=0.1), "c": part(folder, "c", weight=9)}, num_rows=2))


def test_repeating_is_asked_for_and_told(folder):
    rows, parts = prepared(mixed({"a": part(folder, "a", weight=1), "b": part(folder, "b", weight=1, repeat=True)}))
    assert Counter(row["from"] for row in rows) == {"a": 7, "b": 7}
    assert sorted(Counter(row["number"] for row in rows if row["from"] == "b").values()) == [2, 2, 3]
    assert parts["b"] == {"num_available": 3, "num_empty": 0, "num_taken": 7, "num_repeated": 4}


def test_prompts_and_chats_become_one_form(tmp_path):
    chat = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "?"}]
    sums = write(tmp_path / "sums.jsonl", [{"q": "1+1?", "a": "2"}, {"q": "2+2?", "a": ""}])
    chats = write(tmp_path / "chats.jsonl", [{"conversations": chat, "id": 7}])
    parts = {
        "sums": {"source": {"kind": "files", "train": sums}, "format": QUESTIONS, "on_empty": "drop", "count": 1},
        "chats": {
            "source": {"kind": "files", "train": chats},
            "format": {"kind": "conversation", "field": "conversations"},
            "count": 1,
        },
    }
    rows, counted = prepared(mixed(parts))
    turns = [[message["content"] for message in row["messages"]] for row in rows]
    assert sorted(turns) == [["1+1?", "2"], ["Hi", "Hello"]]
    assert rows[0].keys() == rows[1].keys() == {"messages"}
    assert counted["sums"]["num_empty"] == 1
    del parts["sums"]["on_empty"]
    with pytest.raises(UserError, match=r"source.parts.sums: train: row 2: field 'a': found nothing"):
        prepared(mixed(parts))
    parts["sums"]["format"] = {**QUESTIONS, "prompt": "question"}
    with pytest.raises(UserError, match=r"source.parts.sums: train has no column 'question'; it has 'q', 'a'"):
        prepared(mixed(parts))


def test_validation_rows_of_all_parts_and_the_test_rows_of_one(tmp_path, workspace):
    file = write(tmp_path / "sums.jsonl", [{"q": f"{number}?", "a": "x"} for number in range(4)])
    held_out = {"kind": "files", "train": f"{file}[:2]", "validation": f"{file}[2:3]"}
    parts = {
        "one": {"source": {**held_out, "test": f"{file}[3:]"}, "format": QUESTIONS, "weight": 1},
        "two": {"source": held_out, "format": QUESTIONS, "weight": 1},
    }
    for _ in range(2):  # a second run in the same folder, as after a crash, adds nothing
        metrics = prepare_data.run(mixed(parts), prepare_data.Inputs(), workspace, Resources())
        assert metrics["num_rows"] == {"train": 4, "validation": 2, "test": 1}
    assert json.loads((workspace / "test.jsonl").read_text()) == {"q": "3?", "a": "x"}
    assert "messages" in json.loads((workspace / "validation.jsonl").read_text().splitlines()[0])
    parts["two"]["source"] = parts["one"]["source"]
    with pytest.raises(ValidationError, match="found a test split in one, two, expected one at most"):
        mixed(parts)


@pytest.mark.parametrize(
    ("parts", "more", "message"),
    [
        ([{"weight": 1.0}, {"count": 1}], {}, "expected a weight for each part or a count for each part"),
        ([{}, {}], {}, "found weight for none, count for none"),
        ([{"count": 1, "weight": 1.0}], {}, "expected a weight for each part or a count"),
        ([{"count": 1}], {"num_rows": 3}, "num_rows: found it beside counts"),
        ([{"weight": 1.0, "repeat": True}], {}, "num_rows: found none with repeat for each part"),
        ([{"weight": 0.0}], {}, "greater than 0"),
        ([], {}, "at least 1"),
    ],
)
def test_what_is_no_mix(folder, parts, more, message):
    with pytest.raises(ValidationError, match=message):
        mixed({f"p{number}": part(folder, "a", **each) for number, each in enumerate(parts)}, **more)


def test_preflight_names_the_part(tmp_path):
    [problem] = prepare_data.preflight(mixed({"a": part(tmp_path, "none", count=1)}), Resources(), {})
    assert problem.startswith("source.parts.a.source.train: ") and "does not exist" in problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values=st.lists(JSON, max_size=6), chunk_chars=st.integers(1, 20), indent=st.sampled_from([None, 2]))
def test_a_json_list_is_read_in_pieces_as_at_once(values, chunk_chars, indent):
    text = json.dumps(values, indent=indent)
    assert list(json_list.elements(io.StringIO(text), chunk_chars)) == values
    with pytest.raises(json.JSONDecodeError):
        list(json_list.elements(io.StringIO(text[:-1]), chunk_chars))


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_data(tmp_path, workspace, monkeypatch):
    monkeypatch.setattr(formats.chunks, "__defaults__", (50,))  # rows at a time, so that few rows are many

    def peak(num_rows: int) -> int:
        file = write(tmp_path / "rows.jsonl", [{"q": f"{number}?", "a": "x" * 400} for number in range(num_rows)])
        source = {"kind": "files", "train": file}
        config = mixed({name: {"source": source, "format": QUESTIONS, "weight": 1} for name in "ab"})
        return peak_bytes(lambda: prepare_data.run(config, prepare_data.Inputs(), workspace, Resources()))

    assert peak(1600) < 1.2 * peak(400)


def test_a_long_json_list_is_never_in_memory():
    text = io.StringIO(json.dumps([{"a": "x" * 4000}] * 5000))  # 20 MB

    def read() -> None:
        assert sum(1 for _ in json_list.elements(text)) == 5000

    assert peak_bytes(read) < 8e6
