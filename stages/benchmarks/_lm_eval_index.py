"""Where an lm-eval task, group or tag is defined, and which data sets of the hub it reads, found without lm-eval.

Its TaskManager takes seconds to read its thousands of files; planning and preflight may not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

TASKS_DIR = Path(__file__).with_name("tasks")


LOADERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""A `dataset_path` that is no data set, but the form of files."""
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
ON_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)")
NLTK = re.compile(r"nltk\.download\([\"'](\w+)[\"']")
IN_PYTHON = re.compile(r"^ +DATASET_PATH *= *[\"']([\w./-]+)[\"']", re.MULTILINE)


class DataSet(NamedTuple):
    """A data set of the hub, at the revision that the task asks for."""

    name: str
    revision: str = "main"


@dataclass(frozen=True)
class Definition:
    """One YAML file of a task or group."""

    data_sets: frozenset[DataSet]
    children: frozenset[str]
    folder: Path | None = None


def data_sets(name: str) -> frozenset[DataSet]:
    """What its tasks read, such as {("openai/gsm8k", "main")}; empty where that is not found that easily."""
    folder = home(name)
    if folder is None:
        return frozenset()
    found = _definitions(folder)
    return frozenset().union(*(found[each].data_sets for each in _closure(name, found)))


def nltk_packages(name: str) -> frozenset[str]:
    """What the tasks' code loads through NLTK from its own server, such as {"punkt_tab"}."""
    folder = home(name)
    if folder is None:
        return frozenset()
    found = _definitions(folder)
    places = {found[each].folder for each in _closure(name, found)} - {None}
    return frozenset(package for place in places if place for package in _nltk_packages(place))


@cache
def _nltk_packages(folder: Path) -> frozenset[str]:
    code = (file.read_text(errors="replace") for file in folder.glob("*.py"))
    return frozenset(package for text in code for package in NLTK.findall(text))


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
            definitions.setdefault(name, Definition(_data_sets(file, text), children, file.parent))
            for tag in _values("tag", text):
                tagged.setdefault(tag, set()).add(name)
    tags = {tag: Definition(frozenset(), frozenset(names)) for tag, names in tagged.items()}
    return {**tags, **definitions}


def _data_sets(file: Path, text: str) -> frozenset[DataSet]:
    """Of the hub: by name, by the addresses of files, or as the task's class in Python has it."""
    revision = next(iter(re.findall(r"^ +revision: *([\w./-]+)", text, re.MULTILINE)), "main")
    named = {DataSet(path, revision) for path in _values("dataset_path", text)[:1] if path not in LOADERS}
    named |= {DataSet(path) for path in ON_HUB.findall(text)}
    named = {each for each in named if NAME.fullmatch(each.name)}  # a task may name a folder of its author's
    for module in re.findall(r"^class: *!function +(\w+)\.", text, re.MULTILINE):
        if (code := file.with_name(f"{module}.py")).is_file():
            named |= {DataSet(path) for path in IN_PYTHON.findall(code.read_text(errors="replace"))}
    return frozenset(named)


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
