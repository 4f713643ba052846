"""Whether two evaluations may be compared: asked with the same settings, judged and scored alike, on equal items."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages._report import format as show
from stages._report.read import Step, read_json
from stages._report.results import Evaluation

DECISIVE_STAGES = ("generate", "judge", "score")
"""Their settings must be equal, apart from those that belong to the models, which are what is compared."""
OF_THE_MODEL = {"generate": ("endpoint", "serve", "template"), "judge": ("serve", "template")}
"""Where a model is asked, in which precision and through which template."""


def problems(tuned: Evaluation, base: Evaluation, steps: Mapping[str, Step]) -> Iterator[str]:
    """Why not, one line each; nothing when they may."""
    ours, theirs = _decisive(tuned.step, steps), _decisive(base.step, steps)
    yield from _other_settings(ours, theirs)
    if tuned.meaningful and base.meaningful and "judge" in ours and "judge" in theirs:
        yield from _other_judges(ours["judge"], theirs["judge"])
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
    ours, theirs = _shared_settings(tuned), _shared_settings(base)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield f"{tuned.name}: {key} is {ours.get(key)!r}, expected {theirs.get(key)!r} as in {base.name}"


def _other_judges(tuned: Step, base: Step) -> Iterator[str]:
    """Ratings of two judges, or win rates against two opponents, cannot be compared."""
    ours, theirs = read_json(tuned.path / "judge.json"), read_json(base.path / "judge.json")
    for key, who in (("judge_fingerprint", "judge"), ("opponent_fingerprint", "opponent")):
        if ours.get(key) != theirs.get(key):
            yield f"{tuned.name}: another {who} than that of {base.name}; let one {who} meet both models"


def _shared_settings(step: Step) -> dict[str, Any]:
    own = OF_THE_MODEL.get(step.stage, ())
    return dict(_flat({key: value for key, value in step.config.items() if key not in own}))


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
