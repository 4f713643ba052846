"""The plan of a recipe: its steps in an order of execution, equal work once, each with its state in the store."""

import importlib
import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import recipe as recipes
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import stages_package
from pipeline.step import Step, Work
from pipeline.store import Store
from pipeline.variants import Variant, merged


class State(StrEnum):
    """How far a step is."""

    CACHED = "cached"
    RUNNING = "running"
    PARTIAL = "partial"
    STALE = "stale"
    MISSING = "missing"


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each comes after what it needs, and steps that share a server follow each other."""

    name: str
    steps: list[Step]
    aliases: dict[str, Step] = field(default_factory=dict)
    """Names of steps whose work another step already does."""
    variants: tuple[Variant, ...] = ()
    """The recipes it was made from: the variants of a sweep, else the only one."""

    @property
    def is_sweep(self) -> bool:
        return any(variant.name for variant in self.variants)

    def find(self, name: str) -> Step:
        """The step of that name. Raises UserError with the known names."""
        for step in self.steps:
            if step.name == name:
                return step
        if name in self.aliases:
            return self.aliases[name]
        raise UserError(
            f"step {name!r}: not in the plan of {self.name}; its steps: {', '.join(s.name for s in self.steps)}"
        )

    def upstream(self, targets: list[Step]) -> list[Step]:
        """The targets and everything they need, in plan order."""
        wanted: set[str] = set()
        queue = list(targets)
        while queue:
            step = queue.pop()
            if step.fingerprint not in wanted:
                wanted.add(step.fingerprint)
                queue += step.all_dependencies()
        return [step for step in self.steps if step.fingerprint in wanted]

    def downstream(self, targets: list[Step]) -> list[Step]:
        """The targets and everything that is made from them, in plan order."""
        found = {step.fingerprint for step in targets}
        for step in self.steps:
            if any(needed.fingerprint in found for needed in step.all_dependencies()):
                found.add(step.fingerprint)
        return [step for step in self.steps if step.fingerprint in found]

    def final_steps(self) -> list[Step]:
        """The steps whose result no other step reads."""
        read = {needed.fingerprint for step in self.steps for needed in step.all_dependencies()}
        return [step for step in self.steps if step.fingerprint not in read]


def workflow() -> Any:
    """The module that turns a recipe into steps.

    Recipe                      its type; `tracks` maps the names of what is trained
    steps(recipe)               what is to be done
    problems(recipe, pending, judged)   lines about what several sections together get wrong, for the work of `judged`
    servable(recipe)            name -> Service: the tracks' models and others that `serve` can offer
    answer_owners(recipe)       fingerprints of the models and endpoints whose answers may be in the store
    SCORING                     names of the stages that score stored answers, without a model
    TRAINING                    names of the stages that `evaluate` never runs
    KINDS                       stage -> the kind of work it is (prepare, train, ...), for cluster profiles
    """
    return importlib.import_module(f"{stages_package()}.workflow")


def load(path: Path, overrides: list[str], track: str | None = None) -> Plan:
    """Read a recipe and plan it, or that track of it alone. Raises UserError for whatever is wrong with it."""
    found = recipes.load_variants(path, workflow().Recipe, overrides)
    if track is not None:
        return _plan({name: _only(recipe, track, path, name) for name, recipe in found.items()})
    plan = _plan(found)
    _refuse_equal(plan, path)
    return plan


def frozen(plan: Plan) -> dict[str, Any]:
    """The plan's recipes as JSON can hold them: what later edits of the file do not change. Files count as they are
    then.

    Raises UserError for a recipe that does not come back from it as it was.
    """
    variants = {each.name: each.recipe.model_dump(mode="json", exclude_unset=True) for each in plan.variants}
    value = {"variants": variants}
    if _identities(thaw(value)) != _identities(plan):
        raise UserError(f"{plan.name}: this recipe cannot be kept for later: its steps would not be the same")
    return value


def thaw(value: dict[str, Any]) -> Plan:
    """The plan that was frozen, made anew: with the stages and files as they are now."""
    kind = workflow().Recipe
    return _plan({name: kind.model_validate_json(json.dumps(recipe)) for name, recipe in value["variants"].items()})


def _plan(recipes: dict[str, Any]) -> Plan:
    """Of the recipes of variants, by name, or the only one, which has none."""
    module = workflow()
    steps = {name: _closure(module.steps(recipe)) for name, recipe in recipes.items()}
    variants = tuple(
        Variant(name, recipe, frozenset(step.fingerprint for step in steps[name])) for name, recipe in recipes.items()
    )
    name = variants[0].recipe.name
    if "" in recipes:
        return replace(arrange(name, steps[""]), variants=variants)
    found, aliases = merged(steps)
    return Plan(name, _execution_order(found), aliases, variants)


def _refuse_equal(plan: Plan, path: Path) -> None:
    """Raises UserError when two variants are the same work."""
    first: dict[frozenset[str], str] = {}
    for variant in plan.variants:
        other = first.setdefault(variant.fingerprints, variant.name)
        if other != variant.name:
            raise UserError(f"{path}: sweep: {other} and {variant.name} are the same work; leave one of them out")


def _identities(plan: Plan) -> list[tuple[str, str]]:
    return [(step.name, step.fingerprint) for step in plan.steps]


def _only(recipe: Any, track: str, path: Path, variant: str) -> Any:
    """The recipe as if it had that track alone."""
    where = f"{path}: variant {variant}" if variant else path
    if track not in recipe.tracks:
        known = f"expected one of {', '.join(recipe.tracks)}" if recipe.tracks else "and it has no tracks at all"
        raise UserError(f"{where}: found no track {track!r}, {known}")
    given = {name: getattr(recipe, name) for name in recipe.model_fields_set}
    try:
        return type(recipe).model_validate({**given, "tracks": {track: recipe.tracks[track]}})
    except ValidationError as error:
        reasons = [str(details.get("ctx", {}).get("error", details["msg"])) for details in error.errors()]
        raise UserError(*(f"{where}: with the track {track} alone: {reason}" for reason in reasons)) from None


def arrange(name: str, steps: list[Step]) -> Plan:
    """Order `steps` and what they need; merge equal work under the first name."""
    unique: dict[str, Step] = {}
    aliases: dict[str, Step] = {}
    for step in _closure(steps):
        kept = unique.setdefault(step.fingerprint, step)
        if kept.name != step.name:
            aliases[step.name] = kept
    return Plan(name, _execution_order(list(unique.values())), aliases)


def _closure(steps: list[Step]) -> list[Step]:
    """The steps and all they depend on, each after its dependencies."""
    ordered: dict[int, Step] = {}
    stack = [(step, False) for step in reversed(steps)]
    while stack:
        step, expanded = stack.pop()
        if id(step) in ordered:
            continue
        if expanded:
            ordered[id(step)] = step
        else:
            stack.append((step, True))
            stack += [(needed, False) for needed in reversed(list(step.all_dependencies()))]
    return list(ordered.values())


def _execution_order(steps: list[Step]) -> list[Step]:
    """A topological order that finishes a server's steps before it starts another, and starts servers late."""
    waiting = {step.fingerprint: {needed.fingerprint for needed in step.all_dependencies()} for step in steps}
    remaining, done, ordered, server = steps, set[str](), list[Step](), ""
    while remaining:
        ready = [step for step in remaining if waiting[step.fingerprint] <= done]
        batch = [step for step in ready if step.service and step.service.fingerprint == server]
        batch = batch or [step for step in ready if not step.service] or ready[:1]
        server = batch[0].service.fingerprint if batch[0].service else server
        ordered += batch
        done |= {step.fingerprint for step in batch}
        remaining = [step for step in remaining if step.fingerprint not in done]
    return ordered


