"""The steps that make models.

    prepare_model -> init_adapter -----------------------------------\\
         \\-> tokenize <- (decontaminate <-) prepare_data                train -> merge (or export_adapter)

A recipe's tracks share the model and the adapter's start; each has its own data and training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline.step import Step
from pipeline.strict import StrictModel
from stages._workflow.problems import decontaminated
from stages._workflow.recipe import Recipe, Track
from stages.export_adapter import Config as ExportAdapter

Section = TypeVar("Section", bound=StrictModel)


@dataclass(frozen=True)
class Trained:
    """One track's result."""

    data: Step
    """As it was prepared: its test split is what benchmarks on the track's data ask."""
    clean: Step
    """Without repeated evaluation items, where that is asked for; else the same step."""
    tokens: Step
    init: Step
    trained: Step
    result: Step
    """The merged model, or the adapter as a plain LoRA."""


def prepare_model(recipe: Recipe) -> Step | None:
    """The model that is trained, or evaluated as it is."""
    if recipe.model is None:
        return None
    return Step("prepare_model", recipe.model, name="prepare_model", resources=recipe.resources)


def train_tracks(recipe: Recipe, model: Step | None) -> dict[str, Trained]:
    """Each track by name. The start is shared, but for methods that take it from the gradient on a track's data."""
    if not recipe.tracks:
        return {}
    assert model
    assert recipe.init
    alone = recipe.init.adapter.NEEDS_GRADIENT
    shared = None if alone else _init("init_adapter", recipe, {"model": model})
    return {name: _train(name, track, recipe, model, shared) for name, track in recipe.tracks.items()}


def seeded(section: Section, recipe: Recipe) -> Section:
    """The section with the recipe's seed, unless it sets its own."""
    if recipe.seed is None or "seed" in section.model_fields_set:
        return section
    return section.model_copy(update={"seed": recipe.seed})


def all_steps(tracks: dict[str, Trained]) -> Iterator[Step]:
    """In the order of execution."""
    for made in tracks.values():
        yield from (made.data, made.clean, made.tokens, made.init, made.trained, made.result)


def _train(name: str, track: Track, recipe: Recipe, model: Step, shared_init: Step | None) -> Trained:
    assert recipe.train
    resources = recipe.resources
    data = Step("prepare_data", track.data, name=f"{name}/prepare_data", resources=resources)
    clean = decontaminated(name, recipe, data)
    tokens = Step(
        "tokenize", track.tokenize, {"model": model, "data": clean}, name=f"{name}/tokenize", resources=resources
    )
    init = shared_init or _init(f"{name}/init_adapter", recipe, {"model": model, "tokens": tokens})
    inputs = {"model": model, "tokens": tokens, "adapter": init}
    trained = Step("train", seeded(recipe.train, recipe), inputs, name=f"{name}/train", resources=resources)
    inputs = {"model": model, "init": init, "trained": trained}
    if recipe.serve.adapters == "lora":
        result = Step("export_adapter", ExportAdapter(), inputs, name=f"{name}/export_adapter", resources=resources)
    else:
        result = Step("merge", recipe.merge, inputs, name=f"{name}/merge", resources=resources)
    return Trained(data, clean, tokens, init, trained, result)


def _init(name: str, recipe: Recipe, inputs: dict[str, Step]) -> Step:
    assert recipe.init
    return Step("init_adapter", seeded(recipe.init, recipe), inputs, name=name, resources=recipe.resources)
