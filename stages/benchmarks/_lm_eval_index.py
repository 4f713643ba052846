"""Where an lm-eval task, group or tag is defined, and which data sets of the hub it reads, found without lm-eval.

Its TaskManager takes seconds to read its thousands of files; planning and preflight may not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

TASKS_DIR = Path(__file__).with_name("tasks")


@dataclass(frozen=True)
class Definition:
    """One YAML file of a task or group."""

    data_sets: frozenset[str]
    children: frozenset[str]


def data_sets(name: str) -> frozenset[str]:
    """The `dataset_path`s, such as {"openai/gsm8k"}; empty where they are not found that easily (tasks in Python)."""
    folder = home(name)
    if folder is None:
        return frozenset()
    found = _definitions(folder)
    return frozenset().union(*(found[each].data_sets for each in _closure(name, found)))


def home(name: str) -> Path | None:
    """The smallest folder known to define it and all below it; None where YAML files do not tell."""
    for folder in _folders(name):
        found = _definitions(folder)
        if name in found and _closure(name, found) <= found.keys():
            return folder
    return None


def _folders(name: str) -> Iterator[Path]:
    """Where to look, the likely first: a task's name mostly begins with that of its folder."""
    yield TASKS_DIR
    package = find_spec("lm_eval")
    for location in (package.submodule_search_locations or ()) if package else ():
        root = Path(location, "tasks")
        near = [folder for folder in root.iterdir() if folder.is_dir() and name.startswith(folder.name)]
        yield from sorted(near, key=lambda folder: -len(folder.name))
        yield root


def _closure(name: str, definitions: dict[str, Definition]) -> set[str]:
    """The name and all below it, those that are not defined here too."""
    names, found = {name}, [name]
    while found:
        new = definitions[found.pop()].children - names
        names |= new
        found += [child for child in new if child in definitions]
    return names


@cache
def _definitions(folder: Path) -> dict[str, Definition]:
    """By name: of tasks, groups and tags."""
    definitions: dict[str, Definition] = {}
    tagged: dict[str, set[str]] = {}
    for file in folder.rglob("*.yaml"):
        text = _with_included(file)
        group = _values("group", text)
        for name in (group or _values("task", text))[:1]:
            children = frozenset(_values("task", text) if group else ())
            on_hub = frozenset(path for path in _values("dataset_path", text)[:1] if "/" in path)
            definitions.setdefault(name, Definition(on_hub, children))
            for tag in _values("tag", text):
                tagged.setdefault(tag, set()).add(name)
    tags = {tag: Definition(frozenset(), frozenset(names)) for tag, names in tagged.items()}
    return {**tags, **definitions}


def _with_included(file: Path) -> str:
    """Its text, and those of the files that it includes, in the order of their authority."""
    text = file.read_text(encoding="utf-8", errors="replace")
    for included in _values("include", text)[:1]:
        if (other := file.parent / included).is_file():
            return f"{text}\n{_with_included(other)}"
    return text


def _values(key: str, text: str) -> list[str]:
    """The value of a key at the top of a YAML file, or the items of its list (of mappings: their `task`)."""
    block = re.search(rf"^[\"']?{key}[\"']?: *((?:\n *-.*|\n {{2,}}.*|\n *#.*)+)", text, re.MULTILINE)
    if block:
        return re.findall(r"^ *- *(?:(?:task|group): *)?[\"']?([\w./:+-]+)", block[1], re.MULTILINE)
    return re.findall(rf"^[\"']?{key}[\"']?: *[\"']?([\w./:+-]+)", text, re.MULTILINE)
