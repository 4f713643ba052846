"""Arguments that several commands share, and what they stand for."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.step import Step
    from pipeline.store import Store


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """RECIPE and --set."""
    parser.add_argument("recipe", type=Path, help="a YAML recipe, such as recipes/quickstart.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="replace one field, such as train.learning_rate=1e-4; may be given often",
    )  # fmt: skip


def add_step(parser: argparse.ArgumentParser) -> None:
    """STEP."""
    parser.add_argument("step", help="a step's name, as `plan` shows it")


def add_store(parser: argparse.ArgumentParser) -> None:
    """--store."""
    parser.add_argument(
        "--store", type=Path, default=Path(os.environ.get("PIPELINE_STORE", "store")), metavar="DIR",
        help="where artifacts are kept (default: $PIPELINE_STORE or ./store)",
    )  # fmt: skip


def add_choice(parser: argparse.ArgumentParser) -> None:
    """--until and --only."""
    parser.add_argument("--until", metavar="STEP", help="stop after this step")
    parser.add_argument(
        "--only", metavar="STEP", action="append", default=[],
        help="do this step alone, or several that are named so; what they read must be cached or among them",
    )  # fmt: skip


def choose(plan: "Plan", arguments: argparse.Namespace) -> "list[Step]":
    """The steps that --only or --until name, in plan order; all without."""
    if arguments.only:
        wanted = [plan.find(name) for name in arguments.only]
        return [step for step in plan.steps if step in wanted]
    if arguments.until:
        return plan.upstream([plan.find(arguments.until)])
    return plan.steps


def add_fetched(parser: argparse.ArgumentParser) -> None:
    """--fetched."""
    parser.add_argument(
        "--fetched", type=Path, metavar="DIR",
        help="a folder that `fetch` filled, to be read instead of the network (default: $PIPELINE_FETCHED)",
    )  # fmt: skip


def add_max_parallel(parser: argparse.ArgumentParser) -> None:
    """--max-parallel."""
    parser.add_argument(
        "--max-parallel", type=_at_least_one, default=1, metavar="N",
        help="run up to N independent steps side by side, as far as cores, memory and GPUs suffice (default: 1)",
    )  # fmt: skip


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, must be a number >= 1")
    return int(text)


def open_plan(arguments: argparse.Namespace, track: str | None = None) -> "tuple[Plan, Store]":
    """The planned recipe, or that track of it alone, and the store that the arguments name."""
    from pipeline import plan
    from pipeline.downloads import use_fetched
    from pipeline.store import Store

    if fetched := getattr(arguments, "fetched", None):
        use_fetched(fetched)
    return plan.load(arguments.recipe, arguments.overrides, track), Store(arguments.store)


def as_command(arguments: argparse.Namespace, command: str = "run", options: Sequence[str] = ()) -> str:
    """The command that continues this work, ready to paste."""
    words = ["python", "-m", "pipeline", command, str(arguments.recipe), *options]
    for override in arguments.overrides:
        words += ["--set", override]
    if getattr(arguments, "max_parallel", 1) > 1:
        words += ["--max-parallel", str(arguments.max_parallel)]
    if str(arguments.store) != os.environ.get("PIPELINE_STORE", "store"):
        words += ["--store", str(arguments.store)]
    if fetched := getattr(arguments, "fetched", None):
        words += ["--fetched", str(fetched)]
    return shlex.join(words)
