"""What the code imports is what requirements/*.in name: nothing comes in as somebody else's dependency."""

import ast
import importlib.metadata
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor import normal_name, read_lock
from tests.setup.test_locks import direct

ROOT = Path(__file__).parents[2]
OWN = ("pipeline", "stages", "tests", "benchmarks")


def imported_names(file: Path) -> Iterator[str]:
    """Top-level names of all absolute imports of a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def third_party() -> dict[str, set[str]]:
    """Imported name -> files."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in (file for top in OWN for file in (ROOT / top).rglob("*.py")):
        for name in imported_names(file):
            if name not in sys.stdlib_module_names and name not in OWN:
                found[name].add(str(file.relative_to(ROOT)))
    return found


def test_every_import_is_a_direct_dependency():
    files = ("direct.in", "cpu.in", "cuda.in", "optional.in")
    declared = {requirement.name.lower() for name in files for requirement in direct(name)}
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        name: sorted(files)
        for name, files in third_party().items()
        if not declared & {normal_name(distribution) for distribution in distributions.get(name, [name])}
    }
    assert not undeclared, "add them to requirements/direct.in with a reason, then `make lock`"


def test_packages_for_their_files_are_never_imported():
    carriers = read_lock(ROOT / "requirements" / "data.in")
    assert carriers
    assert not {name.replace("-", "_") for name in carriers} & third_party().keys()
