"""Who answered and how it was measured, from what the steps of an evaluation left on disk."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stages._report import format as show
from stages._report.read import Step, read_json
from stages._report.results import Results

Steps = Mapping[str, Step]

SHA256 = re.compile(r"[0-9a-f]{64}")
LONG = 8
"""Entries from which a nested setting is folded away."""


@dataclass(frozen=True)
class Respondent:
    """One evaluated model: a fine-tuned one, another one, or an endpoint. An unknown fact is a dash."""

    model: str
    what: str
    parameters: str
    served: str
    template: str


@dataclass(frozen=True)
class Measurement:
    """How one benchmark was asked, scored and judged: titled lists of (label, text), and what is too long for them."""

    benchmark: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    rest: Mapping[str, Any]


def respondents(steps: Steps, results: Results) -> list[Respondent]:
    """The evaluated models in their order, each by what its generate steps say."""
    asked = {model: [_generation(step) for step in _asked(steps, model)] for model in results.models}
    return [_respondent(model, records, steps) for model, records in asked.items() if records]


def measurements(steps: Steps, results: Results) -> list[Measurement]:
    """Each benchmark's settings, versions and judge; what differs between its models is named once each."""
    return [_measurement(benchmark, steps, results) for benchmark in results.benchmarks]


def opponent_of(step: Step, steps: Steps, results: Results) -> str:
    """The model that a score step's pairwise judgments compared with."""
    judged = [read_json(each.path / "judge.json") for each in _parents(step, "judge", steps)]
    wanted = {record.get("opponent_fingerprint") for record in judged}
    for model in results.models:
        if any(_generation(each).get("model_fingerprint") in wanted for each in _asked(steps, model)):
            return model
    return "another model"


def _asked(steps: Steps, model: str) -> list[Step]:
    return [step for name, step in steps.items() if step.stage == "generate" and name.startswith(f"{model}/")]


def _generation(step: Step) -> dict[str, Any]:
    path = step.path / "generation.json"
    return dict(read_json(path)) if path.exists() else {}


def _respondent(model: str, records: list[dict[str, Any]], steps: Steps) -> Respondent:
    found = [
        (_what(record, steps), _parameters(record, steps), _served(record), _template(record)) for record in records
    ]
    return Respondent(model, *(_distinct(texts) for texts in zip(*found, strict=True)))


def _what(record: Mapping[str, Any], steps: Steps) -> str:
    if endpoint := record.get("endpoint"):
        return f"{endpoint['model']} at {endpoint['url']}"
    step = _by_fingerprint(record.get("model_fingerprint"), steps)
    if step is None:
        return ""
    ancestry = [step, *_ancestors(step, steps)]
    source = next((_source(each.config) for each in ancestry if each.stage == "prepare_model"), "")
    starts = [each for each in ancestry if each.stage == "init_adapter"]
    if step.stage == "prepare_model" or not starts:
        return source or step.name
    method, rank = starts[0].metrics.get("method", "fine-tuned"), starts[0].metrics.get("rank")
    kind = "merged" if step.stage == "merge" else "adapter"
    return f"{method}{f', rank {rank}' if rank else ''}, {kind}, of {source or 'its base'}"


def _source(config: Mapping[str, Any]) -> str:
    """A prepare_model step's source in words."""
    source = config.get("source") or {}
    if source.get("kind") == "hub":
        return f"{source['name']} at {str(source.get('revision'))[:10]}"
    if source.get("kind") == "gguf":
        return f"{source['package']} {source['version']} (GGUF)"
    return str(source.get("path", ""))


def _parameters(record: Mapping[str, Any], steps: Steps) -> str:
    step = _by_fingerprint(record.get("model_fingerprint"), steps)
    found = [] if step is None else [step, *_ancestors(step, steps)]
    counts = [each.metrics.get("num_parameters") for each in found if each.stage == "prepare_model"]
    return show.count(counts[0]) if counts and counts[0] else ""


