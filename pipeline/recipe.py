"""Read a recipe: YAML text to a typed record, or every mistake in it as `file:line:column: key: found, expected`."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline import sweep
from pipeline.errors import UserError
from pipeline.yaml_nodes import compose, merge, override, plain, position

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Mistake:
    """One thing wrong, and where."""

    mark: yaml.Mark
    text: str

    def order(self) -> tuple[str, int, int]:
        """As they stand in the files."""
        return self.mark.name, self.mark.line, self.mark.column

    def told(self, variants: Sequence[str] = ()) -> str:
        """One line, with what the names of these variants have in common."""
        common = sweep.common(variants) if variants else ""
        return f"{position(self.mark)}: {f'variant {common}: ' if common else ''}{self.text}"


def load(path: Path, kind: type[Model], overrides: Sequence[str]) -> Model:
    """The record at `path`, with its `extends:` base below it and `--set key=value` on top; without a sweep.

    Raises UserError with one line for each mistake, all of them at once.
    """
    node = _compose(path)
    for text in overrides:
        node = override(node, text)
    read = _read(node, kind, path)
    if isinstance(read, list):
        raise UserError(*dict.fromkeys(mistake.told() for mistake in read))
    return read


def load_variants(path: Path, kind: type[Model], overrides: Sequence[str]) -> dict[str, Model]:
    """The same of a recipe that may have a `sweep:`: name -> record; "" -> the only one without a sweep.

    `--set sweep.FIELD=[...]` changes the sweep; any other applies to every variant, on top of what it sets.
    Raises UserError with one line for each mistake, all of them at once.
    """
    node = _compose(path)
    about_sweep = [text for text in overrides if f"{text.partition('=')[0]}.".startswith(f"{sweep.KEY}.")]
    for text in about_sweep:
        node = override(node, text, max_depth=1)
    variants = sweep.take(node)
    others = [text for text in overrides if text not in about_sweep]
    sweep.check_overrides(variants, others)
    read = {each.name: _variant(each, node, kind, path, others) for each in variants or [sweep.Variant("")]}
    if any(isinstance(result, list) for result in read.values()):
        raise UserError(*_told({name: result for name, result in read.items() if isinstance(result, list)}, len(read)))
    return {name: result for name, result in read.items() if not isinstance(result, list)}


def _variant(
    variant: sweep.Variant, node: yaml.MappingNode, kind: type[Model], path: Path, overrides: Sequence[str]
) -> "Model | list[Mistake]":
    node = variant.apply(node)
    for text in overrides:
        node = override(node, text)
    return _read(node, kind, path, also=("extends", sweep.KEY))


def _told(mistakes: Mapping[str, list[Mistake]], num_variants: int) -> list[str]:
    """Each mistake once, with the variants that make it, unless all do."""
    variants: dict[str, list[str]] = {}
    first: dict[str, Mistake] = {}
    for name, found in mistakes.items():
        for mistake in found:
            first.setdefault(mistake.told(), mistake)
            variants.setdefault(mistake.told(), []).append(name)
    return [
        mistake.told(names if (names := variants[line]) and len(names) < num_variants else ())
        for line, mistake in sorted(first.items(), key=lambda pair: pair[1].order())
    ]


def _compose(path: Path) -> yaml.MappingNode:
    """The file's nodes over those of its base."""
    node = compose(path)
    if base := _take_extends(node, path):
        below = compose(base)
        if _take_extends(below, base):
            raise UserError(
                f"{base}: extends: found a second level, expected a recipe without `extends`; merge the two"
            )
        node = merge(below, node)
    return node


def _read(
    node: yaml.MappingNode, kind: type[Model], path: Path, also: Sequence[str] = ("extends",)
) -> "Model | list[Mistake]":
    """`also`: keys that were taken out of it."""
    try:
        return kind.model_validate_json(json.dumps(plain(node)), context={"base_dir": path.parent})
    except ValidationError as error:
        mistakes = [_mistake(details, node, kind, also) for details in error.errors(include_url=False)]
        return sorted(mistakes, key=Mistake.order)


def schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a recipe, with the keys that are gone when its record is made."""
    made = kind.model_json_schema()
    extends = {"type": "string", "description": "A recipe beside this one, of which this one only says what differs."}
    return made | {"properties": {**made["properties"], "extends": extends, sweep.KEY: sweep.SCHEMA}}


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


def _mistake(details: Any, root: yaml.MappingNode, kind: type[BaseModel], also: Sequence[str]) -> Mistake:
    """Pydantic's complaint in the words and the place of the recipe."""
    node, key_node, keys = _find(root, details["loc"])
    key = ".".join(keys) or "recipe"
    where = (key_node if details["type"] == "extra_forbidden" else node).start_mark
    found = _shown(details["input"])
    match details["type"]:
        case "extra_forbidden":
            known = sorted({*_known_keys(kind, details["loc"][:-1]), *(also if len(details["loc"]) == 1 else ())})
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


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
