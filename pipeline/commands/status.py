"""`status RECIPE`: how far each step is, from the store alone, so also while a run goes on elsewhere."""

import argparse

from pipeline.commands import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_store(parser)


def main(arguments: argparse.Namespace) -> int:
    from pipeline import history
    from pipeline.display import describe, duration
    from pipeline.job import read_progress
    from pipeline.plan import State, state
    from pipeline.stage import PROGRESS

    plan, store = shared.open_plan(arguments)
    recorded = history.read(store, arguments.recipe).steps
    width = max(len(step.name) for step in plan.steps)
    for step in plan.steps:
        now, detail = state(step, store, recorded), ""
        if now == State.CACHED:
            manifest = store.artifact(step.stage, step.fingerprint).manifest()
            detail = f"took {duration(manifest['duration_seconds'])}, {manifest['peak_memory_bytes'] / 2**30:.2f} GiB"
        elif now in (State.RUNNING, State.PARTIAL):
            partial = store.partial(step.stage, step.fingerprint)
            holder = store.lock(step.stage, step.fingerprint).holder() if now == State.RUNNING else None
            where = f"by process {holder['pid']} on {holder['host']}  " if holder else ""
            detail = where + describe(0.0, read_progress(partial / PROGRESS))
        print(f"{step.name:<{width}}  {now:<8} {detail}".rstrip())
    return 0
