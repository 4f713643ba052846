"""`export RECIPE STEP --to DIR`: turn the result of one step into files that other programs use."""

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.stage import Workspace
    from pipeline.step import Step
    from pipeline.store import Store

REPORT_FILE = "export.json"
OPTIONS = ("format", "rank", "dtype")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_step(parser)
    shared.add_store(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder that is empty or not there yet")
    parser.add_argument(
        "--format",
        help="peft-lora: an ordinary LoRA adapter of the untouched base, for PEFT and vLLM; merged: a whole model "
        "(default: the first that the step has)",
    )
    parser.add_argument("--rank", type=int, metavar="R", help="the nearest LoRA of rank R, with its error stated")
    parser.add_argument(
        "--dtype", help="float32, bfloat16 or float16 (default: float32, or that of the base if merged)"
    )


def main(arguments: argparse.Namespace) -> int:
    from pipeline.errors import UserError
    from pipeline.stage import load_stage

    plan, store = shared.open_plan(arguments)
    step = plan.find(arguments.step)
    stage = load_stage(step.stage)
    if not hasattr(stage, "export"):
        raise UserError(f"step {step.name}: found nothing to export, expected one of {_exportable(plan)}")
    if not store.is_sealed(step.stage, step.fingerprint):
        raise UserError(f"step {step.name}: is not done yet; first {shared.as_command(arguments)} --until {step.name}")
    options = _options(stage, step, arguments)
    with _appearing(arguments.to.resolve()) as out:
        report = {**_identity(plan, step, options), **_export(stage, step, store, out, options)}
        (out / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n")
    _print(report)
    print(f"exported to {arguments.to}")
    return 0


def _exportable(plan: "Plan") -> str:
    """Every step of the recipe that has something to export, with its formats."""
    from pipeline.stage import load_stage

    stages = {step.name: load_stage(step.stage) for step in plan.steps}
    found = [f"{name} ({', '.join(_formats(stage))})" for name, stage in stages.items() if hasattr(stage, "export")]
    return ", ".join(found) or "none: this recipe makes nothing to export"


def _formats(stage: ModuleType) -> tuple[str, ...]:
    return get_args(stage.Export.model_fields["format"].annotation)


def _options(stage: ModuleType, step: "Step", arguments: argparse.Namespace) -> Any:
    """What is asked for, as the stage's `Export`. Raises UserError for what the stage cannot do."""
    from pydantic import ValidationError

    from pipeline.errors import UserError

    given = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    try:
        return stage.Export.model_validate(given)
    except ValidationError as error:
        raise UserError(*(_mistake(details, step) for details in error.errors(include_url=False))) from None


def _mistake(details: Any, step: "Step") -> str:
    from pipeline.recipe import expected

    option = "".join(f"--{part}: " for part in details["loc"])
    match details["type"]:
        case "extra_forbidden":
            return f"{option}found {details['input']}, but {step.name} has no such choice; leave it out"
        case "value_error":
            return f"{option}{details['ctx']['error']}"
        case _:
            return f"{option}found {details['input']}, expected {expected(details['msg'])}"


@contextmanager
def _appearing(target: Path) -> Iterator["Workspace"]:
    """A folder beside `target` that takes its name when all is well, and else goes. Raises UserError if it is taken."""
    from pipeline.errors import UserError
    from pipeline.stage import Workspace

    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"--to: {target} is there already, expected an empty or a new folder")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    partial.mkdir(parents=True)
    try:
        yield Workspace(partial)
        for scratch in partial.glob(".*"):
            scratch.unlink()
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner alone; the folder follows the umask
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _export(stage: ModuleType, step: "Step", store: "Store", out: "Workspace", options: Any) -> dict[str, Any]:
    """Have the stage write into `out`; what it says of it."""
    from pipeline.child import check_inputs
    from pipeline.plan import inputs_as_json

    artifact, inputs = store.artifact(step.stage, step.fingerprint), inputs_as_json(step, store)
    check_inputs({**inputs, "itself": artifact.model_dump(mode="json")})
    typed = stage.Inputs.model_validate_json(json.dumps(inputs))
    return dict(stage.export(step.config, typed, artifact, out, options, step.resources))


def _identity(plan: "Plan", step: "Step", options: Any) -> dict[str, Any]:
    """Whose result it is."""
    origin = {"recipe": plan.name, "step": step.name, "stage": step.stage, "fingerprint": step.fingerprint}
    return {**origin, "format": options.format}


def _print(report: dict[str, Any]) -> None:
    """A line for each thing in the report; of a list of records, which may be long, only how many there are."""
    for name, value in report.items():
        for line in _lines(value):
            print(f"{name}: {line}")


def _lines(value: Any) -> list[str]:
    from pipeline.display import metrics

    if isinstance(value, list):
        records = [item for item in value if isinstance(item, dict)]
        return [f"{len(records)}, each in {REPORT_FILE}"] if records else [str(item) for item in value]
    return [metrics({"metrics": value if isinstance(value, dict) else {"": value}}).strip()]
