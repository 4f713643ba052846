"""MBPP (Austin et al. 2021, "Program Synthesis with Large Language Models"): short Python tasks with tests.

Of 974 tasks, 11 to 510 are the test split. `zero_shot` shows the task and its tests in a message; `few_shot` is the
paper's prompt, tasks 2, 3 and 4 worked out before it, to be continued as plain text up to [DONE]
(https://github.com/google-research/google-research/blob/master/mbpp/README.md). What stands between the examples the
paper does not say; here it is an empty line, so that the prompt is that of lm-eval's task `mbpp` to the letter
(https://github.com/EleutherAI/lm-evaluation-harness/tree/main/lm_eval/tasks/mbpp).
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.downloads import Download
from pipeline.errors import UserError
from pipeline.strict import LocalPath
from stages._serving.requests import Request
from stages.benchmarks import _problem_files
from stages.benchmarks._programs import ProgramQuestions, ProgramScorer, score_programs
from stages.benchmarks.base import Answered, Item, Scores

HUB_NAME = "google-research-datasets/mbpp"
HUB_REVISION = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
HUB_SPLITS = ("train", "test", "validation", "prompt")
TASK_IDS = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
    "all": range(1, 975),
}
WORKED_IDS = (2, 3, 4)
FIELDS = {"task_id": int, "text": str, "code": str, "test_setup_code": str, "test_list": list}

ZERO_SHOT = """\
Write a Python function for the task below. Answer with the whole function, imports included, in one Python code block.

Task: {text}

It must pass these tests:

{tests}"""
FEW_SHOT = (
    "You are an expert Python programmer, and here is your task: {text} "
    "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
)
WORKED = "{code}\n[DONE]\n\n"
PROBLEM_FIELDS = ("problems", "split")


class Config(ProgramQuestions):
    """What is asked."""

    name: Literal["mbpp"]
    style: Literal["zero_shot", "few_shot"] = "zero_shot"
    split: Literal["test", "validation", "train", "prompt", "all"] = "test"
    """By task_id: 11-510, 511-600, 601-974, 1-10, all. `few_shot` never asks 2, 3 and 4, whose code it shows."""
    problems: LocalPath | None = None
    """A file in the form of mbpp.jsonl; by default the data set on the hub at a pinned revision."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many problems."""


class Scorer(ProgramScorer):
    """How code is found and run."""

    name: Literal["mbpp"]
    extraction: Literal["program", "verbatim"] = "program"
    """Find the program in the answer; or run the answer as it stands, as lm-eval's task does."""


def on_mirror(config: Config, mirror: Path) -> Config:
    """The config with MBPP's file of a mirror folder, where it has one and the recipe names none."""
    file = mirror / "mbpp" / "mbpp.jsonl"
    return config if config.problems or not file.is_file() else config.model_copy(update={"problems": file})


def problems(config: Config) -> list[str]:
    """Whether the tasks are here or can be fetched, and what is wrong with a file that is named."""
    from stages._data import hub

    if config.problems is not None:
        return _problem_files.lines_of(lambda: _requests(config))
    problem = hub.problem(
        HUB_NAME, HUB_REVISION, "name a file as `problems`, or a folder with mbpp/mbpp.jsonl as `mirror`"
    )
    return [f"mbpp: {problem}"] if problem else []


def downloads(config: Config) -> list[Download]:
    """The data set, unless the recipe names a file."""
    from stages._data import hub

    return [hub.files(HUB_NAME, HUB_REVISION)] if config.problems is None else []


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One request a task of the split. Raises UserError for a file without them or without the worked examples."""
    return _requests(config)


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """pass@k of each k, averaged over tasks. Raises UserError for a k above the number of samples."""
    from stages.benchmarks._code import extract_program

    def extract(text: str, request: Request) -> str | None:
        return text if scorer.extraction == "verbatim" else extract_program(text, wanted_names(request))

    source = config.problems.name if config.problems else f"{HUB_NAME}@{HUB_REVISION}"
    details = {"source": source, "style": config.style, "split": config.split, "extraction": scorer.extraction}
    note = _note(config, answered)
    return score_programs("mbpp", scorer, config.num_samples, answered, extract, check_program, note, details)


def check_program(request: Request, code: str) -> str:
    """The code, the task's set-up code and its three tests."""
    return "\n".join([code, request.doc["setup"], *request.doc["tests"]])


def wanted_names(request: Request) -> list[str]:
    """What the tests need of an answer: the function that was asked for, then classes and modules they name as well."""
    from stages.benchmarks._code import global_names

    entry_point = request.doc["entry_point"]
    named = global_names("\n".join([request.doc["setup"], *request.doc["tests"]]))
    return [entry_point, *(name for name in named if name != entry_point)]


def _requests(config: Config) -> list[Request]:
    tasks = _tasks(config)
    few_shot = config.style == "few_shot"
    before = _worked_examples(tasks, config) if few_shot else ""
    shown = WORKED_IDS if few_shot else ()
    asked = [number for number in TASK_IDS[config.split] if number in tasks and number not in shown][: config.limit]
    if not asked:
        ids = TASK_IDS[config.split]
        raise UserError(f"mbpp: problems: {config.problems} has no task with a task_id from {ids[0]} to {ids[-1]}")
    return [_request(config, tasks[number], before) for number in asked]


def _tasks(config: Config) -> dict[int, dict[str, Any]]:
    """task_id -> task."""
    if config.problems is not None:
        return {row["task_id"]: row for row in _problem_files.read("mbpp", config.problems, FIELDS)}
    from stages._data import hub

    rows = (row for split in HUB_SPLITS for row in hub.rows(HUB_NAME, HUB_REVISION, "full", split))
    return {row["task_id"]: row for row in rows}


def _request(config: Config, task: dict[str, Any], before: str) -> Request:
    few_shot = config.style == "few_shot"
    return Request(
        id=f"MBPP/{task['task_id']}",
        turns=(before + _shown(FEW_SHOT if few_shot else ZERO_SHOT, task),),
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


def _worked_examples(tasks: dict[int, dict[str, Any]], config: Config) -> str:
    missing = [number for number in WORKED_IDS if number not in tasks]
    if missing:
        raise UserError(f"mbpp: problems: {config.problems} lacks the worked examples, task_id {missing}")
    return "".join(_shown(FEW_SHOT + WORKED, tasks[number]) for number in WORKED_IDS)


def _shown(prompt: str, task: dict[str, Any]) -> str:
    return prompt.format(text=task["text"], tests="\n".join(task["test_list"]), code=task["code"])


def _entry_point(task: dict[str, Any]) -> str:
    """The function that the tests call and the reference defines."""
    defined = re.findall(r"^def\s+(\w+)", task["code"], re.MULTILINE)
    called = re.findall(r"\w+(?=\()", " ".join(task["test_list"]))
    return next((name for name in called if name in defined), called[0])


def _note(config: Config, answered: Answered) -> str:
    notes = [] if config.split == "test" else [f"split {config.split}"]
    return "; ".join(notes + ([] if config.limit is None else [f"the first {len(answered.requests)} problems"]))
