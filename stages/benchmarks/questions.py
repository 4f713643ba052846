"""A user's own questions: a file of questions and answers, and the rule by which an answer is right."""

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.strict import LocalPath, StrictModel
from stages._data.files import Row
from stages._serving.requests import Request
from stages.benchmarks._asked import Asked, item, metrics, prompt_fields, slug
from stages.benchmarks._rules import Judged, Reading, Rule, judge, pattern_problem, reference_problem
from stages.benchmarks._zero_shot import refuse
from stages.benchmarks.base import Answered, Item, Scores, answer_counts

Name = Annotated[str, Field(min_length=1)]
PROBLEM_FIELDS = ("file", "question", "answer", "id")


def _check_pattern(pattern: str) -> str:
    if problem := pattern_problem(pattern):
        raise ValueError(f"found {problem}")
    return pattern


class Config(Asked):
    """What is asked. `prompt` may name any field of a row, besides {question} and {choices}."""

    name: Literal["questions"]
    file: LocalPath
    """JSON lines, a JSON list, CSV with a line of names, or Parquet."""
    question: Name = "question"
    """The field with the question."""
    answer: Name = "answer"
    """The field with the answer: text, a number, or a list of several that are right."""
    id: Name | None = None
    """A field that names each question; by default its number in the file, from 1."""
    group: Name | None = None
    """A field by whose values the score is shown as well."""
    choices: Name | tuple[Name, ...] | None = None
    """The field with a list of choices, or the fields with one each. They become A, B, ... at {choices}; the answer may
    be a letter, the text of a choice, or its number from 0."""

    @model_validator(mode="after")
    def _choices_are_shown(self) -> Self:
        if self.choices and "choices" not in prompt_fields(self.prompt):
            raise ValueError("prompt: found no {choices} in it, expected it beside {question} where `choices` are set")
        return self


class Scorer(StrictModel):
    """When an answer is right."""

    name: Literal["questions"]
    rule: Rule = "exact"
    """`exact`: the same text, spaces around it aside. `contains`: the reference is in it. `number`: its last number
    equals the reference. `choice`: it chooses the letter. `math`: math-verify finds both equal. `regex`: the reference,
    a regular expression, matches somewhere."""
    extract: Annotated[str, AfterValidator(_check_pattern)] | None = None
    """A regular expression for the part of the answer that counts: of its last match the first group, or all of it."""
    ignore_case: bool = False
    """For exact, contains and regex."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Processor time for judging one answer."""


