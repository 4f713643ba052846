"""lm-eval at work. Imported only where it runs: it brings datasets and torch with it."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import hash_string

from pipeline.errors import UserError
from stages._serving.requests import Message, Request, Sampling
from stages.benchmarks.base import Answered

if TYPE_CHECKING:
    from stages.benchmarks.lm_eval import Config

TASKS_DIR = Path(__file__).with_name("tasks")
DEFAULT_MAX_TOKENS = 256
SPLITS = {"test_split": "test", "validation_split": "validation", "training_split": "train"}
"""A task's splits and the files of a data artifact that stand for them."""

logging.getLogger("lm_eval").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Evaluation:
    """What lm-eval made of stored answers. `metrics`: "metric,filter" -> (value, standard error)."""

    metrics: dict[str, tuple[float, float | None]]
    higher_is_better: dict[str, bool]
    samples: list[dict[str, Any]]
    details: dict[str, Any]


class GenerateUntil(LM):
    """Prompts travel through lm-eval as JSON lists of messages, so that our template renders them, not lm-eval."""

    tokenizer_name = "messages"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise UserError("this lm-eval task asks for log-likelihoods, expected a generate_until task")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise UserError("this lm-eval task asks for log-likelihoods, expected a generate_until task")


class Collected(Exception):
    """Ends an evaluation once all its requests are known."""


class Collector(GenerateUntil):
    """Notes down the instances it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.instances: list[Instance] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.instances = requests
        raise Collected


class StoredAnswers(GenerateUntil):
    """Answers an instance with what was stored for its document, sample after sample."""

    def __init__(self, answered: Answered) -> None:
        super().__init__()
        self._answered = answered

    def generate_until(self, requests: list[Instance]) -> list[str]:
        samples = Counter[str]()
        return [self._next(str(instance.doc_id), samples) for instance in requests]

    def _next(self, request_id: str, samples: Counter[str]) -> str:
        samples[request_id] += 1
        return self._answered.answers[request_id, samples[request_id] - 1, 0].text


def collect_requests(config: "Config", data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """What lm-eval would ask, one request a document."""
    collector = Collector()
    with suppress(Collected):
        _evaluate(config, collector, load_task(config, data_dir, cache_dir), bootstrap_iters=0)
    first = {str(instance.doc_id): instance for instance in collector.instances}
    samples = Counter(str(instance.doc_id) for instance in collector.instances)
    return [_request(config, instance, samples[name]) for name, instance in first.items()]


def evaluate_stored(config: "Config", bootstrap_iters: int, answered: Answered, cache_dir: Path) -> Evaluation:
    """lm-eval's own verdict on stored answers."""
    task = load_task(config, answered.data_dir, cache_dir)
    results = _evaluate(config, StoredAnswers(answered), task, bootstrap_iters)
    name = task.config.task
    row, samples = results["results"][name], results["samples"][name]
    return Evaluation(
        metrics=_metrics(row),
        higher_is_better=results["higher_is_better"][name],
        samples=samples,
        details={
            "lm_eval_version": _version(),
            "task": name,
            "task_version": results["versions"][name],
            "task_hash": _task_hash(samples),
            "num_fewshot": results["n-shot"][name],
        },
    )


def load_task(config: "Config", data_dir: Path | None, cache_dir: Path) -> Any:
    """The lm-eval task, on the files of `data_dir` if there is one."""
    path = _yaml_path(config.task)
    output_type = load_yaml(path, resolve_func=False, recursive=True).get("output_type") if path else None
    if output_type not in (None, "generate_until"):
        raise UserError(f"benchmark.task: {config.task} is a {output_type} task, expected a generate_until task")
    spec = config.task if data_dir is None else _on_local_files(path, data_dir, cache_dir)
    (task,) = _manager(config.task).load([spec])["tasks"].values()
    own = task.get_config("num_fewshot")
    task.set_config(key="num_fewshot", value=config.num_fewshot if config.num_fewshot is not None else own or 0)
    task.set_fewshot_seed(seed=config.seed)
    return task


