"""From a recipe to steps: the one place where stages are named together and wired.

A recipe's tracks train (`_workflow/training.py`); what they made, the untouched model and any other models or endpoints
answer benchmarks (`_workflow/evaluation.py`); one report shows it all.
"""

from collections.abc import Iterator

from pipeline.step import Service, Step
from pipeline.strict import StrictModel
from stages import merge
from stages._workflow.evaluation import Respondent, evaluation_steps, respondents
from stages._workflow.recipe import Recipe
from stages._workflow.training import all_steps, prepare_model, train_tracks
from stages.benchmarks import preflight, reads_problems_to_score
from stages.init_adapter import num_trainable, target_problems
from stages.report import Config as Report
from stages.train import size_problems

__all__ = ["KINDS", "SCORING", "TRAINING", "Recipe", "answer_owners", "problems", "servable", "steps"]

SCORING = frozenset({"score"})
"""Stages that score stored answers, without a model."""
TRAINING = frozenset({"train"})
"""Stages that `evaluate` never runs."""
KINDS = {
    "prepare_model": "prepare",
    "prepare_data": "prepare",
    "decontaminate": "prepare",
    "tokenize": "prepare",
    "init_adapter": "init",
    "train": "train",
    "merge": "merge",
    "export_adapter": "merge",
    "generate": "evaluate",
    "judge": "judge",
    "score": "score",
    "report": "report",
}
"""Stage -> the kind of work it is, for which a cluster's profile says what a job gets."""


def steps(recipe: Recipe) -> list[Step]:
    """All steps of a recipe, the report last."""
    model = prepare_model(recipe)
    tracks = train_tracks(recipe, model)
    made = [*filter(None, [model]), *all_steps(tracks), *evaluation_steps(recipe, model, tracks)]
    made = list({step.name: step for step in made}.values())  # a shared start is listed by every track
    return [*made, _report(recipe, made)]


def _report(recipe: Recipe, made: list[Step]) -> Step:
    config = Report(
        title=recipe.name,
        description=recipe.description,
        models=tuple(recipe.model_names()),
        baseline=recipe.chosen_baseline(),
    )
    return Step("report", config, {"steps": {step.name: step for step in made}}, name="report")


def answer_owners(recipe: Recipe) -> set[str]:
    """Fingerprints of everything whose answers the store may keep for this recipe: its models and endpoints."""
    made = steps(recipe)
    endpoints = (getattr(step.config, "endpoint", None) for step in made)
    return {step.fingerprint for step in made} | {endpoint.fingerprint for endpoint in endpoints if endpoint}


def servable(recipe: Recipe) -> dict[str, Service]:
    """The servers of the untouched model (`base`), each track's and every other model of ours, by name."""
    model = prepare_model(recipe)
    everyone = respondents(recipe, model, train_tracks(recipe, model))
    return {name: service for name, who in everyone.items() if (service := _alone(who, recipe))}


def _alone(who: Respondent, recipe: Recipe) -> Service | None:
    """A server with its own adapter only."""
    adapters = {who.name: who.adapter} if who.adapter else {}
    serve = who.serve.model_copy(update={"engine": "vllm"})
    return Respondent(who.name, serve, who.model, who.adapter, adapters).service(recipe.resources)


def problems(recipe: Recipe, pending: list[Step], judged: list[Step] | None = None) -> list[str]:
    """What can be found by looking at several sections together, before anything is downloaded.

    `judged`: whose work this machine is to do, by default all that is pending.
    """
    judged = pending if judged is None else judged
    is_unknown = {"train", "prepare_model"} <= {step.stage for step in pending}
    sized = {"train", "merge"} & {step.stage for step in judged}
    lines = _size_problems(recipe, sized) if sized and is_unknown else []
    return lines + _benchmark_problems(recipe, judged)


def _size_problems(recipe: Recipe, stages: set[str]) -> list[str]:
    """Targets, rank, memory and disk against a model that is not prepared yet, as far as it is known."""
    from stages._weights import sources

    assert recipe.model
    assert recipe.init
    assert recipe.train
    shapes, count = sources.shapes(recipe.model.source), sources.num_parameters(recipe.model)
    lines = target_problems(recipe.init, shapes) if shapes else []
    if count is None or lines:
        return lines if "train" in stages else []
    trained = num_trainable(recipe.init, shapes, count)
    lines = merge.size_problems(recipe.merge, count) if "merge" in stages else []
    if "train" in stages:
        lines += size_problems(recipe.train, recipe.resources, count, shapes, trained)
    return lines


def _benchmark_problems(recipe: Recipe, pending: list[Step]) -> list[str]:
    """Whether the mirror is there, and the problems of benchmarks that bring their own can be had."""
    lines = [line for step in pending for benchmark in _own_problems(step) for line in preflight(benchmark)]
    if recipe.mirror and not recipe.mirror.is_dir() and {"generate", "decontaminate"} & {s.stage for s in pending}:
        lines.insert(0, f"mirror: found no folder at {recipe.mirror}, expected one with benchmark data")
    return list(dict.fromkeys(lines))


def _own_problems(step: Step) -> Iterator[StrictModel]:
    """The benchmarks whose own problems the step reads."""
    if step.stage == "generate" and step.inputs.get("data") is None:
        yield step.config.benchmark  # type: ignore[attr-defined]
    elif step.stage == "decontaminate":
        compared = step.config.benchmarks.values()  # type: ignore[attr-defined]
        yield from (each.benchmark for each in compared if each.data == "own")
    elif step.stage == "score" and step.inputs.get("data") is None:
        answers = step.inputs["answers"]
        if isinstance(answers, Step) and reads_problems_to_score(answers.config.benchmark):  # type: ignore[attr-defined]
            yield answers.config.benchmark  # type: ignore[attr-defined]
