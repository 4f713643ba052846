"""`doctor`: what this machine can do, what is wrong with it, and what to do. Exit code 2 when something is wrong."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.doctor import Finding

COLOURS = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_store(parser)
    parser.add_argument("--lock", type=Path, help="compare packages with this lock file (default: the installed one)")


def main(arguments: argparse.Namespace) -> int:
    from pipeline.doctor import examine

    findings = examine(arguments.store, arguments.lock)
    _print_table(findings)
    num_wrong = sum(finding.status == "wrong" for finding in findings)
    print(f"{num_wrong} to mend" if num_wrong else "nothing is wrong")
    return 2 if num_wrong else 0


def _print_table(findings: "list[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        text = Text(finding.found)
        if finding.advice:
            text.append(f"\n-> {finding.advice}", style="dim")
        table.add_row(Text(finding.status, style=COLOURS[finding.status]), finding.topic, text)
    Console().print(table)
