"""Arithmetic word problems with GSM8K's fields and closing line, from templates written for this project.

A row is {"question": "...", "answer": "3 + 4 = 7 apples.\\n7 - 2 = 5 apples are left.\\n#### 5"}. All numbers are
whole, nothing goes below 2, divisions are exact. Pure Python and seeded: equal options give equal rows everywhere.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.strict import StrictModel
from stages._data.generators._arithmetic_templates import TEMPLATES, WORDS

Row = dict[str, str]

MAX_DRAWS = 2000
"""Refused draws in a row after which the options are said to hold too few problems."""

OPERATIONS: dict[str, Callable[[int, int], int | None]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left // right if left % right == 0 else None,
}
STEP = re.compile(r"\[(\w+) ([-+*/]) (\w+)\]")
CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
SLOT = re.compile(r"\{(\w+)\}")


class Options(StrictModel):
    """How hard the problems are."""

    min_steps: int = Field(default=1, ge=1, le=3)
    """Fewest operations of a solution."""
    max_steps: int = Field(default=3, ge=1, le=3)
    """Most operations of a solution."""
    max_number: int = Field(default=20, ge=5)
    """Largest number in a question."""
    max_factor: int = Field(default=10, ge=3)
    """Largest number that is multiplied or divided by."""
    max_result: int = Field(default=100, ge=10)
    """Largest number in a solution."""

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps {self.min_steps} is above max_steps {self.max_steps}")
        return self


class Problem(NamedTuple):
    """A row and what it is made of: two problems with equal `identity` need the same calculation in the same story."""

    identity: tuple[int, tuple[int, ...]]
    row: Row


def generate(
    options: Options, seed: int, num_train: int, num_validation: int = 0, num_test: int = 0
) -> dict[str, list[Row]]:
    """Rows per split ("train", "validation", "test"; empty ones left out), all different.

    No two splits share a text, nor a template filled with the same numbers. The test split depends on `seed`,
    `num_test` and the options alone, so more training data leaves it as it is.
    Raises UserError when the options do not hold that many problems.
    """
    sizes = {"test": num_test, "validation": num_validation, "train": num_train}
    splits: dict[str, list[Problem]] = {}
    for split, size in sizes.items():
        taken = {problem.identity for problems in splits.values() for problem in problems}
        splits[split] = _draw_split(random.Random(f"{seed}:{split}"), options, size, taken)
    check_disjoint(splits)
    return {split: [problem.row for problem in splits[split]] for split in reversed(sizes) if sizes[split]}


def check_disjoint(splits: Mapping[str, list[Problem]]) -> None:
    """Raises UserError if a question occurs twice, or one story with the same numbers in two splits."""
    seen: dict[str, str] = {}
    owners: dict[tuple[int, tuple[int, ...]], str] = {}
    for split, problems in splits.items():
        for problem in problems:
            question = problem.row["question"]
            if question in seen:
                raise UserError(f"arithmetic: {split} repeats a question of {seen[question]}: {question!r}")
            if owners.setdefault(problem.identity, split) != split:
                raise UserError(
                    f"arithmetic: {split} has a problem of {owners[problem.identity]} in other words: {question!r}"
                )
            seen[question] = split


def _draw_split(
    rng: random.Random, options: Options, size: int, taken: set[tuple[int, tuple[int, ...]]]
) -> list[Problem]:
    """`size` problems with different questions, none with an identity in `taken`."""
    problems: dict[str, Problem] = {}
    refused = 0
    for problem in _draws(rng, options):
        if len(problems) == size:
            break
        if problem is None or problem.identity in taken or problem.row["question"] in problems:
            refused += 1
            if refused > MAX_DRAWS:
                raise UserError(
                    f"arithmetic: {options!r} holds too few problems (found {len(problems)} of {size}); "
                    "raise max_number, max_factor or max_steps, or ask for fewer"
                )
            continue
        problems[problem.row["question"]] = problem
        refused = 0
    return list(problems.values())


def _draws(rng: random.Random, options: Options) -> Iterator[Problem | None]:
    """Problems without end; None where the drawn numbers do not work out."""
    allowed = [
        index for index, template in enumerate(TEMPLATES) if options.min_steps <= len(template) - 1 <= options.max_steps
    ]
    while True:
        yield _draw(rng, options, rng.choice(allowed))


def _draw(rng: random.Random, options: Options, index: int) -> Problem | None:
    question, *steps = TEMPLATES[index]
    numbers = _numbers(rng, options, steps)
    results = _solve(steps, numbers, options.max_result)
    if results is None:
        return None
    values = {**_words(rng), **{letter: str(number) for letter, number in numbers.items()}}
    solution = [_fill(rng, _work_out(step, numbers | results), values) for step in steps]
    row = {
        "question": _fill(rng, question, values),
        "answer": "\n".join([*solution, f"#### {list(results.values())[-1]}"]),
    }
    return Problem((index, tuple(numbers.values())), row)


def _numbers(rng: random.Random, options: Options, steps: list[str]) -> dict[str, int]:
    """Values for the given letters, those that multiply or divide no larger than max_factor."""
    limits: dict[str, int] = {}
    for left, operator, right in STEP.findall("".join(steps)):
        for letter, is_factor in ((left, operator == "*"), (right, operator in "*/")):
            if letter in "abcd":
                limit = options.max_factor if is_factor else options.max_number
                limits[letter] = min(limit, limits.get(letter, limit))
    return {letter: rng.randint(2, min(limits[letter], options.max_number)) for letter in sorted(limits)}


def _solve(steps: list[str], numbers: dict[str, int], max_result: int) -> dict[str, int] | None:
    """The results x, y, z of the steps, or None if one is not a whole number between 2 and max_result."""
    results: dict[str, int] = {}
    for letter, step in zip("xyz", steps, strict=False):
        left, operator, right = _operands(step)
        known = numbers | results
        result = OPERATIONS[operator](_value(left, known), _value(right, known))
        if result is None or not 2 <= result <= max_result:
            return None
        results[letter] = result
    return results


def _operands(step: str) -> tuple[str, str, str]:
    [(left, operator, right)] = STEP.findall(step)
    return left, operator, right


def _value(operand: str, known: Mapping[str, int]) -> int:
    return int(operand) if operand.isdigit() else known[operand]


def _work_out(step: str, known: Mapping[str, int]) -> str:
    """The step with "[a + b]" written as "3 + 4 = 7"."""
    left, operator, right = _operands(step)
    first, second = _value(left, known), _value(right, known)
    return STEP.sub(f"{first} {operator} {second} = {OPERATIONS[operator](first, second)}", step)


def _words(rng: random.Random) -> dict[str, str]:
    """One word per slot; the two people are different."""
    words = {slot: rng.choice(options) for slot, options in WORDS.items()}
    words["name"], words["friend"] = rng.sample(WORDS["name"], 2)
    return words


def _fill(rng: random.Random, text: str, values: Mapping[str, str]) -> str:
    chosen = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    return SLOT.sub(lambda match: values[match[1]], chosen)
