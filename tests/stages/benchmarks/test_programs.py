"""How answers that are programs are scored: all at once, as they come, with what went wrong counted."""

from stages._serving.requests import Request, Sampling
from stages.benchmarks._programs import ProgramScorer, checked_items, score_programs
from stages.benchmarks.base import Answered
from tests.stages.benchmarks.answering import answered as answer

SCORER = ProgramScorer(timeout_seconds=1.0)
NUM_SAMPLES = 4


def answered(programs: list[list[str]]) -> Answered:
    """Problems, each with the same number of answers that are programs themselves."""
    requests = [
        Request(
            id=f"problem {number}",
            turns=("?",),
            sampling=Sampling(max_tokens=1),
            num_samples=len(texts),
            doc={"question": "?", "reference": ""},
        )
        for number, texts in enumerate(programs)
    ]
    return answer(requests, programs)


def extract(text: str, request: Request) -> str | None:
    return text or None


def assemble(request: Request, code: str) -> str:
    return code


def test_verdicts_belong_to_their_samples_and_are_counted():
    programs = [["x = 1", "assert False", "", "while True: pass"], ["x = 1"] * 3 + ["import os; os._exit(0)"]]
    scores, items = score_programs("toy", SCORER, NUM_SAMPLES, answered(programs), extract, assemble, "", {"kept": 1})
    assert [item["verdicts"] for item in items] == [
        ["passed", "failed", "no code", "timeout"],
        ["passed", "passed", "passed", "failed"],
    ]
    assert scores.metrics["pass@1"].value == 0.5
    assert (scores.counts["timeout"], scores.counts["unparsable"]) == (1, 1)
    assert scores.details["kept"] == 1
    assert scores.details["isolation"] in ("namespaces", "limits only")
    assert scores.details["isolation"] == "limits only" or scores.details["not_enforced"] == []


def test_programs_are_made_as_needed_and_items_come_as_they_are_judged():
    made: list[str] = []

    def count(request: Request, code: str) -> str:
        made.append(request.id)
        return code

    stream = checked_items(SCORER, answered([["x = 1"] * NUM_SAMPLES for _ in range(20)]), extract, count)
    first = next(stream)
    assert first["verdicts"] == ["passed"] * NUM_SAMPLES
    assert len(made) < 20 * NUM_SAMPLES / 2
    assert len({item["id"] for item in stream} | {first["id"]}) == 20


def test_problems_without_any_code_are_kept():
    items = list(checked_items(SCORER, answered([["", ""], ["x = 1", ""], ["", ""]]), extract, assemble))
    assert sorted((item["id"], item["score"]) for item in items) == [
        ("problem 0", 0.0),
        ("problem 1", 0.5),
        ("problem 2", 0.0),
    ]
