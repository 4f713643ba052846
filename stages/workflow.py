"""From a recipe to steps: the one place where stages are named together and wired.

    prepare_model -> init_adapter ------------------\\
         \\-> tokenize <- prepare_data                 train -> merge -> generate -> (judge ->) score -> report

A recipe's tracks share the model and the adapter's start; each has its own data, training, merge and benchmarks.
The base model answers every track's benchmarks too, through the same prompt template.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, model_validator

from pipeline.stage import Resources
from pipeline.step import Service, Step
from pipeline.strict import StrictModel
from stages.adapters.base import AdapterConfig
from stages.benchmarks import AnyBenchmark, AnyScorer, benchmark_module, preflight
from stages.generate import Config as Generate
from stages.init_adapter import Config as InitAdapter
from stages.init_adapter import num_trainable, target_problems
from stages.judge import Config as Judge
from stages.merge import Config as Merge
from stages.prepare_data import Config as PrepareData
from stages.prepare_model import Config as PrepareModel
from stages.report import Config as Report
from stages.score import Config as Score
from stages.serve import Config as Serve
from stages.tokenize import Config as Tokenize
from stages.train import Config as Train
from stages.train import size_problems

BASE = "base"
SCORING = frozenset({"score"})
"""Stages that score stored answers, without a model."""
TRAINING = frozenset({"train"})
"""Stages that `evaluate` never runs."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Section = TypeVar("Section", bound=StrictModel)


class Benchmark(StrictModel):
    """One benchmark of a track: what is asked, how it is judged (where a judge is needed), how it is scored."""

    ask: AnyBenchmark
    data: Literal["own", "track"] = "own"
    """Whether the problems are the benchmark's own, or those of the track's prepared data (its test split)."""
    judge: Judge | None = None
    score: AnyScorer | None = None
    """By default the benchmark's own scorer with its defaults."""


class Track(StrictModel):
    """One training set with the benchmarks that test what it teaches."""

    data: PrepareData
    tokenize: Tokenize
    benchmarks: dict[Name, Benchmark] = {}


