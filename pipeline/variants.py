"""The steps of a sweep's variants together: equal work once, each step called after the variants that it is for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipeline.step import Service, Step, Work
from pipeline.sweep import common

SomeWork = TypeVar("SomeWork", bound=Work)


@dataclass(frozen=True)
class Variant:
    """One of the recipes of a sweep, or the only one of a recipe without."""

    name: str
    """Such as `learning_rate=1e-4,seed=0`; empty without a sweep."""
    recipe: Any
    """The typed record."""
    fingerprints: frozenset[str]
    """Of its steps."""


def names_of(works: Iterable[tuple[str, str, SomeWork]]) -> tuple[dict[str, str], dict[str, SomeWork]]:
    """(fingerprint -> name, further name -> work) for (variant, name in it, work).

    Work of one variant is called `seed=0,rank=8/train`, work of several after what these have in common: `rank=8/init`
    or, of all, `prepare_model`. The full name in each of them is a further name.
    """
    owners: dict[str, list[tuple[str, str]]] = {}
    first: dict[str, SomeWork] = {}
    for variant, name, work in works:
        owners.setdefault(work.fingerprint, []).append((variant, name))
        first.setdefault(work.fingerprint, work)
    full = {fingerprint: [_joined(*owner) for owner in of_it] for fingerprint, of_it in owners.items()}
    short = {
        fingerprint: _joined(common([variant for variant, _ in of_it]), of_it[0][1])
        for fingerprint, of_it in owners.items()
    }
    claims: dict[str, set[str]] = {}
    for fingerprint in owners:
        for name in (*full[fingerprint], short[fingerprint]):
            claims.setdefault(name, set()).add(fingerprint)
    names = {key: name if len(claims[name]) == 1 else full[key][0] for key, name in short.items()}
    aliases = {name: first[key] for key, of_it in full.items() for name in of_it if name != names[key]}
    return names, aliases


def merged(steps: Mapping[str, Iterable[Step]]) -> tuple[list[Step], dict[str, Step]]:
    """(the steps, other names of them) of variant -> its steps, each of these after what it needs."""
    works = [(variant, step.name, step) for variant, of_it in steps.items() for step in of_it]
    names, aliases = names_of(works)
    made: dict[str, Step] = {}
    for _, _, step in works:
        if step.fingerprint not in made:
            service = _remade(step.service, made) if step.service else None
            made[step.fingerprint] = _remade(step, made, name=names[step.fingerprint], service=service)
    return list(made.values()), {name: made[step.fingerprint] for name, step in aliases.items()}


def services(of_variants: Mapping[str, Mapping[str, Service]], steps: Iterable[Step]) -> dict[str, Service]:
    """The services of variant -> name -> service by all their names, the short ones first; with the plan's steps."""
    works = [(variant, name, service) for variant, of_it in of_variants.items() for name, service in of_it.items()]
    names, aliases = names_of(works)
    made = {step.fingerprint: step for step in steps}
    known = {names[service.fingerprint]: service for _, _, service in works} | aliases
    return {name: _remade(service, made) for name, service in known.items()}


def _remade(work: SomeWork, made: Mapping[str, Step], **changes: Any) -> SomeWork:
    """The same work with the steps of `made` as its inputs."""

    def known(step: Step) -> Step:
        return made.get(step.fingerprint, step)

    inputs = {
        role: known(value) if isinstance(value, Step) else value and {name: known(step) for name, step in value.items()}
        for role, value in work.inputs.items()
    }
    remade = replace(work, inputs=inputs, **changes)
    remade.__dict__["fingerprint"] = work.fingerprint  # of the cached property; hashing it again takes time
    return remade


def _joined(variant: str, name: str) -> str:
    return f"{variant}/{name}" if variant else name
