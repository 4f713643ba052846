"""Benchmarks: one file each, with

    Config      what is asked: the identity of its answers
    Scorer      how answers become scores: changing it never asks the model again
    requests(config, data_dir, cache_dir) -> list[Request]
    score(scorer, config, answered, cache_dir) -> (Scores, items)
    problems(config) -> list[str]                    optional: why its own problems cannot be had here and now
    downloads(config) -> list[Download]              optional: what its own problems are fetched from
    on_mirror(config, mirror) -> Config              optional: the same from a mirror folder instead of the hub
    SCORING_READS_PROBLEMS   optional: True where `score` needs the problems beside what was asked
    PROBLEM_FIELDS           the names of Config's fields that decide which problems there are, not how they are asked
    questions(config, data_dir, cache_dir) -> pairs  optional: see `questions_of`

A new benchmark is one file here and its name in the two unions below. Importing one loads nothing heavy.
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeVar

from pydantic import Field

from pipeline.downloads import Download
from pipeline.strict import StrictModel
from stages.benchmarks import gsm8k, hendrycks_math, humaneval, lm_eval, mbpp, mt_bench, questions

AnyBenchmark = Annotated[
    lm_eval.Config
    | gsm8k.Config
    | hendrycks_math.Config
    | humaneval.Config
    | mbpp.Config
    | mt_bench.Config
    | questions.Config,
    Field(discriminator="name"),
]
"""The `benchmark:` of a recipe; `name` tells which."""

AnyScorer = Annotated[
    lm_eval.Scorer
    | gsm8k.Scorer
    | hendrycks_math.Scorer
    | humaneval.Scorer
    | mbpp.Scorer
    | mt_bench.Scorer
    | questions.Scorer,
    Field(discriminator="name"),
]
"""Options of scoring, by the same names."""

Record = TypeVar("Record", bound=StrictModel)


def benchmark_module(record: StrictModel) -> ModuleType:
    """The module that a benchmark's Config or Scorer belongs to."""
    return importlib.import_module(type(record).__module__)


def preflight(record: StrictModel) -> list[str]:
    """Why a benchmark's own problems cannot be had here and now; one line each."""
    problems = getattr(benchmark_module(record), "problems", None)
    return problems(record) if problems else []


def downloads(record: StrictModel) -> list[Download]:
    """What a benchmark's own problems are fetched from."""
    named = getattr(benchmark_module(record), "downloads", None)
    return named(record) if named else []


def reads_problems_to_score(record: StrictModel) -> bool:
    """Whether scoring stored answers needs the problems once more."""
    return getattr(benchmark_module(record), "SCORING_READS_PROBLEMS", False)


def on_mirror(record: StrictModel, mirror: Path) -> StrictModel:
    """A benchmark's Config with the files of a mirror folder in place of the hub's, where it has them."""
    instead = getattr(benchmark_module(record), "on_mirror", None)
    return instead(record, mirror) if instead else record


def only_problems(record: Record) -> Record:
    """A benchmark's Config without how it asks, and without a limit: equal where the problems are the same."""
    kept = ("name", *benchmark_module(record).PROBLEM_FIELDS)
    return type(record)(**{name: getattr(record, name) for name in kept})


def questions_of(record: StrictModel, data_dir: Path | None, cache_dir: Path) -> Iterable[tuple[str, str]]:
    """(id, question) of each problem, without what the prompt says around it.

    Of a conversation it is the first turn. Raises UserError for problems that cannot be read.
    """
    module = benchmark_module(record)
    if hasattr(module, "questions"):
        return module.questions(record, data_dir, cache_dir)
    requests = module.requests(record, data_dir, cache_dir)
    return [(request.id, request.doc.get("question", request.turns[0])) for request in requests]
