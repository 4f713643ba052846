"""A sealed result: a directory whose manifest.json was written last. Existence is completeness."""

import json
from pathlib import Path
from typing import Any

from pipeline.strict import StrictModel

MANIFEST = "manifest.json"


class Artifact(StrictModel):
    """What a step gets to see of an input: where it is and who made it."""

    path: Path
    stage: str
    fingerprint: str

    def __truediv__(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    def manifest(self) -> dict[str, Any]:
        """stage, version, fingerprint, config, inputs, files, metrics, duration_seconds, provenance."""
        return json.loads((self.path / MANIFEST).read_text())

    def metrics(self) -> dict[str, Any]:
        """What the stage's `run` returned."""
        return self.manifest()["metrics"]
