"""`schema`: the recipe's JSON schema, for completion and checks in editors."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def main(_arguments: argparse.Namespace) -> int:
    from pipeline.plan import workflow

    print(json.dumps(workflow().Recipe.model_json_schema(), indent=2))
    return 0
