"""Sealed steps with made-up numbers in the stages' real formats, for the tests of the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.fingerprint import fingerprint
from pipeline.store import Store, seal
from stages.benchmarks.base import mean_metric

PROVENANCE = {
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "python": "3.11.7",
    "packages": {"peft": "0.21.2", "torch": "2.13.0+cpu"},
    "hardware": {"cpu": "a CPU", "num_cores": 2, "gpus": []},
}
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


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
        row = mean_metric([item["score"] for item in items if item["score"] is not None]).model_dump()
        scores = {
            "benchmark": benchmark, "primary": metric, "higher_is_better": True, "metrics": {metric: row},
            "counts": {"truncated": 0, "empty": 0, "unparsable": 0, "timeout": 0}, "meaningful": True, "note": "",
        }  # fmt: skip
        files = {"scores.json": json.dumps({**scores, **changes}), "items.jsonl": json_lines(items)}
        return self.add(f"{model}/{benchmark}/score", inputs, files, config={"benchmark": benchmark})


def add_endpoint_answers(run: SyntheticRun, model: str, benchmark: str, **settings: Any) -> str:
    """Seal a generate step that asked an endpoint; its name."""
    endpoint = {"url": "https://api.example/v1", "model": f"{model}-2026", "api": "chat"}
    return add_answers(run, model, benchmark, endpoint=endpoint, **settings)


def add_answers(
    run: SyntheticRun,
    model: str,
    benchmark: str,
    source: str | None = None,
    endpoint: Mapping[str, Any] | None = None,
    **settings: Any,
) -> str:
    """Seal a generate step that asked the model of a step, or an endpoint; its name."""
    name = f"{model}/{benchmark}/generate"
    serve = {"engine": "vllm", "dtype": "bfloat16", "max_model_len": 2048, "extra_arguments": []}
    record = {
        "benchmark": {"name": benchmark, **settings}, "serve": serve, "endpoint": endpoint,
        "model_fingerprint": run.steps[source].fingerprint if source else "e" * 64,
        "template_sha256": "c0ffee" * 10 if source else None,
    }  # fmt: skip
    config = {"benchmark": record["benchmark"], "serve": serve, "endpoint": endpoint}
    run.add(name, [source] if source else [], {"generation.json": json.dumps(record)}, config)
    return name


def add_mt_bench(run: SyntheticRun, model: str, answers: str, ratings: Sequence[float], judge: str = "gpt-0") -> None:
    """Seal a judge step and a score step of MT-Bench: `ratings` of the first turns, category after category; second
    turns get a point less."""
    from stages.benchmarks import _mt_bench_ratings

    endpoint = {"url": "https://api.example/v1", "model": judge}
    record = {"mode": "single", "judge_fingerprint": fingerprint("judge", 1, {"name": judge}, {}), "endpoint": endpoint,
              "answered_as": [f"{judge}-dated"], "judged_by_itself": False, "prompts_sha256": "ab" * 32,
              "temperature": 0.0, "num_repeats": 2, "opponent_fingerprint": None}  # fmt: skip
    run.add(f"{model}/mt_bench/judge", [answers], {"judge.json": json.dumps(record)})
    questions = [
        {"id": str(81 + number), "score": rating - 0.5, "category": CATEGORIES[number % 8], "spread": 0.5,
         "rating_turn_1": rating, "rating_turn_2": rating - 1, "question": ["First?", "Second?"],
         "answer": ["One.", "Two."], "reference": None}
        for number, rating in enumerate(ratings)
    ]  # fmt: skip
    metrics = {name: metric.model_dump() for name, metric in _mt_bench_ratings.metrics(questions).items()}
    run.add_score(
        model, "mt_bench", questions, [answers, f"{model}/mt_bench/judge"], "rating", metrics=metrics,
        counts={"truncated": 2, "empty": 0, "unparsable": 1, "unrated_turns": 0}, details={"num_repeats": 2},
    )  # fmt: skip


def add_pairs(run: SyntheticRun, model: str, answers: str, opponent: str, outcomes: Sequence[float]) -> None:
    """Seal a judge step and a score step of MT-Bench against an opponent (the name of its generate step)."""
    from stages.benchmarks import _mt_bench_pairs

    generation = json.loads((run.steps[opponent] / "generation.json").read_text())
    record = {"mode": "pairwise", "judge_fingerprint": "f" * 64, "judged_by_itself": False, "num_repeats": 1,
              "temperature": 0.0, "opponent_fingerprint": generation["model_fingerprint"]}  # fmt: skip
    run.add(f"{model}/mt_bench_pairs/judge", [answers, opponent], {"judge.json": json.dumps(record)})
    questions = [
        {"id": str(81 + number), "score": outcome, "category": CATEGORIES[number % 8], "inconsistent": outcome == 0.5,
         "outcome_turn_1": outcome, "question": ["First?"], "answer": ["One."], "reference": None}
        for number, outcome in enumerate(outcomes)
    ]  # fmt: skip
    metrics = {name: metric.model_dump() for name, metric in _mt_bench_pairs.metrics(questions).items()}
    run.add_score(
        model, "mt_bench_pairs", questions, [answers, f"{model}/mt_bench_pairs/judge"], "win_rate", metrics=metrics,
        counts={"truncated": 0, **_mt_bench_pairs.counts(questions)},
    )  # fmt: skip


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
