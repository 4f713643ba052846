"""Find the code in a chat answer."""

import ast
import re
from collections.abc import Iterable

FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
"""A fenced block; the last one may lack its end, when the answer was cut off."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
KEPT = (*DEFINITIONS, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
"""Examples of use, prints and asserts beside the function are left out."""


def extract_completion(text: str, entry_point: str) -> str | None:
    """Code to put behind a HumanEval prompt, or None where the answer has none.

    The prompt (a function with only a docstring, its imports and helpers) stands before it, so a whole new definition
    of `entry_point` replaces the prompt's, and a bare body continues it.
    """
    definitions = extract_definitions(text, entry_point)
    if definitions is not None:
        return f"\n{definitions}"
    return next(filter(None, map(_body, _blocks(text) or [text])), None)


def extract_definitions(text: str, entry_point: str) -> str | None:
    """The definition of `entry_point` with all definitions and imports beside it, or None where the answer has none."""
    blocks = _blocks(text)
    for sources in ([blocks] if blocks else []) + [[each] for each in (text, *_behind_prose(text, entry_point))]:
        definitions = _definitions(sources)
        if entry_point in definitions:
            return "\n\n".join(definitions.values()) + "\n"
    return None


def _blocks(text: str) -> list[str]:
    return [match.group(1) for match in FENCE.finditer(text)]


def _behind_prose(text: str, entry_point: str) -> Iterable[str]:
    """Code without a fence: from an import or the definition on."""
    starts = re.finditer(rf"^(?:import |from \w|def {re.escape(entry_point)}\b)", text, re.MULTILINE)
    return (text[match.start() :] for match in starts)


def _definitions(sources: Iterable[str]) -> dict[str, str]:
    """Name -> source of what the pieces of code define and import, in order; of two definitions the first counts."""
    found: dict[str, str] = {}
    for source in sources:
        lines = source.rstrip().split("\n")
        for node in _longest_valid_start(lines):
            if isinstance(node, KEPT):
                first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
                segment = "\n".join(lines[first - 1 : node.end_lineno])
                found.setdefault(node.name if isinstance(node, DEFINITIONS) else segment, segment)
    return found


def _longest_valid_start(lines: list[str]) -> list[ast.stmt]:
    """The statements of the longest run of whole lines from the first one that is Python."""
    for end in range(len(lines), 0, -1):
        tree = _parse("\n".join(lines[:end]))
        if tree is not None:
            return tree.body
    return []


def _body(text: str) -> str | None:
    """Statements that can follow a function's docstring, indented for it; at least one must return something."""
    for body in (text.rstrip(), "\n".join(f"    {line}" for line in text.rstrip().split("\n"))):
        tree = _parse(f"def _():\n{body}")
        if tree is not None and len(tree.body) == 1 and any(isinstance(node, ast.Return) for node in ast.walk(tree)):
            return f"{body}\n"
    return None


def _parse(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
