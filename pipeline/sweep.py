"""`sweep:` in a recipe: the same recipe several times, each time with other values in some fields.

    sweep:                                     every combination: 2 x 2 variants
      train.learning_rate: [1e-4, 2e-4]          a field, as in `--set`, and its values
      method:                                    or any name, and sets of fields that go together, named
        lora: {init.adapter.method: lora}
        nlora: {init.adapter: {method: nlora, rank: 8}}

A list of such mappings is one block after the other; in it, a single value is as good as a list of one:

    sweep:
      - {init.adapter.rank: 8, train.learning_rate: 1e-4}
      - {init.adapter.rank: 16, train.learning_rate: [2e-4, 4e-4]}

A variant is called after its values: `learning_rate=1e-4,method=lora`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import yaml

from pipeline.errors import UserError
from pipeline.yaml_nodes import plain, position, replaced

KEY = "sweep"
MAX_VARIANTS = 10_000
"""More are taken for a mistake."""
MAX_LABEL = 40
"""Characters of a value in a name; a longer value needs a name of its own."""

_SETS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "object"}}
_BLOCK = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "oneOf": [{"type": "array", "minItems": 1}, _SETS, {"type": ["string", "number", "boolean", "null"]}]
    },
}
SCHEMA = {
    "description": "Fields, as in --set, with the values that they get in turn, in every combination; or named sets.",
    "oneOf": [_BLOCK, {"type": "array", "minItems": 1, "items": _BLOCK}, {"type": "null"}],
}
"""As JSON schema."""


@dataclass(frozen=True)
class Setting:
    """A field and the value that it gets."""

    key: yaml.ScalarNode
    value: yaml.Node

    @property
    def field(self) -> str:
        return self.key.value


@dataclass(frozen=True)
class Variant:
    """One of the recipes that a sweep stands for."""

    name: str
    settings: tuple[Setting, ...] = ()

    def apply(self, root: yaml.MappingNode) -> yaml.MappingNode:
        """The recipe with this variant's values; sections before the fields in them."""
        for setting in sorted(self.settings, key=lambda each: each.field.count(".")):
            where = f"{position(setting.key.start_mark)}: {KEY}"
            root = replaced(root, setting.field.split("."), setting.value, where, setting.key.start_mark)
        return root


@dataclass(frozen=True)
class _Axis:
    """What one key of a sweep may be: label -> settings."""

    key: yaml.ScalarNode
    points: list[tuple[str, tuple[Setting, ...]]]
    is_field: bool


def take(root: yaml.MappingNode) -> list[Variant]:
    """Remove `sweep` from the recipe; its variants, none where there is no sweep. Raises UserError."""
    pair = next((pair for pair in root.value if pair[0].value == KEY), None)
    if pair is None:
        return []
    root.value.remove(pair)
    node = pair[1]
    if node.tag.endswith(":null"):  # one in an `extends` base is switched off
        return []
    blocks = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not blocks:
        raise _refusal(node, "found an empty list, expected fields and their values")
    axes = [[_axis(key, value) for key, value in _pairs(block)] for block in blocks]
    num_variants = sum(prod(len(axis.points) for axis in block) for block in axes)
    if num_variants > MAX_VARIANTS:
        raise _refusal(node, f"found {num_variants} variants, expected at most {MAX_VARIANTS}")
    labels = _short([axis for block in axes for axis in block])
    variants = [variant for block in axes for variant in _variants(block, labels)]
    if twice := next((name for name, count in Counter(each.name for each in variants).items() if count > 1), None):
        raise _refusal(
            node, f"found two variants that would be called {twice}, expected each once; values can be named, as in "
            f"{KEY}: {{any name: {{first: {{FIELD: VALUE}}, second: {{FIELD: VALUE}}}}}}"
        )  # fmt: skip
    return variants


