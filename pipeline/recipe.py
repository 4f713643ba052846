"""Read a recipe: YAML text to a typed record, or every mistake in it as `file:line:column: key: found, expected`."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import UserError
from pipeline.yaml_nodes import compose, merge, override, plain

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Mistake:
    """One thing wrong, and where."""

    mark: yaml.Mark
    text: str

    def order(self) -> tuple[str, int, int]:
        """As they stand in the files."""
        return self.mark.name, self.mark.line, self.mark.column

    def __str__(self) -> str:
        return f"{position(self.mark)}: {self.text}"


def load(path: Path, kind: type[Model], overrides: list[str]) -> Model:
    """The recipe at `path`, with its `extends:` base below it and `--set key=value` on top.

    Raises UserError with one line for each mistake, all of them at once.
    """
    node = compose(path)
    if base := _take_extends(node, path):
        below = compose(base)
        if _take_extends(below, base):
            raise UserError(
                f"{base}: extends: found a second level, expected a recipe without `extends`; merge the two"
            )
        node = merge(below, node)
    for text in overrides:
        override(node, text)
    try:
        return kind.model_validate_json(json.dumps(plain(node)), context={"base_dir": path.parent})
    except ValidationError as error:
        mistakes = [_mistake(details, node, kind) for details in error.errors(include_url=False)]
        raise UserError(*dict.fromkeys(map(str, sorted(mistakes, key=Mistake.order)))) from None


def _take_extends(node: yaml.MappingNode, path: Path) -> Path | None:
    for pair in node.value:
        key, value = pair
        if key.value == "extends":
            node.value.remove(pair)
            if not isinstance(value, yaml.ScalarNode) or not (path.parent / value.value).is_file():
                where, found = position(value.start_mark), _shown(plain(value))
                raise UserError(f"{where}: extends: found {found}, expected a recipe beside this one")
            return path.parent / value.value
    return None


def _mistake(details: Any, root: yaml.MappingNode, kind: type[BaseModel]) -> Mistake:
    """Pydantic's complaint in the words and the place of the recipe."""
    node, key_node, keys = _find(root, details["loc"])
    key = ".".join(keys) or "recipe"
    where = (key_node if details["type"] == "extra_forbidden" else node).start_mark
    found = _shown(details["input"])
    match details["type"]:
        case "extra_forbidden":
            known = sorted(_known_keys(kind, details["loc"][:-1]))
            return Mistake(where, f"{key}: unknown key{_nearest(keys[-1], known)}")
        case "missing":
            return Mistake(where, f"{key}: missing, expected {details['loc'][-1]!r} here")
        case "union_tag_invalid":
            tags = [tag.strip("' ") for tag in details["ctx"]["expected_tags"].split(",")]
            tag = details["ctx"]["tag"]
            discriminator = details["ctx"]["discriminator"].strip("'")
            node = _child(node, discriminator) or node
            return Mistake(
                node.start_mark,
                f"{key}.{discriminator}: found {tag!r}, expected one of {', '.join(tags)}{_did_you_mean(tag, tags)}",
            )
        case "union_tag_not_found":
            return Mistake(where, f"{key}: missing, expected {details['ctx']['discriminator']} here")
        case "value_error":
            return Mistake(where, f"{key}: {details['ctx']['error']}")
        case _:
            return Mistake(where, f"{key}: found {found}, expected {expected(details['msg'])}")


def _find(root: yaml.Node, location: tuple[Any, ...]) -> tuple[yaml.Node, yaml.Node, list[str]]:
    """The deepest node that `location` leads to, the node of its key, and the keys as a user would write them.

    Pydantic puts the tags of unions into its locations; what is no key of the recipe is passed over, except at the end.
    """
    node, key_node, keys = root, root, []
    for index, part in enumerate(location):
        child, child_key = _child(node, part), _child_key(node, part)
        if child is not None:
            node, key_node = child, child_key or child
            keys.append(str(part))
        elif index == len(location) - 1 and isinstance(part, str):
            keys.append(part)
    return node, key_node, keys


def _child(node: yaml.Node, key: Any) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key]
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    return None


def _child_key(node: yaml.Node, key: Any) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((name for name, _ in node.value if name.value == key), None)
    return None


def _known_keys(kind: Any, location: tuple[Any, ...]) -> set[str]:
    """The keys of the record at `location`, following fields, list items, mapping values and union tags."""
    candidates = _records(kind)
    for part in location:
        if isinstance(part, str) and any(part in record.model_fields for record in candidates):
            candidates = [
                found for record in candidates if part in record.model_fields
                for found in _records(record.model_fields[part].annotation)
            ]  # fmt: skip
        elif tagged := [record for record in candidates if part in _tags(record)]:
            candidates = tagged
    return {name for record in candidates for name in record.model_fields}


def _records(annotation: Any) -> list[type[BaseModel]]:
    """The record types inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict) or get_args(annotation):
        return [record for argument in get_args(annotation) for record in _records(argument)]
    return []


def _tags(record: type[BaseModel]) -> set[Any]:
    return {tag for field in record.model_fields.values() for tag in get_args(field.annotation) if isinstance(tag, str)}


def _nearest(word: Any, known: list[str]) -> str:
    return _did_you_mean(word, known) or (f", expected one of {', '.join(known)}" if known else "")


def _did_you_mean(word: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def expected(message: str) -> str:
    """Pydantic's message without its opening words, so that it reads on after "expected"."""
    if message.startswith("Input should be a valid "):
        what = message.removeprefix("Input should be a valid ")
        return f"an {what}" if what[0] in "aeiou" else f"a {what}"
    return message.removeprefix("Input should be ").removeprefix("Value should have ").removeprefix("String should ")


def position(mark: yaml.Mark) -> str:
    """`file:line:column`; an override has only a name."""
    return f"{mark.name}:{mark.line + 1}:{mark.column + 1}" if mark.line >= 0 else str(mark.name)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