@cache
def _manager(task: str) -> TaskManager:
    """The tasks shipped here if that is one of them, else lm-eval's (reading its thousands of files takes seconds)."""
    shipped = TaskManager(include_path=TASKS_DIR, include_defaults=False)
    return shipped if task in shipped.all_subtasks else TaskManager()


def _yaml_path(name: str) -> Path | None:
    """Where a task is defined; None for one that is written in Python."""
    manager = _manager(name)
    if name not in manager.all_subtasks:
        near = get_close_matches(name, manager.all_tasks, n=5)
        raise UserError(
            f"benchmark.task: lm-eval has no task {name!r}; near names: {', '.join(near) or 'none'}; "
            "groups and tags are evaluated one task at a time"
        )
    path: Path | None = manager.task_index[name].yaml_path
    return path


def _on_local_files(path: Path | None, data_dir: Path, cache_dir: Path) -> dict[str, Any]:
    """The task's whole configuration, with its data source replaced (overrides alone would lose the rest)."""
    if path is None:
        raise UserError("benchmark.task: a task without a YAML file cannot read local data; leave out its data")
    spec: dict[str, Any] = load_yaml(path, resolve_func=True, recursive=True)
    files = {spec[key]: data_dir / f"{name}.jsonl" for key, name in SPLITS.items() if spec.get(key)}
    present = {split: str(file) for split, file in files.items() if file.exists()}
    if not present:
        names = ", ".join(file.name for file in files.values())
        raise UserError(f"{data_dir}: no data for the task, expected one of {names}")
    kept = {key: value for key, value in spec.items() if key not in (*SPLITS, "fewshot_split") or value in present}
    kwargs = {"data_files": present, "cache_dir": str(cache_dir)}
    return {**kept, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}


def _evaluate(config: "Config", lm: LM, task: Any, bootstrap_iters: int) -> Any:
    return evaluate(
        lm,
        {"tasks": {task.config.task: task}},
        limit=config.limit,
        bootstrap_iters=bootstrap_iters,
        log_samples=True,
        apply_chat_template=config.use_template,
        fewshot_as_multiturn=True,
    )


def _request(config: "Config", instance: Instance, num_samples: int) -> Request:
    prompt, arguments = instance.args
    history, turn, answer_start = _conversation(prompt) if config.use_template else ((), prompt, "")
    return Request(
        id=str(instance.doc_id),
        turns=(turn,),
        history=history,
        raw=not config.use_template,
        answer_start=answer_start,
        sampling=_sampling(config, arguments),
        num_samples=num_samples,
    )


def _conversation(prompt: str) -> tuple[tuple[Message, ...], str, str]:
    """(earlier messages, the question, what the answer is made to begin with)."""
    messages = [Message(role=each["role"], content=each["content"]) for each in json.loads(prompt)]
    start = messages.pop().content if messages[-1].role == "assistant" else ""
    return tuple(messages[:-1]), messages[-1].content, start


def _sampling(config: "Config", arguments: dict[str, Any]) -> Sampling:
    """The task's generation arguments in the server's words; greedy unless the task samples."""
    until = arguments.get("until") or []
    sampled = arguments.get("do_sample", False)
    return Sampling(
        max_tokens=config.max_tokens or arguments.get("max_gen_toks", DEFAULT_MAX_TOKENS),
        temperature=float(arguments.get("temperature", 1.0)) if sampled else 0.0,
        top_p=float(arguments.get("top_p", 1.0)),
        stop=tuple([until] if isinstance(until, str) else until),
        seed=config.seed,
    )


def _metrics(row: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    names = [key for key in row if "," in key and "_stderr," not in key]
    return {name: (float(row[name]), _stderr(row.get(name.replace(",", "_stderr,", 1)))) for name in names}


def _stderr(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _task_hash(samples: Sequence[dict[str, Any]]) -> str:
    """As lm-eval's result files have it: over the documents, prompts and targets of the samples in order."""
    return str(hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)))


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
