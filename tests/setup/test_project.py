"""The files around the code: make targets, CI, hooks, packages, licence."""

import os
import re
import subprocess
from pathlib import Path

import yaml
from setuptools import find_namespace_packages

ROOT = Path(__file__).parents[2]


def test_make_alone_lists_the_commands():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "quickstart", "test", "doctor", "lock", "lint", "format"):
        assert re.search(rf"^  make {target} +\S", done.stdout, re.MULTILINE)


def test_ci_runs_the_tests_that_a_user_runs():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


def test_hooks_need_no_network():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_every_folder_of_code_is_packaged():
    found = set(find_namespace_packages(str(ROOT), include=["pipeline*", "stages*"]))
    folders = {path.parent for top in ("pipeline", "stages") for path in (ROOT / top).rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} <= found


def test_licence_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_missing_system_packages_are_one_line_where_they_cannot_be_installed(tmp_path):
    (tmp_path / "id").symlink_to("/usr/bin/id")
    command = ["/bin/bash", str(ROOT / "requirements" / "debian.sh"), "id", "no-such-tool", "tool=its-package"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.startswith("debian: missing: no-such-tool its-package; tests that need them will fail")
    assert done.stderr.count("\n") == 1
