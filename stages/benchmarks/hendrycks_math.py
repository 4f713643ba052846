"""MATH (Hendrycks et al. 2021, "Measuring Mathematical Problem Solving With the MATH Dataset"), zero-shot.

5000 test problems of seven subjects and five levels, asked as the paper's own code asks them. lm-eval's few-shot forms
are its tasks `hendrycks_math_*` and `minerva_math_*`.
"""

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.strict import StrictModel
from stages._data.files import PlacedRow, Row
from stages._serving.requests import Request
from stages.benchmarks._asked import item, metrics, slug
from stages.benchmarks._equality import bare_answer, boxed_answer, hendrycks_equal, math_verify_equal
from stages.benchmarks._zero_shot import Source, ZeroShot, after_marker, refuse
from stages.benchmarks.base import Answered, Item, Scores, answer_counts

NUM_PROBLEMS = 5000
SOURCE = Source(
    benchmark="math",
    hub_name="EleutherAI/hendrycks_math",
    hub_revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
    hub_configs=(
        "algebra",
        "counting_and_probability",
        "geometry",
        "intermediate_algebra",
        "number_theory",
        "prealgebra",
        "precalculus",
    ),
    fields=("problem", "solution", "type", "level"),
)
METRICS = ("marked", "hendrycks", "math_verify")

Found = dict[str, str | None]
"""The text of an answer -> the mathematical answer in it."""
PROBLEM_FIELDS = ("problems",)


class Config(ZeroShot):
    """What is asked."""

    name: Literal["math"]
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only so many problems, the subjects in turn."""
    max_tokens: Annotated[int, Field(ge=1)] = 2048
    """The paper's."""


class Scorer(StrictModel):
    """How answers are compared."""

    name: Literal["math"]
    primary: Literal["marked", "hendrycks", "math_verify"] = "marked"
    """`marked`: as the paper's code, what follows the marker on its line, by Hendrycks's rule. `hendrycks` and
    `math_verify`: that or, without a marker, the last box, by that rule or by math-verify."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Processor time of math-verify for one answer, in whole seconds."""


problems = SOURCE.problems
on_mirror = SOURCE.on_mirror
downloads = SOURCE.downloads


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a problem, the subjects in turn. Raises UserError for rows that are no problem with its solution."""
    rows = _subjects_in_turn(SOURCE.rows(config))
    references = [boxed_answer(row["solution"]) for _, _, row in rows]
    refuse(
        [
            f"{place}: field 'solution': found no \\boxed{{}} in it, expected the answer there"
            for (_, place, _), reference in zip(rows, references, strict=True)
            if not reference
        ]
    )
    return [
        config.request(
            name,
            {"question": row["problem"]},
            {"references": [reference], "groups": [slug(row["type"]), slug(row["level"])]},
        )
        for (name, _, row), reference in list(zip(rows, references, strict=True))[: config.limit]
    ]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """The share of right answers by each rule, for all problems, each subject and each level."""
    found = {text: found_answer(text) for request in answered.requests for text in answered.texts(request)}
    verified = _verified(scorer, answered, found)
    items = [_item(scorer, answered, request, found, verified) for request in answered.requests]
    groups = dict.fromkeys(group for request in answered.requests for group in request.doc["groups"])
    return (
        Scores(
            benchmark="math",
            primary=scorer.primary,
            metrics=metrics(items, _names(scorer), config.num_samples, sorted(groups)),
            counts={
                **answer_counts(answered.answers.values()),
                "unparsable": sum(each["unparsable"] for each in items),
                "undecided": sum(each["undecided"] for each in items),
            },
            note="" if config.limit is None else f"{len(items)} of {NUM_PROBLEMS} problems, the subjects in turn",
            details={
                "source": SOURCE.described(config),
                "num_samples": config.num_samples,
                "math_verify_version": version("math-verify"),
                "lm_eval_version": version("lm_eval"),
            },
        ),
        items,
    )


def marked_answer(text: str) -> str | None:
    """As the paper's code: the rest of the line behind the last marker, without a full stop."""
    after = after_marker(text)
    return None if after is None else after.split("\n")[0].strip().removesuffix(".").strip()


def found_answer(text: str) -> str | None:
    """The marked answer without a box or dollars around it; else what is in the last box."""
    marked = marked_answer(text)
    return bare_answer(marked) if marked else boxed_answer(text)


def _subjects_in_turn(placed: list[PlacedRow]) -> list[tuple[str, str, Row]]:
    """(id, place, row), each subject's first problem first, in whatever order the source has the subjects."""
    counts, numbered = Counter[str](), []
    for place, row in placed:
        subject = slug(row["type"])
        numbered.append((counts[subject], subject, place, row))
        counts[subject] += 1
    numbered.sort(key=lambda each: each[:2])
    return [(f"{subject}/{number}", place, row) for number, subject, place, row in numbered]


def _verified(scorer: Scorer, answered: Answered, found: Found) -> dict[tuple[str, str], bool | None]:
    """(answer, reference) -> math-verify's verdict, each pair once."""
    pairs = dict.fromkeys(
        (answer, request.doc["references"][0])
        for request in answered.requests
        for text in answered.texts(request)
        if (answer := found[text]) is not None
    )
    return dict(zip(pairs, math_verify_equal(list(pairs), scorer.timeout_seconds), strict=True))


def _item(
    scorer: Scorer,
    answered: Answered,
    request: Request,
    found: Found,
    verified: dict[tuple[str, str], bool | None],
) -> Item:
    reference, texts = request.doc["references"][0], answered.texts(request)
    answers = [found[text] for text in texts]
    decided = [answer is not None and verified[answer, reference] for answer in answers]
    verdicts = {
        "marked": [_equal(marked_answer(text), reference) for text in texts],
        "hendrycks": [_equal(answer, reference) for answer in answers],
        "math_verify": [bool(verdict) for verdict in decided],
    }
    ordered = {name: verdicts[name] for name in _names(scorer)}
    return {
        **item(answered, request, answers, ordered, request.doc["groups"]),
        "unparsable": answers.count(None),
        "undecided": decided.count(None),
    }


def _equal(answer: str | None, reference: str) -> bool:
    return answer is not None and hendrycks_equal(answer, reference)


def _names(scorer: Scorer) -> list[str]:
    """The headline first."""
    return sorted(METRICS, key=lambda name: name != scorer.primary)
