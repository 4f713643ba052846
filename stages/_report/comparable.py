"""Whether two evaluations may be compared: asked with the same settings, judged and scored alike, on equal items."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages._report import format as show
from stages._report.read import Step
from stages._report.results import Evaluation

DECISIVE_STAGES = ("generate", "judge", "score")
"""Their settings must be equal; the models' own settings are what is compared."""


def problems(tuned: Evaluation, base: Evaluation, steps: Mapping[str, Step]) -> Iterator[str]:
    """Why not, one line each; nothing when they may."""
    yield from _other_settings(_decisive(tuned.step, steps), _decisive(base.step, steps))
    for each, other in ((base, tuned), (tuned, base)):
        if len(_ids(each)) < len(each.items):
            yield f"{each.step}: an item id occurs twice, expected one item an id"
        if missing := sorted(_ids(other) - _ids(each)):
            what = f"{show.items(len(missing))} of {other.step} missing ({_some(missing)})"
            yield f"{each.step}: {what}; score the same items"


def _decisive(name: str, steps: Mapping[str, Step]) -> dict[str, Step]:
    """Stage -> the step of it that led to this score."""
    found = [steps[name], *(steps[parent] for parent in steps[name].parents)]
    return {step.stage: step for step in found if step.stage in DECISIVE_STAGES}


def _other_settings(tuned: Mapping[str, Step], base: Mapping[str, Step]) -> Iterator[str]:
    for stage in DECISIVE_STAGES:
        if (stage in tuned) != (stage in base):
            name = (tuned.get(stage) or base[stage]).name
            yield f"{name}: only one of the two models has this step; evaluate both alike"
        elif stage in tuned:
            yield from _differences(tuned[stage], base[stage])


def _differences(tuned: Step, base: Step) -> Iterator[str]:
    ours, theirs = dict(_flat(tuned.config)), dict(_flat(base.config))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield f"{tuned.name}: {key} is {ours.get(key)!r}, expected {theirs.get(key)!r} as in {base.name}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("benchmark.limit", 10), ... of nested settings."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _ids(evaluation: Evaluation) -> set[str]:
    return {str(item["id"]) for item in evaluation.items}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
