"""Find the code in a chat answer."""

import ast
import re

FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
"""A fenced block; the last one may lack its end, when the answer was cut off."""


def extract_completion(text: str, entry_point: str) -> str | None:
    """Code to put behind a HumanEval prompt, or None where the answer has none.

    The prompt (a function with only a docstring, its imports and helpers) stands before it, so a whole new definition
    of `entry_point` replaces the prompt's, and a bare body continues it.
    """
    blocks = [match.group(1) for match in FENCE.finditer(text)]
    candidates = [*blocks, "\n".join(blocks), text] if blocks else [text, *_from_definition(text, entry_point)]
    for candidate in candidates:
        if code := _defining(candidate, entry_point):
            return f"\n{code}\n"
    for candidate in candidates:
        if body := _body(candidate):
            return body
    return None


def _from_definition(text: str, entry_point: str) -> list[str]:
    """Unfenced code behind prose: from an import or the definition on."""
    starts = re.finditer(rf"^(?:import |from \w|def {re.escape(entry_point)}\b)", text, re.MULTILINE)
    return [text[match.start() :] for match in starts]


def _defining(text: str, entry_point: str) -> str | None:
    """The longest run of whole lines from the start that is valid Python and defines the function."""
    lines = text.rstrip().split("\n")
    for end in range(len(lines), 0, -1):
        tree = _parse("\n".join(lines[:end]))
        if tree is not None:
            return "\n".join(lines[:end]) if _defines(tree, entry_point) else None
    return None


def _defines(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in tree.body)


def _body(text: str) -> str | None:
    """Statements that can follow a function's docstring, indented for it; at least one must do something."""
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
