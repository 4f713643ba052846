"""Sealed steps with made-up numbers in the stages' real formats, for the tests of the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.fingerprint import fingerprint
from pipeline.store import Store, seal

PROVENANCE = {
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "python": "3.11.7",
    "packages": {"peft": "0.21.2", "torch": "2.13.0+cpu"},
    "hardware": {"cpu": "a CPU", "num_cores": 2, "gpus": []},
}


class SyntheticRun:
    """Writes steps into a store and remembers them by name."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.steps: dict[str, Artifact] = {}

    def add(
        self,
        name: str,
        inputs: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        duration_seconds: float = 1.0,
        provenance: Mapping[str, Any] = PROVENANCE,
        **metrics: Any,
    ) -> Artifact:
        """Seal a step; `inputs` names earlier steps, `files` maps file names to their text."""
        stage, config = name.rpartition("/")[2], dict(config or {})
        read = [self.steps[each] for each in inputs]
        roles = {f"input_{number}": f"{each.stage}/{each.fingerprint}" for number, each in enumerate(read)}
        identity = fingerprint(stage, 1, {**config, "step": name}, roles)
        partial = self.store.partial(stage, identity)
        partial.mkdir(parents=True)
        for file, text in (files or {}).items():
            (partial / file).write_text(text, encoding="utf-8")
        manifest = {
            "format": 1, "stage": stage, "version": 1, "fingerprint": identity, "config": config, "inputs": roles,
            "metrics": metrics, "finished_at": "2026-01-02T03:04:05+00:00", "duration_seconds": duration_seconds,
            "peak_memory_bytes": 300_000_000, "provenance": dict(provenance),
        }  # fmt: skip
        seal(partial, self.store.directory(stage, identity), manifest)
        self.steps[name] = self.store.artifact(stage, identity)
        return self.steps[name]

    def add_score(
        self,
        model: str,
        benchmark: str,
        items: Sequence[Mapping[str, Any]],
        inputs: Sequence[str] = (),
        metric: str = "exact_match",
        **changes: Any,
    ) -> Artifact:
        """Seal a score step whose main metric is the mean of the items' scores; `changes` go into scores.json."""
        values = [item["score"] for item in items if item["score"] is not None]
        mean = sum(values) / max(1, len(values))
        variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
        row = {"value": mean, "stderr": (variance / max(1, len(values))) ** 0.5, "n": len(values)}
        scores = {
            "benchmark": benchmark, "primary": metric, "higher_is_better": True, "metrics": {metric: row},
            "counts": {"truncated": 0, "empty": 0, "unparsable": 0, "timeout": 0}, "meaningful": True, "note": "",
        }  # fmt: skip
        files = {"scores.json": json.dumps({**scores, **changes}), "items.jsonl": json_lines(items)}
        return self.add(f"{model}/{benchmark}/score", inputs, files, config={"benchmark": benchmark}, **row)


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def items(scores: Sequence[float | None], **fields: Any) -> list[dict[str, Any]]:
    """Items with these scores, ids counted from 0, and the same further fields."""
    texts = {"question": "What is 2 + 2?", "answer": "4", "reference": "4"}
    return [{"id": f"item-{number}", "score": score, **texts, **fields} for number, score in enumerate(scores)]


def add_training(run: SyntheticRun, track: str = "math") -> None:
    """The steps from model to merge of one track; shared ones only once."""
    if "prepare_model" not in run.steps:
        run.add("prepare_model", num_parameters=134_515_008, bytes=538_000_000, dtype="float32", duration_seconds=41.2)
        modules = [f"model.layers.{layer}.self_attn.{name}" for layer in range(3) for name in ("q_proj", "v_proj")]
        matrices = [{"module": module, "shape": [8, 8], "relative_update": 0.02} for module in modules]
        report = {"method": "nlora", "rank": 16, "matrices": matrices}
        run.add("init_adapter", ["prepare_model"], {"init_report.json": json.dumps(report)}, method="nlora", rank=16,
                trainable_parameters=4_884_480, init_seconds=1.9, relative_update_mean=0.0)  # fmt: skip
    run.add(f"{track}/prepare_data", num_train=1200)
    run.add(f"{track}/tokenize", ["prepare_model", f"{track}/prepare_data"], num_tokens=40_000)
    curve = [{"step": i + 1, "loss": 2.0 / (i + 1), "learning_rate": 1e-4, "grad_norm": 1.0, "tokens_per_second": 85.0,
              "seconds": 3.4} for i in range(50)]  # fmt: skip
    read, files = ["prepare_model", f"{track}/tokenize", "init_adapter"], {"metrics.jsonl": json_lines(curve)}
    run.add(f"{track}/train", read, files, trainable_parameters=4_884_480, num_tokens=40_000,
            validation_loss_start=1.9, validation_loss_end=0.7, duration_seconds=312.0)  # fmt: skip
    layers = [{"module": "model.layers.0.mlp.up_proj", "relative_error": 3e-7, "update_lost": 1e-6}]
    read = ["prepare_model", "init_adapter", f"{track}/train"]
    run.add(f"{track}/merge", read, {"merge_report.json": json.dumps({"layers": layers})},
            max_relative_error=3e-7, greedy_token_agreement=1.0, duration_seconds=12.0)  # fmt: skip