class Recipe(StrictModel):
    """What a YAML recipe may say. Each section is the config of the stage of that name."""

    name: Name
    description: str = ""
    seed: int | None = Field(None, ge=0)
    """The seed of every section that does not set its own."""
    model: PrepareModel
    init: InitAdapter
    train: Train
    merge: Merge = Merge()
    serve: Serve = Serve()
    tracks: dict[Name, Track] = Field(min_length=1)
    evaluate_base: bool = True
    """Whether the untouched model answers the benchmarks as well, for comparison."""
    resources: Resources = Resources()
    """What this machine gives; never part of a result's identity."""

    @model_validator(mode="after")
    def _what_is_trained_is_not_quantized(self) -> Self:
        if self.train.quantize and not isinstance(self.init.adapter, AdapterConfig):
            raise ValueError(
                f"train.quantize: found {self.train.quantize} with method {self.init.adapter.method}, which trains the "
                f"weights that would be quantized; use an adapter method, or leave quantize out"
            )
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        if BASE in self.tracks:
            raise ValueError(f"tracks: found a track named {BASE!r}, as the untouched model is called; rename it")
        names = [name for track in self.tracks.values() for name in track.benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice and self.evaluate_base:
            raise ValueError(f"tracks: found {', '.join(twice)} in several tracks, expected each benchmark's name once")
        return self


def steps(recipe: Recipe) -> list[Step]:
    """All steps of a recipe, the report last."""
    model = Step("prepare_model", recipe.model, name="prepare_model", resources=recipe.resources)
    shared = None if recipe.init.adapter.NEEDS_GRADIENT else _init("init_adapter", recipe, {"model": model})
    made = [model, *filter(None, [shared])]
    for name, track in recipe.tracks.items():
        made += _track(name, track, recipe, model, shared)
    return [*made, _report(recipe, made)]


def _init(name: str, recipe: Recipe, inputs: dict[str, Step]) -> Step:
    return Step("init_adapter", _seeded(recipe.init, recipe), inputs, name=name, resources=recipe.resources)


def _track(name: str, track: Track, recipe: Recipe, model: Step, shared_init: Step | None) -> Iterator[Step]:
    """The steps of one track, with an init of its own where the method starts from the gradient on the training set."""
    resources = recipe.resources
    data = Step("prepare_data", _seeded(track.data, recipe), name=f"{name}/prepare_data", resources=resources)
    tokens = Step(
        "tokenize", track.tokenize, {"model": model, "data": data}, name=f"{name}/tokenize", resources=resources
    )
    yield from (data, tokens)
    init = shared_init or _init(f"{name}/init_adapter", recipe, {"model": model, "tokens": tokens})
    if init is not shared_init:
        yield init
    inputs = {"model": model, "tokens": tokens, "adapter": init}
    trained = Step("train", _seeded(recipe.train, recipe), inputs, name=f"{name}/train", resources=resources)
    inputs = {"model": model, "init": init, "trained": trained}
    merged = Step("merge", recipe.merge, inputs, name=f"{name}/merge", resources=resources)
    yield from (trained, merged)
    models = {BASE: model, name: merged} if recipe.evaluate_base else {name: merged}
    for model_name, served in models.items():
        for benchmark_name, benchmark in track.benchmarks.items():
            yield from _evaluation(f"{model_name}/{benchmark_name}", benchmark, recipe, served, tokens, data)


def _evaluation(
    name: str, benchmark: Benchmark, recipe: Recipe, model: Step, tokens: Step, data: Step
) -> Iterator[Step]:
    """Generate, judge where asked for, score: scoring needs no model, so mending a scorer costs seconds."""
    resources = recipe.resources
    service = Service("serve", recipe.serve, {"model": model}, resources=resources)
    prepared = data if benchmark.data == "track" else None
    answers = Step(
        "generate",
        Generate(benchmark=benchmark.ask, serve=recipe.serve.numerics()),
        {"model": model, "template": tokens, "data": prepared},
        name=f"{name}/generate",
        service=service,
        resources=resources,
    )
    yield answers
    judgments = None
    if benchmark.judge is not None:
        inputs = {"answers": answers, "model": model}
        settings = benchmark.judge.model_copy(update={"serve": recipe.serve.numerics()})
        judgments = Step("judge", settings, inputs, name=f"{name}/judge", service=service, resources=resources)
        yield judgments
    yield Step(
        "score",
        Score(scorer=benchmark.score or benchmark_module(benchmark.ask).Scorer(name=benchmark.ask.name)),
        {"answers": answers, "judgments": judgments, "data": prepared},
        name=f"{name}/score",
        resources=resources,
    )


def _report(recipe: Recipe, made: list[Step]) -> Step:
    config = Report(
        title=recipe.name,
        description=recipe.description,
        models=((BASE,) if recipe.evaluate_base else ()) + tuple(recipe.tracks),
        baseline=BASE if recipe.evaluate_base else next(iter(recipe.tracks)),
    )
    return Step("report", config, {"steps": {step.name: step for step in made}}, name="report")


def answer_owners(recipe: Recipe) -> set[str]:
    """Fingerprints of everything whose answers the store may keep for this recipe: its models and endpoints."""
    made = steps(recipe)
    endpoints = (getattr(step.config, "endpoint", None) for step in made)
    return {step.fingerprint for step in made} | {endpoint.fingerprint for endpoint in endpoints if endpoint}


def servable(recipe: Recipe) -> dict[str, Service]:
    """The server of the untouched model (`base`) and of each track's, by name."""
    models: dict[str, Step] = {}
    for step in steps(recipe):
        if step.stage == "prepare_model":
            models[BASE] = step
        elif step.stage == "merge":
            models[step.name.removesuffix("/merge")] = step
    return {
        name: Service("serve", recipe.serve, {"model": model}, resources=recipe.resources)
        for name, model in models.items()
    }


def _seeded(section: Section, recipe: Recipe) -> Section:
    """The section with the recipe's seed, unless it sets its own."""
    if recipe.seed is None or "seed" in section.model_fields_set:
        return section
    return section.model_copy(update={"seed": recipe.seed})


def problems(recipe: Recipe, pending: list[Step]) -> list[str]:
    """What can be found by looking at several sections together, before anything is downloaded."""
    stages = {step.stage for step in pending}
    lines = _size_problems(recipe) if "prepare_model" in stages else []
    if "generate" in stages:
        lines += [line for track in recipe.tracks.values() for line in _benchmark_problems(track)]
    return lines


def _size_problems(recipe: Recipe) -> list[str]:
    """Targets, rank, memory and disk against a model that is not prepared yet, as far as it is known."""
    from stages._weights import sources

    shapes, count = sources.shapes(recipe.model.source), sources.num_parameters(recipe.model)
    lines = target_problems(recipe.init, shapes) if shapes else []
    if count is None or lines:
        return lines
    trained = num_trainable(recipe.init, shapes, count)
    return size_problems(recipe.train, recipe.resources, count, shapes, trained)


def _benchmark_problems(track: Track) -> Iterator[str]:
    """Whether the problems of benchmarks that bring their own can be had."""
    for benchmark in track.benchmarks.values():
        if benchmark.data == "own":
            yield from preflight(benchmark.ask)
