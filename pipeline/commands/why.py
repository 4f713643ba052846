"""`why RECIPE STEP`: which field or input changed, with its old and new value."""

import argparse

from pipeline.commands import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_step(parser)
    shared.add_store(parser)


def main(arguments: argparse.Namespace) -> int:
    from pipeline import history
    from pipeline.plan import State, state
    from pipeline.why import reasons

    plan, store = shared.open_plan(arguments)
    step = plan.find(arguments.step)
    recorded = history.read(store, arguments.recipe).steps
    now = state(step, store, recorded)
    if now == State.CACHED:
        print(f"{step.name} is cached: {store.directory(step.stage, step.fingerprint)}")
        return 0
    differences = reasons(step, store, recorded)
    print(
        f"{step.name} is {now}"
        + (":" if differences else f": no artifact of {step.stage} is in the store to compare with")
    )
    for line in differences:
        print(f"  {line}")
    return 0
