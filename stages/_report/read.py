"""What a sealed step left on disk, read without judging it: its manifest and its JSON files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.errors import UserError


@dataclass(frozen=True)
class Step:
    """A finished step; whatever its manifest does not say is None or empty, never guessed."""

    name: str
    stage: str
    fingerprint: str
    version: int | None
    path: Path
    config: Mapping[str, Any]
    parents: tuple[str, ...]
    """Names of the steps whose artifacts it read."""
    metrics: Mapping[str, Any]
    finished_at: str | None
    duration_seconds: float | None
    peak_memory_bytes: int | None
    provenance: Mapping[str, Any]


def read_steps(artifacts: Mapping[str, Artifact]) -> dict[str, Step]:
    """Every step by name, inputs before the steps that read them, otherwise in alphabetical order."""
    manifests = {name: artifacts[name].manifest() for name in sorted(artifacts)}
    names = {artifacts[name].fingerprint: name for name in reversed(manifests)}
    steps = {name: _step(name, artifacts[name], manifest, names) for name, manifest in manifests.items()}
    ordered: dict[str, Step] = {}
    for name in steps:
        _add_after_parents(name, steps, ordered)
    return ordered


def read_json(path: Path) -> Any:
    """A JSON file. Raises UserError when it is absent or not JSON."""
    return _parse(path, _text(path), "")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises UserError when it is absent or a line is not an object."""
    rows = [_parse(path, line, f":{number}") for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number} is a {type(row).__name__}, expected an object")
    return rows


def _step(name: str, artifact: Artifact, manifest: Mapping[str, Any], names: Mapping[str, str]) -> Step:
    read = (names.get(identity.rpartition("/")[2]) for identity in _leaves(manifest.get("inputs") or {}))
    return Step(
        name=name,
        stage=artifact.stage,
        fingerprint=artifact.fingerprint,
        version=manifest.get("version"),
        path=artifact.path,
        config=manifest.get("config") or {},
        parents=tuple(dict.fromkeys(parent for parent in read if parent is not None)),
        metrics=manifest.get("metrics") or {},
        finished_at=manifest.get("finished_at"),
        duration_seconds=manifest.get("duration_seconds"),
        peak_memory_bytes=manifest.get("peak_memory_bytes"),
        provenance=manifest.get("provenance") or {},
    )


def _add_after_parents(name: str, steps: Mapping[str, Step], ordered: dict[str, Step]) -> None:
    if name in ordered:
        return
    for parent in sorted(steps[name].parents):
        _add_after_parents(parent, steps, ordered)
    ordered[name] = steps[name]


def _leaves(inputs: Mapping[str, Any]) -> Iterator[str]:
    """The "stage/fingerprint" texts of a manifest's inputs, whose values may be mappings of names to them."""
    for value in inputs.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif isinstance(value, str):
            yield value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; delete its folder and run again") from error


def _parse(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}{where}: not JSON ({error}); delete its folder and run again") from error
