"""The command line: `python -m pipeline COMMAND ...`.

Exit codes: 0 done, 1 a step failed, 2 the input is wrong, 75 stopped but resumable.
"""

import argparse
import importlib
import os
import sys

COMMANDS = {
    "run": "run a recipe: every step that is not cached",
    "submit": "hand a recipe to Slurm: every step that is not cached",
    "logs": "show what a step wrote, and its job",
    "cancel": "take back what was submitted for a recipe",
    "evaluate": "ask, score and report what is trained already; --rescore needs no model",
    "serve": "serve a finished model for people to talk to",
    "fetch": "bring what a recipe reads from the network into a folder, for machines without one",
    "plan": "show the steps of a recipe and what is cached, stale or missing",
    "why": "tell which field or input made a step stale",
    "status": "show how far a recipe is, also while it runs elsewhere",
    "show": "show one step: config, metrics, files, log",
    "export": "turn the result of a step into files for other programs: a LoRA adapter, a merged model",
    "verify": "rehash every file of a recipe's artifacts",
    "gc": "delete what no recipe reaches (only with --delete)",
    "schema": "print the recipe's JSON schema, for editors",
    "doctor": "tell what this machine can do and what is wrong with it",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    parsed = _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
    command = importlib.import_module(f"pipeline.commands.{parsed.command}")
    from pipeline.errors import PipelineError

    try:
        return command.main(parsed)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 75
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser; a command's own arguments are only built for the command in use."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="From a YAML recipe to a fine-tuned, merged, served and evaluated language model.",
        epilog="`python -m pipeline COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=text)
        if name in arguments:
            importlib.import_module(f"pipeline.commands.{name}").add_arguments(subparser)
    return parser