def state(step: Step, store: Store, recorded: dict[str, str]) -> State:
    """`recorded` maps step names to the fingerprints they last had (`pipeline.history`)."""
    if store.is_sealed(step.stage, step.fingerprint):
        return State.CACHED
    if store.lock(step.stage, step.fingerprint).is_held():
        return State.RUNNING
    if store.partial(step.stage, step.fingerprint).exists():
        return State.PARTIAL
    old = recorded.get(step.name)
    return State.STALE if old and store.is_sealed(step.stage, old) else State.MISSING


def sealed_inputs(step: Work, store: Store) -> dict[str, Artifact]:
    """Those single inputs that exist already, by role."""
    return {
        role: store.artifact(value.stage, value.fingerprint)
        for role, value in step.inputs.items()
        if isinstance(value, Step) and store.is_sealed(value.stage, value.fingerprint)
    }


def inputs_as_json(work: Work, store: Store) -> dict[str, Any]:
    """All inputs in the form that a stage's `Inputs` reads. Raises UserError for one that is not sealed."""

    def artifact(step: Step) -> dict[str, Any]:
        if not store.is_sealed(step.stage, step.fingerprint):
            raise UserError(f"step {step.name}: is not done yet and is needed here; run it first")
        return store.artifact(step.stage, step.fingerprint).model_dump(mode="json")

    return {
        role: artifact(value)
        if isinstance(value, Step)
        else value and {name: artifact(part) for name, part in value.items()}
        for role, value in work.inputs.items()
    }


def unfinished_inputs(pending: list[Step], store: Store) -> dict[str, str]:
    """Names of steps that are neither sealed nor pending -> the name of a pending step that reads it."""
    todo = {step.fingerprint for step in pending}
    return {
        needed.name: step.name
        for step in pending
        for needed in step.all_dependencies()
        if needed.fingerprint not in todo and not store.is_sealed(needed.stage, needed.fingerprint)
    }
