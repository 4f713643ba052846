"""`verify RECIPE`: rehash every file of the recipe's artifacts and compare with the manifests."""

import argparse

from pipeline.commands import arguments as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_store(parser)


def main(arguments: argparse.Namespace) -> int:
    from pipeline.store import damage

    plan, store = shared.open_plan(arguments)
    problems, checked = [], 0
    for step in plan.steps:
        if store.is_sealed(step.stage, step.fingerprint):
            checked += 1
            problems += damage(store.artifact(step.stage, step.fingerprint).path, rehash=True)
    for problem in problems:
        print(problem)
    print(f"{checked} of {len(plan.steps)} artifacts are here and were rehashed: {len(problems) or 'no'} problems")
    if problems:
        print("delete the folders named above and run again: only they, and what is missing, are recomputed")
    return 1 if problems else 0
