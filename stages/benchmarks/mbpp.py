"""MBPP (Austin et al. 2021, "Program Synthesis with Large Language Models"): short Python tasks with tests.

Of 974 tasks, 11 to 510 are the test split. `zero_shot` shows the task and its tests in a message; `few_shot` is the
paper's prompt, tasks 2, 3 and 4 worked out before it, to be continued as plain text up to [DONE].
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.errors import UserError
from pipeline.strict import LocalPath
from stages._serving.requests import Request
from stages.benchmarks._programs import ProgramQuestions, ProgramScorer, score_programs
from stages.benchmarks.base import Answered, Item, Scores

HUB_NAME = "google-research-datasets/mbpp"
HUB_REVISION = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
SPLITS = ("train", "test", "validation", "prompt")
TEST_IDS = range(11, 511)
WORKED_IDS = (2, 3, 4)

ZERO_SHOT = """\
Write a Python function for the task below. Answer with the whole function, imports included, in one Python code block.

Task: {text}

It must pass these tests:

{tests}"""
FEW_SHOT = (
    "You are an expert Python programmer, and here is your task: {text} "
    "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
)  # Austin et al., section 3


class Config(ProgramQuestions):
    """What is asked."""

    name: Literal["mbpp"]
    style: Literal["zero_shot", "few_shot"] = "zero_shot"
    problems: LocalPath | None = None
    """JSON lines with the data set's own fields; by default the data set on the hub at a pinned revision."""
    limit: Annotated[int, Field(ge=1, le=500)] | None = None
    """Only the first so many problems."""


class Scorer(ProgramScorer):
    """How code is run."""

    name: Literal["mbpp"]


def problems(config: Config) -> list[str]:
    """Whether the tasks are here or can be fetched."""
    from stages._data import hub

    if config.problems is not None:
        return [] if config.problems.is_file() else [f"mbpp: {config.problems} does not exist"]
    problem = hub.problem(HUB_NAME, HUB_REVISION)
    return [f"mbpp: {problem}"] if problem else []


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a task of the test split. Raises UserError for a file without them."""
    tasks = _tasks(config)
    asked = [tasks[number] for number in TEST_IDS if number in tasks][: config.limit]
    if not asked:
        raise UserError(f"mbpp: {config.problems} has no task with a task_id from 11 to 510")
    return [_request(config, task, tasks) for task in asked]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """pass@k of each k, averaged over tasks. Raises UserError for a k above the number of samples."""
    from stages.benchmarks._code import extract_definitions

    def extract(text: str, request: Request) -> str | None:
        return text if config.style == "few_shot" else extract_definitions(text, request.doc["entry_point"])

    note = "" if config.limit is None else f"the first {len(answered.requests)} of 500 problems"
    return score_programs("mbpp", scorer, config.num_samples, answered, extract, check_program, note)


def check_program(request: Request, code: str) -> str:
    """The code, the task's set-up code and its three tests."""
    return "\n".join([code, request.doc["setup"], *request.doc["tests"]])


def _tasks(config: Config) -> dict[int, dict[str, Any]]:
    """task_id -> task."""
    if config.problems is None:
        from stages._data import hub

        rows = [row for split in SPLITS for row in hub.rows(HUB_NAME, HUB_REVISION, "full", split)]
    else:
        lines = config.problems.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    return {row["task_id"]: row for row in rows}


def _request(config: Config, task: dict[str, Any], tasks: dict[int, dict[str, Any]]) -> Request:
    few_shot = config.style == "few_shot"
    prompt = _worked_examples(tasks) + _shown(FEW_SHOT, task) if few_shot else _shown(ZERO_SHOT, task)
    return Request(
        id=f"MBPP/{task['task_id']}",
        turns=(prompt,),
        raw=few_shot,
        sampling=config.sampling(("[DONE]",) if few_shot else ()),
        num_samples=config.num_samples,
        doc={
            "question": task["text"],
            "reference": task["code"],
            "setup": task["test_setup_code"],
            "tests": task["test_list"],
            "entry_point": _entry_point(task),
        },
    )


def _worked_examples(tasks: dict[int, dict[str, Any]]) -> str:
    """Raises UserError where one of the three is missing."""
    missing = [number for number in WORKED_IDS if number not in tasks]
    if missing:
        raise UserError(f"mbpp: the worked examples {missing} are missing, expected task_id 2, 3 and 4 in the data")
    return "".join(
        f"{_shown(FEW_SHOT, tasks[number])}{tasks[number]['code'].strip()}\n[DONE]\n" for number in WORKED_IDS
    )


def _shown(prompt: str, task: dict[str, Any]) -> str:
    return prompt.format(text=task["text"], tests="\n".join(task["test_list"]))


def _entry_point(task: dict[str, Any]) -> str:
    """The function that the tests call and the reference defines."""
    defined = re.findall(r"^def\s+(\w+)", task["code"], re.MULTILINE)
    called = re.findall(r"\w+(?=\()", " ".join(task["test_list"]))
    return next((name for name in called if name in defined), called[0])
