"""The identity of a step's work: sha256 over what can change its result, and nothing else."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """Text that is equal exactly when the values are equal.

    Raises TypeError for a value without a canonical form (a set, an object, NaN, a non-string key).
    """
    _refuse_ambiguous(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """64 hex digits. `inputs` maps a role to an input's fingerprint, or to a mapping of names to fingerprints."""
    identity = {"stage": stage, "version": version, "config": config, "inputs": inputs}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def _refuse_ambiguous(value: Any, where: str) -> None:
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise TypeError(f"{where}: {value} has no canonical form")
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} has no canonical form, expected a string")
            _refuse_ambiguous(item, f"{where}.{key}")
        return
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_ambiguous(item, f"{where}[{index}]")
        return
    raise TypeError(f"{where}: a {type(value).__name__} has no canonical form")