def check_overrides(variants: Sequence[Variant], overrides: Sequence[str]) -> None:
    """Raises UserError for a `--set` that would undo what the sweep is about."""
    swept = {setting.field: setting for variant in variants for setting in variant.settings}
    for text in overrides:
        path, _, value = text.partition("=")
        if field := next((field for field in swept if f"{field}.".startswith(f"{path}.")), None):
            raise UserError(
                f"--set {text}: {field} is swept ({position(swept[field].key.start_mark)}), so its variants would be "
                f"alike; for other values: --set '{KEY}.{field}=[{value if field == path else 'VALUE, ...'}]'"
            )


def common(names: Sequence[str]) -> str:
    """The parts that all these variants' names have: of `a=1,b=1` and `a=1,b=2` it is `a=1`, of others nothing."""
    rest = [set(name.split(",")) for name in names[1:]]
    return ",".join(part for part in names[0].split(",") if all(part in parts for parts in rest))


def _pairs(block: yaml.Node) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(block, yaml.MappingNode) or not block.value:
        raise _refusal(block, f"found {_shown(block)}, expected fields and their values, as in {{seed: [0, 1]}}")
    return block.value


def _axis(key: yaml.ScalarNode, value: yaml.Node) -> _Axis:
    if isinstance(value, yaml.MappingNode):
        return _Axis(key, [_named(key, *pair) for pair in _pairs(value)], is_field=False)
    values = value.value if isinstance(value, yaml.SequenceNode) else [value]
    if not values:
        raise _refusal(value, f"{key.value}: found an empty list, expected at least one value")
    return _Axis(key, [(_label(key, each), (Setting(key, each),)) for each in values], is_field=True)


def _named(axis: yaml.ScalarNode, name: yaml.ScalarNode, fields: yaml.Node) -> tuple[str, tuple[Setting, ...]]:
    if not isinstance(fields, yaml.MappingNode):
        raise _refusal(
            fields, f"{axis.value}.{name.value}: found {_shown(fields)}, expected fields and their values; values of "
            f"one field stand in a list: {axis.value}: [...]"
        )  # fmt: skip
    return _safe(name.value), tuple(Setting(*pair) for pair in fields.value)


def _label(key: yaml.ScalarNode, value: yaml.Node) -> str:
    """The value as it is written, for a name."""
    parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
    label = _safe("+".join(str(part.value) or "null" for part in parts if isinstance(part, yaml.ScalarNode)))
    if not all(isinstance(part, yaml.ScalarNode) for part in parts) or not 0 < len(label) <= MAX_LABEL:
        raise _refusal(
            value, f"{key.value}: found {_shown(value)}, which is no short value, expected it with a name: "
            f"{{any name: {{{key.value}: ...}}}}"
        )  # fmt: skip
    return label


def _variants(block: list[_Axis], labels: dict[str, str]) -> Iterator[Variant]:
    for points in product(*(axis.points for axis in block)):
        parts = (f"{labels[axis.key.value]}={label}" for axis, (label, _) in zip(block, points, strict=True))
        variant = Variant(",".join(parts), tuple(setting for _, settings in points for setting in settings))
        fields = Counter(setting.field for setting in variant.settings)
        if twice := next((setting for setting in variant.settings if fields[setting.field] > 1), None):
            raise _refusal(twice.key, f"{twice.field}: found twice in the variant {variant.name}, expected it once")
        yield variant


def _short(axes: list[_Axis]) -> dict[str, str]:
    """Key -> how it is called in names: as few of its last parts as tell it from the others, `rank` for one."""
    keys = {axis.key.value: axis.is_field for axis in axes}
    ends = Counter(end for key, is_field in keys.items() for end in (_ends(key) if is_field else [key]))
    return {
        key: _safe(next(end for end in _ends(key) if ends[end] == 1 or end == key) if is_field else key)
        for key, is_field in keys.items()
    }


def _ends(field: str) -> list[str]:
    parts = field.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _safe(text: str) -> str:
    """For names of steps, jobs and files."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text)


def _shown(node: yaml.Node) -> str:
    value = plain(node)
    return "nothing" if value in (None, {}, []) else repr(value)


def _refusal(node: yaml.Node, text: str) -> UserError:
    return UserError(f"{position(node.start_mark)}: {KEY}: {text}")
