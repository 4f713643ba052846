"""YAML as a tree of nodes that remember file, line and column, so that every mistake can be pointed at.

Scalars follow YAML 1.2's core schema: 1e-4 is a number, `no` and `on` are strings, there are no dates.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

MAX_NODES = 200_000
"""A recipe whose aliases expand to more than this is refused (the "billion laughs" attack)."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """Safe loading with YAML 1.2 scalars."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+(?:_[0-9]+)*", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*)?\.?[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+\.(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, ""])


def compose(path: Path) -> yaml.MappingNode:
    """The file's top mapping. Raises UserError for what is no readable YAML mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file; YAML files beside it: {_yaml_files(path.parent)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return _mapping(compose_text(text, str(path)), str(path))


def compose_text(text: str, name: str) -> yaml.Node | None:
    """The nodes of `text`; `name` stands in every position."""
    loader = _Loader(text)
    loader.name = name
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    if node is not None:
        _rename(node, name)
        _check(node)
    return node


def plain(node: yaml.Node) -> Any:
    """The node as str, int, float, bool, None, list and dict."""
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    match node.tag.rpartition(":")[2]:
        case "int":
            return int(node.value)
        case "float":
            return float(node.value)
        case "bool":
            return node.value.lower() == "true"
        case "null":
            return None
        case _:
            return node.value


def merge(below: yaml.MappingNode, above: yaml.MappingNode) -> yaml.MappingNode:
    """`above` over `below`: mappings are merged key by key, everything else replaces what was there."""
    pairs = {key.value: (key, value) for key, value in below.value}
    for key, value in above.value:
        old = pairs.get(key.value, (None, None))[1]
        both = isinstance(old, yaml.MappingNode) and isinstance(value, yaml.MappingNode)
        pairs[key.value] = (key, merge(old, value) if both else value)
    return yaml.MappingNode(above.tag, list(pairs.values()), above.start_mark, above.end_mark)


def override(root: yaml.MappingNode, text: str, max_depth: int = -1) -> yaml.MappingNode:
    """The tree with one `--set a.b.0.c=value`; the value is YAML. Raises UserError where the path leads into a scalar.

    Dots after the first `max_depth` belong to the last key.
    """
    path, equals, value_text = text.partition("=")
    name = f"--set {text}"
    if not equals or not path:
        raise UserError(f"{name}: expected key=value, such as train.learning_rate=1e-4")
    value = compose_text(value_text, name) or yaml.ScalarNode("tag:yaml.org,2002:null", "", _nowhere(name))
    _place(value, name)
    return replaced(root, path.split(".", max_depth), value, name, _nowhere(name))


def replaced(
    root: yaml.MappingNode, keys: Sequence[str], value: yaml.Node, name: str, mark: yaml.Mark
) -> yaml.MappingNode:
    """The tree with `value` at the place that `keys` lead to; the old tree, or what shares its nodes, stays as it is.

    Keys that are missing are added, at `mark`. Raises UserError, in the name of `name`, where there can be no such key.
    """
    changed = _replaced(root, keys, value, name, mark)
    assert isinstance(changed, yaml.MappingNode)
    return changed


def _replaced(node: yaml.Node, keys: Sequence[str], value: yaml.Node, name: str, mark: yaml.Mark) -> yaml.Node:
    if not keys:
        return value
    key, *rest = keys
    if isinstance(node, yaml.SequenceNode):
        if not key.isdigit() or int(key) >= len(node.value):
            raise UserError(f"{name}: found {key!r}, expected a list index below {len(node.value)}")
        items = list(node.value)
        items[int(key)] = _replaced(items[int(key)], rest, value, name, mark)
        return yaml.SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}: {key!r} lies below the value {node.value!r}, which has no keys")
    pairs = list(node.value)
    for index, (old_key, old) in enumerate(pairs):
        if old_key.value == key:
            pairs[index] = (old_key, _replaced(old, rest, value, name, mark))
            break
    else:
        new = yaml.MappingNode("tag:yaml.org,2002:map", [], mark, mark)
        new_key = yaml.ScalarNode("tag:yaml.org,2002:str", key, mark, mark)
        pairs.append((new_key, _replaced(new, rest, value, name, mark)))
    return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)


def position(mark: yaml.Mark) -> str:
    """`file:line:column`; an override has only a name."""
    return f"{mark.name}:{mark.line + 1}:{mark.column + 1}" if mark.line >= 0 else str(mark.name)


def _mapping(node: yaml.Node | None, name: str) -> yaml.MappingNode:
    if not isinstance(node, yaml.MappingNode):
        found = "nothing" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else repr(node.value)
        raise UserError(f"{name}: found {found}, expected a mapping of keys to values")
    return node


def _check(root: yaml.Node) -> None:
    """Refuse duplicate keys, keys that are no scalars, foreign tags and alias bombs."""
    problems, count, stack = [], 0, [root]
    while stack:
        node, count = stack.pop(), count + 1
        if count > MAX_NODES:
            raise UserError(f"{root.start_mark.name}: more than {MAX_NODES} values after expanding aliases")
        where = f"{node.start_mark.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in _KNOWN_TAGS:
            problems.append(f"{where}: found the tag {node.tag!r}, expected plain YAML")
        elif isinstance(node, yaml.MappingNode):
            problems += _key_problems(node)
            stack += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
    if problems:
        raise UserError(*problems)


_KNOWN_TAGS = {"map", "seq", "str", "int", "float", "bool", "null"}


def _key_problems(node: yaml.MappingNode) -> list[str]:
    problems: list[str] = []
    seen: dict[str, int] = {}
    for key, _ in node.value:
        where = f"{key.start_mark.name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
        if not isinstance(key, yaml.ScalarNode):
            problems.append(f"{where}: found a list or mapping as a key, expected a name")
        elif key.value in seen:
            problems.append(f"{where}: {key.value}: found again, first in line {seen[key.value]}; keep one")
        else:
            seen[key.value] = key.start_mark.line + 1
    return problems


def _rename(root: yaml.Node, name: str) -> None:
    """The C parser calls every text "<unicode string>" in its marks; give them the file's name."""
    seen, stack = set(), [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        mark = node.start_mark
        node.start_mark = _mark(name, mark.index, mark.line, mark.column)
        if isinstance(node, yaml.MappingNode):
            stack += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value


def _place(node: yaml.Node, name: str) -> None:
    """An override has no line: its position is its own text."""
    node.start_mark = _nowhere(name)
    children = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    for child in children:
        _place(child, name)


def _nowhere(name: str) -> yaml.Mark:
    return _mark(name, -1, -1, -1)


def _mark(name: str, index: int, line: int, column: int) -> yaml.Mark:
    """A position without the text around it."""
    return yaml.Mark(name, index, line, column, None, 0)


def _yaml_files(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.glob("*.yaml"))) or "none"
