"""Everything that can be checked before hours are spent, checked first and reported together."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline import scratch
from pipeline.downloads import require_fetched
from pipeline.errors import UserError
from pipeline.plan import Plan, sealed_inputs, workflow
from pipeline.stage import load_stage
from pipeline.step import Step, Work
from pipeline.store import Store
from pipeline.sweep import common

_AT_ONCE = 4


def check(plan: Plan, pending: list[Step], store: Store, judged: list[Step] | None = None) -> None:
    """Ask the workflow, and every stage and service, for problems. Raises UserError with all of them.

    `judged`: those of the pending steps that this machine is to do; by default all.
    """
    require_fetched()
    judged = pending if judged is None else judged
    problems = [*store_problems(store.root), *scratch.problems(), *_problems_of_recipes(plan, pending, judged)]
    asked: dict[str, tuple[str, Work]] = {}
    for step in judged:
        for work in filter(None, (step, step.service)):
            asked.setdefault(work.fingerprint, (step.name, work))
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a stage may ask another program, which takes seconds
        answers = pool.map(lambda owned: problems_of(owned[1], store), asked.values())
        for (name, _), lines in zip(asked.values(), answers, strict=True):
            problems += [f"{name}: {line}" for line in lines]
    if problems:
        raise UserError(*_grouped(problems))


def _problems_of_recipes(plan: Plan, pending: list[Step], judged: list[Step]) -> Iterator[str]:
    """What the workflow finds; of a sweep, each line once, with what the variants that have it have in common."""
    owners: dict[str, list[str]] = {}
    for variant in plan.variants:
        own, own_judged = (
            [step for step in steps if step.fingerprint in variant.fingerprints] for steps in (pending, judged)
        )
        for problem in dict.fromkeys(workflow().problems(variant.recipe, own, own_judged) if own else ()):
            owners.setdefault(problem, []).append(variant.name)
    yield from (f"{common(names) or plan.name}: {problem}" for problem, names in owners.items())


def problems_of(work: Work, store: Store) -> list[str]:
    """What the stage or service finds wrong with its own work."""
    preflight = getattr(load_stage(work.stage), "preflight", None)
    if preflight is None:
        return []
    resources = work.resources.model_copy(update={"store_dir": store.root})
    return preflight(work.config, resources, sealed_inputs(work, store))


def store_problems(root: Path) -> list[str]:
    """A line if nothing can be written there."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return [f"store {root}: cannot be written; name another with --store DIR"]
    return []


def _grouped(problems: list[str]) -> list[str]:
    """One line for a problem that several steps report, under the first one's name."""
    first: dict[str, str] = {}
    for problem in problems:
        name, _, text = problem.partition(": ")
        first.setdefault(text, name)
    return [f"{name}: {text}" for text, name in first.items()]
