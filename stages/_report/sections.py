"""What each section of the page shows, taken from the steps; a section without data is empty and left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from stages._report import format as show
from stages._report.plots import Curve, strip_figure, training_figure
from stages._report.read import Step, read_json, read_json_lines

Steps = Mapping[str, Step]

EMPTY = Markup("")


@dataclass(frozen=True)
class Part:
    """A titled block: the scalar metrics of one step or of several alike ones, and a figure where there is one."""

    title: str
    names: tuple[str, ...]
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    """Label -> its text for each name."""
    figure: Markup = EMPTY
    caption: str = ""


@dataclass(frozen=True)
class Cost:
    """Time and memory of a step, beside the largest of all steps (0 to 1)."""

    step: Step
    time_share: float
    memory_share: float


def facts(steps: Steps, models: Sequence[str]) -> list[tuple[str, str]]:
    """The run in a few numbers, those that its steps report."""
    durations = [step.duration_seconds for step in steps.values() if step.duration_seconds is not None]
    peaks = [step.peak_memory_bytes for step in steps.values() if step.peak_memory_bytes is not None]
    found = [
        _parameters(steps, models),
        ("method", _join(_metrics(steps, "init_adapter", "method"), str)),
        ("rank", _join(_metrics(steps, "init_adapter", "rank"), str)),
        ("trained parameters", _join(_metrics(steps, "train", "trainable_parameters"), show.count)),
        ("training tokens", _join(_metrics(steps, "train", "num_tokens"), show.count)),
        ("time of all steps", show.seconds(sum(durations)) if durations else ""),
        ("peak memory", show.size(max(peaks)) if peaks else ""),
    ]
    return [(label, text) for label, text in found if text]


def training(steps: Steps) -> Part | None:
    """Every run's curve in one figure, its key numbers below."""
    runs = {name: step for name, step in steps.items() if step.stage == "train"}
    if not runs:
        return None
    curves = {_track(name): _curve(step) for name, step in runs.items()}
    figure = training_figure(curves) if any(curve.rows for curve in curves.values()) else EMPTY
    return _part("Training", runs, figure)


def initialisation(steps: Steps) -> list[Part]:
    """What the adapter's start changed: loss on a probe batch, relative size of each matrix's first update."""
    return [_initialisation(step) for step in steps.values() if step.stage == "init_adapter"]


def merge(steps: Steps) -> Part | None:
    """How exactly each merged model equals base and adapter."""
    merged = {name: step for name, step in steps.items() if step.stage == "merge"}
    if not merged:
        return None
    layers = [row for step in merged.values() for row in read_json(step.path / "merge_report.json")["layers"]]
    label = "relative error of a layer's output"
    figure = _strips("merge", layers, "relative_error", label)
    caption = "One dot a weight matrix: merged, against base and adapter together."
    return _part("Merge, checked", merged, figure, caption)


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


def _parameters(steps: Steps, models: Sequence[str]) -> tuple[str, str]:
    """Of the base model; where there is none, of those that are evaluated as they are. A judge is neither."""
    names = ["prepare_model"] if "prepare_model" in steps else [f"{model}/prepare_model" for model in models]
    found = {name: step for name in names if (step := steps.get(name))}
    label = "base model" if "prepare_model" in steps else "models"
    return label, _join(_metrics(found, "prepare_model", "num_parameters"), show.count, " parameters")


def _metrics(steps: Steps, stage: str, key: str) -> list[Any]:
    """The distinct values of one metric over the steps of a stage."""
    values = [step.metrics.get(key) for step in steps.values() if step.stage == stage]
    return list(dict.fromkeys(value for value in values if value is not None))


def _join(values: list[Any], form: Any, unit: str = "") -> str:
    return ", ".join(form(value) + unit for value in values)


def _track(name: str) -> str:
    return name.rpartition("/")[0] or name


def _curve(step: Step) -> Curve:
    rows = read_json_lines(step.path / "metrics.jsonl")
    start, end = step.metrics.get("validation_loss_start"), step.metrics.get("validation_loss_end")
    between = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    measured = [(0, start), *between, *([] if between else [(rows[-1]["step"] if rows else 0, end)])]
    return Curve(rows, [(number, loss) for number, loss in measured if loss is not None])


def _part(title: str, steps: Steps, figure: Markup = EMPTY, caption: str = "") -> Part:
    """The scalar metrics that the steps report, named as people say them."""
    keys = dict.fromkeys(key for step in steps.values() for key, value in step.metrics.items() if _is_scalar(value))
    facts = []
    for key in keys:
        label, form = _label(key)
        facts.append((label, tuple(form(step.metrics.get(key)) for step in steps.values())))
    return Part(title, tuple(_track(name) for name in steps), tuple(facts), figure, caption)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _label(key: str) -> tuple[str, Any]:
    """What to call a metric, and how to show its value: the unit that ends its name goes into the value."""
    words = key.removeprefix("num_").replace("_", " ")
    if key.endswith("_seconds"):
        return f"{words.removesuffix(' seconds')} time", show.seconds
    return words.removesuffix(" bytes"), show.size if key in ("bytes", "bytes_read") else show.of_key(key)


def _initialisation(step: Step) -> Part:
    report = read_json(step.path / "init_report.json")
    label = "relative size of the first update, ‖s·BNA‖ / ‖W‖"
    figure = _strips(step.name.replace("/", "-"), report.get("matrices", []), "relative_update", label)
    caption = "One dot a weight matrix."
    if report.get("subtracts_start"):
        caption += " The start is subtracted from the base, so that the model at step 0 is the base model."
    return _part("Start of the adapter", {step.name: step}, figure, caption)


def _strips(name: str, rows: Iterable[Mapping[str, Any]], key: str, label: str) -> Markup:
    """A figure of a number that every matrix has, grouped by the last part of its module's name ("q_proj")."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row[key] is not None:
            groups.setdefault(row["module"].rpartition(".")[2], []).append(row[key])
    return strip_figure(name, groups, label) if groups else EMPTY
