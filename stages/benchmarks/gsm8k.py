"""GSM8K (Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems"), zero-shot as the paper evaluates it.

1319 test problems whose answers are whole numbers. lm-eval's few-shot forms are its tasks `gsm8k` and `gsm8k_cot`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.strict import StrictModel
from stages._serving.requests import Request
from stages.benchmarks._asked import item, metrics
from stages.benchmarks._numbers import numbers, reference_number
from stages.benchmarks._zero_shot import Source, ZeroShot, after_marker, refuse
from stages.benchmarks.base import Answered, Item, Scores, answer_counts

NUM_PROBLEMS = 1319
SOURCE = Source(
    benchmark="gsm8k",
    hub_name="openai/gsm8k",
    hub_revision="740312add88f781978c0658806c59bc2815b9866",
    hub_configs=("main",),
    fields=("question", "answer"),
)
PROBLEM_FIELDS = ("problems",)


class Config(ZeroShot):
    """What is asked."""

    name: Literal["gsm8k"]
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """The paper's."""


class Scorer(StrictModel):
    """How answers are read."""

    name: Literal["gsm8k"]
    marked: Literal["reference", "exact"] = "reference"
    """The number behind the marker: as the paper's code reads it (the first one there, rounded, two groups of digits at
    most), or the first one exactly as written."""
    primary: Literal["marked", "last_number"] = "marked"
    """`last_number` needs no marker: the last number of the whole answer, as written."""


problems = SOURCE.problems
on_mirror = SOURCE.on_mirror
downloads = SOURCE.downloads


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a problem. Raises UserError for rows without a question, or an answer that ends "#### N"."""
    rows = SOURCE.rows(config)
    refuse(
        [
            f"{place}: field 'answer': found {row['answer'][-40:]!r}, expected an end such as '#### 42'"
            for place, row in rows
            if _reference(row["answer"]) is None
        ]
    )
    return [
        config.request(
            f"gsm8k/{number}", {"question": row["question"]}, {"references": [str(_reference(row["answer"]))]}
        )
        for number, (_, row) in enumerate(rows[: config.limit])
    ]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """The share of problems with the right number: marked, and the last one anywhere."""
    items = [_item(scorer, answered, request) for request in answered.requests]
    number = len(answered.requests)
    return (
        Scores(
            benchmark="gsm8k",
            primary=scorer.primary,
            metrics=metrics(items, _names(scorer), config.num_samples),
            counts={
                **answer_counts(answered.answers.values()),
                "unparsable": sum(each["unparsable"] for each in items),
            },
            note="" if config.limit is None else f"the first {number} of {NUM_PROBLEMS} problems",
            details={"source": SOURCE.described(config), "num_samples": config.num_samples},
        ),
        items,
    )


def _reference(answer: str) -> int | None:
    """What follows "#### "."""
    _, found, number = answer.rpartition("#### ")
    number = number.replace(",", "").strip()
    return int(number) if found and number.removeprefix("-").isdecimal() else None


def _item(scorer: Scorer, answered: Answered, request: Request) -> Item:
    reference = int(request.doc["references"][0])
    texts = answered.texts(request)
    found = {
        "marked": [_marked(scorer, text) for text in texts],
        "last_number": [_last(text) for text in texts],
    }
    verdicts = {name: [value == reference for value in found[name]] for name in _names(scorer)}
    extracted = [None if value is None else str(value) for value in found[scorer.primary]]
    return {**item(answered, request, extracted, verdicts), "unparsable": extracted.count(None)}


def _names(scorer: Scorer) -> list[str]:
    """The headline first."""
    return sorted(("marked", "last_number"), key=lambda name: name != scorer.primary)


def _marked(scorer: Scorer, text: str) -> object:
    answer = after_marker(text)
    if answer is None:
        return None
    return reference_number(answer) if scorer.marked == "reference" else next(iter(numbers(answer)), None)


def _last(text: str) -> object:
    found = numbers(text)
    return found[-1] if found else None
