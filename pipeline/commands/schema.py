"""`schema`: the recipe's JSON schema, for completion and checks in editors."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def main(_arguments: argparse.Namespace) -> int:
    from pipeline.plan import workflow
    from pipeline.recipe import schema

    print(json.dumps(schema(workflow().Recipe), indent=2))
    return 0
