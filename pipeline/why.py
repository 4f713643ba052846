"""Why a step is not cached: what differs from the artifact it had before."""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.artifact import MANIFEST
from pipeline.stage import load_stage
from pipeline.step import Step
from pipeline.store import Store


def reasons(step: Step, store: Store, recorded: dict[str, str]) -> list[str]:
    """One line per difference: `config.learning_rate: 0.0002 -> 0.0001`, `input model: changed (0a1b... -> 2c3d...)`.

    The comparison is with what this step was when the recipe last ran, else with the artifact of the same stage
    that differs least. Empty when there is nothing to compare with.
    """
    old = _previous(step, store, recorded)
    return list(differences(old, identity(step))) if old else []


def identity(step: Step) -> dict[str, Any]:
    """A step in the shape of a manifest."""
    inputs = {
        role: f"{value.stage}/{value.fingerprint}" if isinstance(value, Step)
        else {name: f"{part.stage}/{part.fingerprint}" for name, part in value.items()}
        for role, value in step.inputs.items()
        if value is not None
    }  # fmt: skip
    return {
        "version": load_stage(step.stage).VERSION,
        "config": step.config.model_dump(mode="json"),
        "canonical_config": step.config.canonical(),
        "inputs": inputs,
    }


def _previous(step: Step, store: Store, recorded: dict[str, str]) -> dict[str, Any] | None:
    recorded_path = store.directory(step.stage, recorded.get(step.name, "none")) / MANIFEST
    if recorded_path.exists():
        return json.loads(recorded_path.read_text())
    manifests = [json.loads(path.read_text()) for path in (store.root / step.stage).glob(f"*/{MANIFEST}")]
    now = identity(step)
    return min(manifests, key=lambda manifest: len(list(differences(manifest, now))), default=None)


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """One line for each, of two manifests or identities."""
    if old["version"] != new["version"]:
        yield f"stage version: {old['version']} -> {new['version']}"
    config = list(_leaf_differences("config", old["config"], new["config"]))
    if not config:  # content of local files, versions of methods: only in the hashed form
        config = list(_leaf_differences("config", old["canonical_config"], new["canonical_config"]))
    yield from config
    for role in sorted({*old["inputs"], *new["inputs"]}):
        before, after = old["inputs"].get(role), new["inputs"].get(role)
        if isinstance(before, dict) and isinstance(after, dict):
            for name in sorted({*before, *after}):
                yield from _input_difference(f"{role} {name}", before.get(name), after.get(name))
        else:
            yield from _input_difference(role, before, after)


def _input_difference(name: str, old: Any, new: Any) -> Iterator[str]:
    if old != new:
        yield f"input {name}: {_short(old)} -> {_short(new)}"


def _leaf_differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _leaf_differences(f"{path}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{path}: {json.dumps(old)} -> {json.dumps(new)}"


def _short(identity: Any) -> str:
    stage, _, fingerprint = str(identity).partition("/")
    return f"{stage}/{fingerprint[:16]}" if fingerprint else "absent"
