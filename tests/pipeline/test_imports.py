"""Planning is quick because it loads no machine-learning library; and imports go one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT

HEAVY = {
    *{"torch", "transformers", "vllm", "deepspeed", "peft", "datasets", "lm_eval", "numpy", "fastchat", "matplotlib"},
    *{"math_verify", "sympy"},
}
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[!_]*.py"))


@pytest.mark.parametrize(
    "module", [*(f"stages.{name}" for name in STAGES), "pipeline.cli", "pipeline.runner", "pipeline.plan"]
)
def test_it_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not HEAVY & set(loaded)


def test_the_engine_names_no_stage():
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert not {name for name in _imported(path) if name.split(".")[0] == "stages"}, path


def test_stages_do_not_import_each_other():
    for name in STAGES:
        if name == "workflow":  # it wires them
            continue
        public = {f"stages.{other}" for other in STAGES if other != name}
        assert not public & _imported(ROOT / "stages" / f"{name}.py"), name


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names
