"""`submit RECIPE --cluster PROFILE`: hand every step that is not cached to Slurm, as jobs that wait for each other."""

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.slurm.profile import Options, Profile
    from pipeline.slurm.refusals import Order
    from pipeline.slurm.script import Batch
    from pipeline.slurm.submission import Job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    parser.add_argument(
        "--cluster", type=Path, required=True, metavar="PROFILE",
        help="what the cluster is like: a YAML file as those in slurm/clusters/",
    )  # fmt: skip
    parser.add_argument(
        "--store", type=Path, metavar="DIR",
        help="where artifacts are kept (default: the profile's store, $PIPELINE_STORE or ./store)",
    )  # fmt: skip
    shared.add_choice(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the jobs' scripts and the calls of sbatch, submit nothing"
    )


def main(arguments: argparse.Namespace) -> int:
    from pipeline import recipe
    from pipeline.slurm import refusals, sbatch, submitting
    from pipeline.slurm.profile import Profile

    profile = recipe.load(arguments.cluster, Profile, [])
    if not arguments.dry_run:
        sbatch.require()
    arguments.store = arguments.store or profile.store or Path(os.environ.get("PIPELINE_STORE", "store"))
    order = _order(arguments, profile)
    if not order.pending:
        num_chosen = len(shared.choose(order.plan, arguments))
        print(f"nothing to do: all {num_chosen} steps asked for of {order.plan.name} are cached")
        return 0
    batch = submitting.prepare(order, "dry-run" if arguments.dry_run else submitting.new_id(order.plan))
    if arguments.dry_run:
        _print_scripts(batch)
        return 0
    with refusals.alone(order.store):
        refusals.refuse_work_in_progress(order, _command(arguments, "cancel"))
        refusals.preflight(order)
        _print_table(order, batch)
        submitting.submit(order, batch, _print_submitted)
    print(f"submission {batch.submission.id}; what next:")
    for line in (("status",), ("logs", order.pending[0].name), ("cancel",)):
        print(f"  {_command(arguments, *line)}")
    return 0


def _order(arguments: argparse.Namespace, profile: "Profile") -> "Order":
    from pipeline.slurm.refusals import Order

    plan, store = shared.open_plan(arguments)
    pending = [step for step in shared.choose(plan, arguments) if not store.is_sealed(step.stage, step.fingerprint)]
    return Order(plan, pending, arguments.recipe, arguments.overrides, arguments.cluster, profile, store)


def _command(arguments: argparse.Namespace, command: str, *words: str) -> str:
    return shared.as_command(arguments, command, words)


def _print_scripts(batch: "Batch") -> None:
    from pipeline.slurm import script, submitting

    for job, words in submitting.commands(batch):
        print(f"##### {shlex.join(words)}\n{script.render(batch, job)}")


def _print_table(order: "Order", batch: "Batch") -> None:
    jobs = batch.submission.jobs
    rows = [("job", "kind", "tasks", "resources of a task", "after")]
    for job in jobs:
        resources = _resources(order.profile.options(job.kind))
        rows.append((job.name, job.kind, str(len(job.tasks)), resources, _after(job)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    what = f"{len(order.pending)} of {len(order.plan.steps)} steps"
    print(f"{order.plan.name}: {what} to do, in {len(jobs)} job{'s' * (len(jobs) > 1)}")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _resources(options: "Options") -> str:
    parts = [f"{options.nodes} nodes" if options.nodes > 1 else ""]
    parts += [f"{options.gpus_per_node} GPUs" if options.gpus_per_node else ""]
    parts += [f"{options.cpus_per_task} cores" if options.cpus_per_task else ""]
    parts += [str(options.memory or ""), str(options.time or ""), options.partition or ""]
    return ", ".join(filter(None, parts)) or "the cluster's defaults"


def _after(job: "Job") -> str:
    some = [f"{name} {', '.join(map(str, numbers))}" for name, numbers in job.after_tasks.items()]
    return "; ".join([*job.after, *(f"{name}, task by task" for name in job.after_corresponding), *some])


def _print_submitted(job: "Job") -> None:
    print(f"submitted {job.job_id}  {job.name}", flush=True)
