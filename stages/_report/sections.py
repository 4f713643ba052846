"""What each section of the page shows, taken from the steps; a section without data is empty and left out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from stages._report import format as show
from stages._report.plots import strip_figure, training_figure
from stages._report.read import Step, read_json, read_json_lines
from stages._report.results import Comparison, Results, Score

Steps = Mapping[str, Step]

SIGNIFICANT = 0.05
EMPTY = Markup("")


@dataclass(frozen=True)
class Headline:
    """One sentence of result; `verdict` is "better", "worse" or "level"."""

    verdict: str
    text: str


@dataclass(frozen=True)
class Strip:
    """Two scores and their intervals on one axis, as fractions of its length."""

    base: tuple[float, float, float]
    """Value, low, high."""
    tuned: tuple[float, float, float]
    limit: float


@dataclass(frozen=True)
class Part:
    """A titled block: facts as label and text, and a figure where there is one."""

    title: str
    facts: tuple[tuple[str, str], ...]
    figure: Markup = EMPTY


@dataclass(frozen=True)
class Cost:
    """Time and memory of a step, beside the largest of all steps (0 to 1)."""

    step: Step
    time_share: float
    memory_share: float


def headlines(results: Results) -> list[Headline]:
    """The main metric of every meaningful benchmark against the baseline."""
    meaningful = {each.benchmark for each in results.evaluations if each.meaningful}
    main = [each for each in results.comparisons if each.tuned.primary]
    return [_headline(each) for each in main if each.tuned.benchmark in meaningful]


def verdict(comparison: Comparison) -> str:
    """Whether the paired test, at the 5 % level, says "better" or "worse"; else "level"."""
    paired = comparison.paired
    if paired is None or paired.p_value >= SIGNIFICANT or comparison.difference == 0:
        return "level"
    return "better" if (comparison.difference > 0) == comparison.tuned.higher_is_better else "worse"


def facts(steps: Steps) -> list[tuple[str, str]]:
    """The run in a few numbers, those that its steps report."""
    durations = [step.duration_seconds for step in steps.values() if step.duration_seconds is not None]
    peaks = [step.peak_memory_bytes for step in steps.values() if step.peak_memory_bytes is not None]
    found = [
        ("base model", _join(_metrics(steps, "prepare_model", "num_parameters"), show.count, " parameters")),
        ("method", _join(_metrics(steps, "init_adapter", "method"), str)),
        ("rank", _join(_metrics(steps, "init_adapter", "rank"), str)),
        ("trained parameters", _join(_metrics(steps, "train", "trainable_parameters"), show.count)),
        ("training tokens", _join(_metrics(steps, "train", "num_tokens"), show.count)),
        ("time of all steps", show.seconds(sum(durations)) if durations else ""),
        ("peak memory", show.size(max(peaks)) if peaks else ""),
    ]
    return [(label, text) for label, text in found if text]


def strip(comparison: Comparison) -> Strip:
    """Both scores on an axis from 0 to 1, 10, 100, ... whichever holds them."""
    ends = [_ends(comparison.base), _ends(comparison.tuned)]
    limit = 1.0
    while max(max(each) for each in ends) > limit:
        limit *= 10
    base, tuned = (tuple(min(1.0, max(0.0, number / limit)) for number in each) for each in ends)
    return Strip(base, tuned, limit)  # type: ignore[arg-type]


def training(steps: Steps) -> Part | None:
    """Every run's curve in one figure, its key numbers below."""
    runs = {name: step for name, step in steps.items() if step.stage == "train"}
    if not runs:
        return None
    curves = {_track(name): read_json_lines(step.path / "metrics.jsonl") for name, step in runs.items()}
    prefixes = {name: _track(name) if len(runs) > 1 else "" for name in runs}
    labels = (fact for name, step in runs.items() for fact in _labelled(step, prefixes[name]))
    return Part("Training", tuple(labels), training_figure(curves) if any(curves.values()) else EMPTY)


def initialisation(steps: Steps) -> list[Part]:
    """What the adapter's start changed: loss on a probe batch, relative size of each matrix's first update."""
    return [_initialisation(step) for step in steps.values() if step.stage == "init_adapter"]


