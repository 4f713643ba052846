"""What each stage's code hashed to when its VERSION was last looked at.

Refresh with `python -m tests.stages.source_hashes`.

A stage's code is its file and the private modules (`stages._*`, `stages.benchmarks._*`) it reaches; that of an adapter
method or a benchmark likewise. Comments, docstrings and layout do not count.
"""

import ast
import hashlib
import importlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_suffix(".json")


def current() -> dict[str, dict[str, object]]:
    """Module -> {"version", "sha256"} of every stage, adapter method and benchmark."""
    modules = [*_modules("stages"), *_modules("stages/adapters"), *_modules("stages/benchmarks")]
    return {module: {"version": _version(module), "sha256": _hash(module)} for module in modules}


def _modules(folder: str) -> list[str]:
    names = sorted(path.stem for path in (ROOT / folder).glob("[!_]*.py"))
    return [f"{folder.replace('/', '.')}.{name}" for name in names if name not in ("workflow", "base")]


def _version(module: str) -> int:
    loaded = importlib.import_module(module)
    return getattr(loaded, "VERSION", None) or (loaded.Config.VERSION if hasattr(loaded, "Config") else 0)


def _hash(module: str) -> str:
    code = {name: _code(name) for name in _reached(module)}
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()


def _reached(module: str) -> set[str]:
    """The module and the private ones it imports, directly or not."""
    found, queue = set[str](), [module]
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += [each for each in _imported(name) if "._" in each]
    return found


def _imported(module: str) -> list[str]:
    names = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if _file(name)]


def _code(module: str) -> str:
    """The syntax tree as text, without docstrings."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _tree(module: str) -> ast.Module:
    path = _file(module)
    assert path
    return ast.parse(path.read_text())


def _file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((each for each in candidates if each.is_file()), None)


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
    print(f"wrote {RECORD.relative_to(ROOT)}")
