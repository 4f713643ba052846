"""Say what came out. Reads every step's manifest and results; writes report.html, summary.md, results.json.

report.html is one self-contained page: scores with intervals and paired tests, the plan, training, checks of the
weights, cost, every answer, provenance. summary.md is the table a run prints. results.json holds the same numbers.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from pipeline.artifact import Artifact
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs

VERSION = 2  # evaluations without training, categories, win rates, intervals as the scorers give them


class Config(StrictModel):
    """What the report is about."""

    title: str
    description: str = ""
    models: tuple[str, ...] = Field(strict=False)
    """Names of the evaluated models, the first part of their step names, in the order they are shown."""
    baseline: str = "base"
    """The model the others are compared with."""

    @model_validator(mode="after")
    def _models_are_named_once(self) -> "Config":
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models: got {list(self.models)}, expected each name once")
        if self.baseline not in self.models:
            raise ValueError(f"baseline: got {self.baseline!r}, expected one of {list(self.models)}")
        return self


class Inputs(StrictModel):
    """Every step of the run that the report shows, by name: "math/train", "base/arithmetic/score", ..."""

    steps: dict[str, Artifact]


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """Manifests, scores and answers."""
    return _needs.streaming()


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Write the three files; returns {"<model>/<benchmark>/<metric>": {"baseline", "value", "difference", ...}}.

    Raises UserError when models cannot be compared: other settings, other items.
    """
    from stages._report.compare import read_results
    from stages._report.duels import duels
    from stages._report.notes import write_notes
    from stages._report.page import write_page
    from stages._report.read import read_steps
    from stages._report.record import headline_numbers, results_record
    from stages._report.summary import write_summary

    steps = read_steps(inputs.steps)
    results = read_results(steps, config.models, config.baseline)
    notes = write_notes(steps, results)
    _write_json(out, "results.json", {"title": config.title, **results_record(results, steps)})
    summary = write_summary(config.title, config.description, notes, results, duels(steps, results))
    (out / "summary.md").write_text(summary, encoding="utf-8")
    page = write_page(config.title, config.description, notes, steps, results)
    (out / "report.html").write_text(page, encoding="utf-8")
    return headline_numbers(results)


def _write_json(out: Workspace, name: str, value: Mapping[str, Any]) -> None:
    (out / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