def _served(record: Mapping[str, Any]) -> str:
    if endpoint := record.get("endpoint"):
        return f"endpoint, {endpoint.get('api', 'chat')}"
    serve = record.get("serve") or {}
    known = [serve.get("engine"), serve.get("dtype"), *(serve.get("extra_arguments") or ())]
    length = [f"context {show.grouped(serve['max_model_len'])}"] if "max_model_len" in serve else []
    return ", ".join([str(each) for each in known if each] + length)


def _template(record: Mapping[str, Any]) -> str:
    return str(record.get("template_sha256") or "")[:12]


def _measurement(benchmark: str, steps: Steps, results: Results) -> Measurement:
    evaluations = list(results.of(benchmark).values())
    scored = [steps[each.step] for each in evaluations]
    asked = [_generation(step).get("benchmark") or {} for each in scored for step in _parents(each, "generate", steps)]
    scorers = [step.config.get("scorer") or {} for step in scored]
    details = [each.details for each in evaluations]
    groups = {
        "asked": _facts(asked),
        "scored": tuple(fact for fact in _facts([*scorers, *details]) if fact not in _facts(asked)),
        "judged": tuple(_judged(scored, benchmark, steps, results)),
    }
    rest = {key: value for each in (*asked, *scorers, *details) for key, value in each.items() if _is_long(value)}
    return Measurement(benchmark, tuple((name, facts) for name, facts in groups.items() if facts), rest)


def _facts(records: list[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Label -> the distinct values of all records, for what is neither unset nor long."""
    keys = dict.fromkeys(key for record in records for key in record if key != "name")
    values = {key: [record[key] for record in records if _is_said(record.get(key))] for key in keys}
    return tuple(
        (key.replace("_", " "), _distinct(_short(show.of_key(key)(value)) for value in found))
        for key, found in values.items()
        if found
    )


def _short(text: str) -> str:
    """The first digits of a sha256 are enough to recognise it."""
    return show.short(text) if SHA256.fullmatch(text) else text


def _is_said(value: Any) -> bool:
    return value is not None and value not in ("", [], {}) and not _is_long(value)


def _is_long(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and len(value) > LONG)


def _judged(scored: list[Step], benchmark: str, steps: Steps, results: Results) -> Iterator[tuple[str, str]]:
    judges = [judge for step in scored for judge in _parents(step, "judge", steps)]
    records = [read_json(judge.path / "judge.json") for judge in judges]
    if not records:
        return
    yield "judge", _distinct(_judge(record, steps) for record in records)
    for key, label in (("answered_as", "answered as"), ("mode", "mode"), ("temperature", "temperature"),
                       ("num_repeats", "repeats")):  # fmt: skip
        if text := _distinct(show.general(record[key]) for record in records if record.get(key) not in (None, [])):
            yield label, text
    if prompts := _distinct(str(record.get("prompts_sha256") or "")[:12] for record in records):
        yield "prompts sha256", prompts
    spreads = [
        f"{show.number(score.value)} ({score.model})"
        for each in results.of(benchmark).values()
        for score in each.scores
        if score.metric.endswith("_spread")
    ]
    if spreads:
        yield "spread of repeats (standard deviation)", ", ".join(spreads)


def _judge(record: Mapping[str, Any], steps: Steps) -> str:
    if endpoint := record.get("endpoint"):
        return f"{endpoint['model']} at {endpoint['url']}"
    if record.get("judged_by_itself"):
        return "the model itself"
    step = _by_fingerprint(record.get("judge_fingerprint"), steps)
    return (_source(step.config) or step.name) if step else f"model {show.short(str(record.get('judge_fingerprint')))}"


def _by_fingerprint(fingerprint: str | None, steps: Steps) -> Step | None:
    return next((step for step in steps.values() if step.fingerprint == fingerprint), None)


def _parents(step: Step, stage: str, steps: Steps) -> list[Step]:
    return [steps[name] for name in step.parents if steps[name].stage == stage]


def _ancestors(step: Step, steps: Steps) -> Iterator[Step]:
    for name in step.parents:
        yield steps[name]
        yield from _ancestors(steps[name], steps)


def _distinct(texts: Any) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
