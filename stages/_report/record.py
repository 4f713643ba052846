"""The results as data for other programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stages._report.read import Step
from stages._report.results import Comparison, Evaluation, Results, Score


def results_record(results: Results, steps: Mapping[str, Step]) -> dict[str, Any]:
    """results.json: "models", "baseline", "evaluations", "comparisons", and cost and identity of every step."""
    return {
        "models": list(results.models),
        "baseline": results.baseline,
        "evaluations": [_evaluation(each) for each in results.evaluations],
        "comparisons": [_comparison(each) for each in (*results.comparisons, *results.others)],
        "steps": {name: _step(step) for name, step in steps.items()},
    }


def headline_numbers(results: Results) -> dict[str, Any]:
    """The main metric of every benchmark against the baseline, small enough for the manifest."""
    return {
        f"{each.tuned.model}/{each.tuned.benchmark}/{each.tuned.metric}": {
            "baseline": each.base.value,
            "value": each.tuned.value,
            "difference": each.difference,
            "stderr": each.paired.stderr if each.paired else None,
            "p_value": each.paired.p_value if each.paired else None,
            "n": each.paired.n if each.paired else each.tuned.n,
        }
        for each in results.comparisons
        if each.tuned.primary
    }


def _evaluation(each: Evaluation) -> dict[str, Any]:
    return {
        "model": each.model,
        "benchmark": each.benchmark,
        "step": each.step,
        "meaningful": each.meaningful,
        "note": each.note,
        "details": dict(each.details),
        "num_items": len(each.items),
        "counts": dict(each.counts),
        "scores": [_score(score) for score in each.scores],
    }


def _score(score: Score) -> dict[str, Any]:
    left_out = {"model", "benchmark", "values", "interval"}
    fields = {key: value for key, value in vars(score).items() if key not in left_out}
    return {**fields, "interval": asdict(score.interval) if score.interval else None}


def _comparison(each: Comparison) -> dict[str, Any]:
    return {
        "benchmark": each.tuned.benchmark,
        "metric": each.tuned.metric,
        "model": each.tuned.model,
        "baseline": each.base.model,
        "meaningful": each.meaningful,
        "difference": each.difference,
        "num_fixed": len(each.fixed) if each.paired else None,
        "num_broken": len(each.broken) if each.paired else None,
        "fixed": list(each.fixed),
        "broken": list(each.broken),
        "paired": asdict(each.paired) if each.paired else None,
        "reason": each.reason,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "stage": step.stage,
        "fingerprint": step.fingerprint,
        "duration_seconds": step.duration_seconds,
        "peak_memory_bytes": step.peak_memory_bytes,
        "metrics": dict(step.metrics),
    }