def problems(config: Config) -> list[str]:
    """Whether the file is there and every row is a question."""
    from stages._data import files

    if line := files.problem(config.file):
        return [f"questions: {line}"]
    return [f"questions: {line}" for line in _read(config)[1]]


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a row. Raises UserError naming the lines that are no question with an answer."""
    asked, wrong = _read(config)
    refuse(wrong or ([] if asked else [f"{config.file}: no rows, expected questions"]))
    return asked[: config.limit]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """The share of right answers, for all questions and each group.

    Raises UserError naming the lines whose reference answer does not fit the rule.
    """
    from stages.benchmarks._bounded import bounded_map

    refuse([line for request in answered.requests for line in _misfits(scorer, request)])
    reading = Reading(scorer.rule, scorer.extract, scorer.ignore_case)
    calls = [
        (reading, text, request.doc["references"], request.doc["choices"])
        for request in answered.requests
        for text in answered.texts(request)
    ]
    judged = iter(bounded_map(judge, calls, scorer.timeout_seconds))
    items = [
        _item(scorer, answered, request, [next(judged) for _ in range(request.num_samples)])
        for request in answered.requests
    ]
    groups = dict.fromkeys(group for request in answered.requests for group in request.doc["groups"])
    return (
        Scores(
            benchmark="questions",
            primary=scorer.rule,
            metrics=metrics(items, [scorer.rule], config.num_samples, sorted(groups)),
            counts={
                **answer_counts(answered.answers.values()),
                "unparsable": sum(each["unparsable"] for each in items),
                "undecided": sum(each["undecided"] for each in items),
            },
            note="" if config.limit is None else f"the first {len(items)} questions of the file",
            details={
                "num_samples": config.num_samples,
                **({"math_verify_version": version("math-verify")} if scorer.rule == "math" else {}),
            },
        ),
        items,
    )


def _item(scorer: Scorer, answered: Answered, request: Request, judged: list[Judged | None]) -> Item:
    extracted = [each.extracted if each else None for each in judged]
    undecided = judged.count(None)
    return {
        **item(
            answered,
            request,
            extracted,
            {scorer.rule: [each is not None and each.is_right for each in judged]},
            request.doc["groups"],
        ),
        "unparsable": extracted.count(None) - undecided,
        "undecided": undecided,
    }


def _misfits(scorer: Scorer, request: Request) -> list[str]:
    return [
        f"{request.doc['place']}: found the answer {reference!r:.60}, {problem}"
        for reference in request.doc["references"]
        if (problem := reference_problem(scorer.rule, reference))
    ]


def _read(config: Config) -> tuple[list[Request], list[str]]:
    """The requests of all good rows, and what is wrong with the others."""
    from stages._data import files

    asked, wrong = list[Request](), list[str]()
    for number, (place, row) in enumerate(files.placed_rows(config.file), start=1):
        try:
            asked.append(_request(config, row, place.replace(str(config.file), config.file.name), str(number)))
        except ValueError as error:
            wrong.append(f"{place}: {error}")
    times = Counter(request.id for request in asked)
    wrong += [f"{config.file}: field {config.id!r}: found {name!r} {n} times" for name, n in times.items() if n > 1]
    return asked, wrong


def _request(config: Config, row: Row, place: str, number: str) -> Request:
    """Raises ValueError for a row that is no question."""
    choices = _choices(config, row)
    lettered = "\n".join(f"{letter}. {each}" for letter, each in zip(ascii_uppercase, choices, strict=False))
    given = {"question": _text(row, config.question), "choices": lettered}
    others = {name: _text(row, name) for name in prompt_fields(config.prompt) if name not in given}
    return config.request(
        number if config.id is None else _text(row, config.id).strip(),
        {**others, **given},
        {
            "references": _references(config, row, choices),
            "choices": choices,
            "groups": [] if config.group is None else [slug(_text(row, config.group))],
            "place": place,
        },
    )


def _choices(config: Config, row: Row) -> list[str]:
    if config.choices is None:
        return []
    if isinstance(config.choices, tuple):
        found = [_text(row, name) for name in config.choices]
    else:
        found = _texts(row, config.choices)
    if not 2 <= len(found) <= len(ascii_uppercase):
        raise ValueError(f"choices: found {len(found)}, expected 2 to {len(ascii_uppercase)}")
    return found


def _references(config: Config, row: Row, choices: list[str]) -> list[str]:
    if not choices:
        return _texts(row, config.answer)
    value = row.get(config.answer)
    letters = ascii_uppercase[: len(choices)]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return [letters[value]]
    answer = _text(row, config.answer).strip()
    if len(answer) == 1 and answer.upper() in letters:
        return [answer.upper()]
    if answer in choices:
        return [letters[choices.index(answer)]]
    expected = f"A to {letters[-1]}, or one of the choices"
    raise ValueError(f"field {config.answer!r}: found {answer!r:.60}, expected {expected}")


def _texts(row: Row, name: str) -> list[str]:
    """The texts of a field that holds one or a list of them."""
    value = row.get(name)
    if not isinstance(value, list):
        return [_text(row, name)]
    if not value:
        raise ValueError(f"field {name!r}: found an empty list")
    return [_text({name: each}, name) for each in value]


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    if name not in row:
        raise ValueError(f"no field {name!r}, found {', '.join(row) or 'none'}")
    raise ValueError(f"field {name!r}: found {value!r:.60}, expected text or a number")