def merges(steps: Steps) -> list[Part]:
    """How exactly each merged model equals base and adapter."""
    return [Part(step.name, tuple(_labelled(step))) for step in steps.values() if step.stage == "merge"]


def costs(steps: Steps) -> list[Cost]:
    """Every step with its share of the longest time and the highest memory."""
    times = {name: step.duration_seconds or 0 for name, step in steps.items()}
    memory = {name: step.peak_memory_bytes or 0 for name, step in steps.items()}
    longest, largest = max(times.values(), default=0) or 1, max(memory.values(), default=0) or 1
    return [Cost(step, times[name] / longest, memory[name] / largest) for name, step in steps.items()]


def provenance(steps: Steps) -> dict[str, list[tuple[Any, list[str]]]]:
    """Each recorded key but the commit: its distinct values, each with the steps that ran with it."""
    found: dict[str, list[tuple[Any, list[str]]]] = {}
    for name, step in steps.items():
        for key, value in step.provenance.items():
            if key.startswith("git_") or value is None:
                continue
            known = found.setdefault(key, [])
            names = next((names for other, names in known if other == value), None)
            names.append(name) if names is not None else known.append((value, [name]))
    return found


def _headline(each: Comparison) -> Headline:
    kind, paired = verdict(each), each.paired
    where = f"{each.tuned.benchmark} ({each.tuned.metric})"
    values = f"{show.number(each.base.value)} → {show.number(each.tuned.value)}"
    if paired is None:
        return Headline(kind, f"{each.tuned.model} on {where}: {values}; {each.reason}.")
    word = {"better": "better than", "worse": "worse than", "level": "not distinguishable from"}[kind]
    change = show.with_error(show.signed(each.difference), paired.stderr)
    return Headline(
        kind,
        f"{each.tuned.model} is {word} {each.base.model} on {where}: {values}, "
        f"a difference of {change} over {show.grouped(paired.n)} items (p {_p(paired.p_value)}).",
    )


def _p(value: float) -> str:
    text = show.p_value(value)
    return text if text.startswith("<") else f"= {text}"


def _ends(score: Score) -> tuple[float, float, float]:
    if score.interval is None:
        return score.value, score.value, score.value
    return score.value, score.interval.low, score.interval.high


def _metrics(steps: Steps, stage: str, key: str) -> list[Any]:
    """The distinct values of one metric over the steps of a stage."""
    values = [step.metrics.get(key) for step in steps.values() if step.stage == stage]
    return list(dict.fromkeys(value for value in values if value is not None))


def _join(values: list[Any], form: Any, unit: str = "") -> str:
    return ", ".join(form(value) + unit for value in values)


def _track(name: str) -> str:
    return name.rpartition("/")[0] or name


def _labelled(step: Step, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A step's scalar metrics, named as people say them."""
    for key, value in step.metrics.items():
        if isinstance(value, str | int | float):
            label, form = _label(key)
            yield f"{prefix} {label}".strip(), form(value)


def _label(key: str) -> tuple[str, Any]:
    """What to call a metric, and how to show its value: the unit that ends its name goes into the value."""
    words = key.removeprefix("num_").replace("_", " ")
    if key.endswith("_seconds"):
        return f"{words.removesuffix(' seconds')} time", show.seconds
    return words.removesuffix(" bytes"), show.size if key.endswith(("_bytes", "bytes_read")) else show.general


def _initialisation(step: Step) -> Part:
    groups = _relative_updates(read_json(step.path / "init_report.json"))
    label = "relative size of the first update, ‖s·BNA‖ / ‖W‖"
    figure = strip_figure(step.name.replace("/", "-"), groups, label) if groups else EMPTY
    return Part(step.name, tuple(_labelled(step)), figure)


def _relative_updates(report: Mapping[str, Any]) -> dict[str, list[float]]:
    """Last part of a matrix's name ("q_proj") -> relative updates of the matrices with it, in the report's order."""
    groups: dict[str, list[float]] = {}
    for row in report["matrices"]:
        if row["relative_update"] is not None:
            groups.setdefault(row["module"].rpartition(".")[2], []).append(row["relative_update"])
    return groups
