"""Benchmarks: one file each, with

    Config      what is asked: the identity of its answers
    Scorer      how answers become scores: changing it never asks the model again
    requests(config, data_dir, cache_dir) -> list[Request]
    score(scorer, config, answered, cache_dir) -> (Scores, items)
    problems(config) -> list[str]                    optional: why its own problems cannot be had here and now
    on_mirror(config, mirror) -> Config              optional: the same from a mirror folder instead of the hub

A new benchmark is one file here and its name in the two unions below. Importing one loads nothing heavy.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated

from pydantic import Field

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


def benchmark_module(record: StrictModel) -> ModuleType:
    """The module that a benchmark's Config or Scorer belongs to."""
    return importlib.import_module(type(record).__module__)


def preflight(record: StrictModel) -> list[str]:
    """Why a benchmark's own problems cannot be had here and now; one line each."""
    problems = getattr(benchmark_module(record), "problems", None)
    return problems(record) if problems else []


def on_mirror(record: StrictModel, mirror: Path) -> StrictModel:
    """A benchmark's Config with the files of a mirror folder in place of the hub's, where it has them."""
    instead = getattr(benchmark_module(record), "on_mirror", None)
    return instead(record, mirror) if instead else record
