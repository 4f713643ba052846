"""lm-eval at work. Imported only where it runs: it brings datasets and torch with it."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from pipeline.errors import UserError
from stages._serving.requests import Message, Request, Sampling
from stages.benchmarks._lm_eval_data import LocalSplits, local_data
from stages.benchmarks._lm_eval_index import home
from stages.benchmarks._lm_eval_items import question
from stages.benchmarks.base import Answered

if TYPE_CHECKING:
    from stages.benchmarks.lm_eval import Config

DEFAULT_MAX_TOKENS = 256

logging.getLogger("lm_eval").setLevel(logging.WARNING)


class Messages(LM):
    """Prompts travel through lm-eval as JSON lists of messages, so that our template renders them, not lm-eval."""

    tokenizer_name = "messages"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return json.dumps(chat_history, ensure_ascii=False)


class Collected(Exception):
    """Ends an evaluation once all its requests are known."""


class Collector(Messages):
    """Is asked for nothing: lm-eval has built all requests of all tasks before it asks for the first."""

    def _stop(self, requests: list[Instance]) -> Any:
        raise Collected

    generate_until = loglikelihood = loglikelihood_rolling = _stop


class StoredAnswers(Messages):
    """Answers each instance with what was stored for it, sample after sample."""

    def __init__(self, answered: Answered) -> None:
        super().__init__()
        self._answered = answered

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return [self._answered.answers[key].text for key in _in_samples(requests)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        answers = [self._answered.answers[key] for key in _in_samples(requests)]
        return [(_scored(answer.loglikelihood), bool(answer.is_greedy)) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [_scored(self._answered.answers[key].loglikelihood) for key in _in_samples(requests)]


def collect_requests(config: "Config", data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """What lm-eval would ask, in its order."""
    with _loaded(config, data_dir, cache_dir) as loaded:
        with suppress(Collected):
            _evaluate(config, Collector(), loaded, bootstrap_iters=0)
        instances = [instance for task in loaded["tasks"].values() for instance in task.instances]
    requests = [_request(config, instance) for instance in instances]
    if len({request.id for request in requests}) < len(requests):
        raise UserError(f"lm_eval: {config.task} asks two things under one number, which cannot be told apart here")
    return requests


def collect_questions(config: "Config", data_dir: Path | None, cache_dir: Path) -> list[tuple[str, str]]:
    """(TASK/DOCUMENT, question) of everything that the task is evaluated on."""
    without_examples = config.model_copy(update={"num_fewshot": 0})
    with _loaded(without_examples, data_dir, cache_dir) as loaded:
        return [
            (f"{name}/{number}", question(task, doc))
            for name, task in loaded["tasks"].items()
            for number, doc in enumerate(task.eval_docs)
        ]


def evaluate_stored(config: "Config", bootstrap_iters: int, answered: Answered, cache_dir: Path) -> dict[str, Any]:
    """lm-eval's own verdict on stored answers, as `lm_eval.evaluator.evaluate` returns it."""
    with _loaded(config, answered.data_dir, cache_dir) as loaded:
        results: dict[str, Any] = _evaluate(config, StoredAnswers(answered), loaded, bootstrap_iters)
    return results


@contextmanager
def _loaded(config: "Config", data_dir: Path | None, cache_dir: Path) -> Iterator[dict[str, Any]]:
    """The task, or all tasks of the group or tag, while their data can be read."""
    manager = _manager(config.task)
    _refuse_unknown(config.task, manager)
    _refuse_unsafe(config.task, manager.task_index[config.task].cfg or {})
    with local_data(config.data, data_dir, cache_dir) as local:
        try:
            loaded: Any = manager.load([config.task])
        except Exception as error:
            _refuse_absent(local, error)
            raise
        for task in loaded["tasks"].values():
            _refuse_unsupported(task)
            _set_num_fewshot(config, task, local)
        yield loaded


@cache
def _manager(name: str) -> TaskManager:
    """Of the folder that defines it, here or in lm-eval; of all of lm-eval where that is not found."""
    folder = home(name)
    return TaskManager(include_path=folder, include_defaults=False) if folder else lm_evals_tasks()


@cache
def lm_evals_tasks() -> TaskManager:
    """All of lm-eval's own; reading its thousands of files takes eight seconds."""
    return TaskManager()


def _refuse_unknown(name: str, manager: TaskManager) -> None:
    if name not in manager.all_tasks:
        near = get_close_matches(name, manager.all_tasks, n=5)
        raise UserError(
            f"benchmark.task: lm-eval has no task, group or tag {name!r}; near names: {', '.join(near) or 'none'}"
        )


def _refuse_unsafe(name: str, task_config: Mapping[str, Any]) -> None:
    if task_config.get("unsafe_code"):
        raise UserError(
            f"benchmark.task: {name} runs the model's code without a sandbox; expected `name: humaneval` or "
            "`name: mbpp`, which run it in one"
        )


def _refuse_unsupported(task: Any) -> None:
    _refuse_unsafe(task.task_name, {"unsafe_code": getattr(task, "UNSAFE_CODE", False)})
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"benchmark.task: {task.task_name} shows pictures or sounds, expected a task in text")


def _refuse_absent(local: Sequence[LocalSplits], error: Exception) -> None:
    """Whatever went wrong, a split that was looked for in vain is the likely reason."""
    for splits in local:
        if splits.absent:
            wanted = " or ".join(f"{split}.jsonl" for split in sorted(splits.absent))
            raise UserError(f"{splits.folder}: no data for the task, expected {wanted} there") from error


def _set_num_fewshot(config: "Config", task: Any, local: Sequence[LocalSplits]) -> None:
    """As lm-eval's own command: the recipe's number, but none for a task that fixes it at 0."""
    own = task.get_config("num_fewshot")
    number = own or 0 if config.num_fewshot is None or own == 0 else config.num_fewshot
    if config.num_fewshot and not number and config.task == task.task_name:
        raise UserError(
            f"benchmark.num_fewshot: found {config.num_fewshot}, but {config.task} fixes it at 0; leave it out"
        )
    task.set_config(key="num_fewshot", value=number)
    task.set_fewshot_seed(seed=config.seed)
    sampler = getattr(task, "sampler", None)
    if number and sampler is not None and not sampler.df:
        _refuse_absent(local, ValueError(f"{task.task_name}: no worked examples"))


def _evaluate(config: "Config", lm: LM, loaded: dict[str, Any], bootstrap_iters: int) -> Any:
    return evaluate(
        lm,
        loaded,
        limit=config.limit,
        bootstrap_iters=bootstrap_iters,
        log_samples=True,
        apply_chat_template=config.use_template,
        fewshot_as_multiturn=config.use_template,
    )


def request_id(instance: Instance) -> str:
    """TASK/DOCUMENT/NUMBER: a document may ask for several things, such as a log-likelihood for each choice."""
    return f"{instance.task_name}/{instance.doc_id}/{instance.idx}"


def _request(config: "Config", instance: Instance) -> Request:
    if instance.request_type == "loglikelihood_rolling":
        (document,) = instance.args
        return _scored_request(instance, {"turns": ("",), "raw": True}, document, rolling=True)
    prompt, wanted = instance.args[0], instance.args[1]
    asked = _conversation(prompt) if config.use_template else {"turns": (prompt,), "raw": True}
    if instance.request_type == "loglikelihood":
        return _scored_request(instance, asked, wanted)
    return Request(
        id=request_id(instance), **asked, sampling=_sampling(config, wanted), num_samples=instance.repeats or 1
    )


def _scored_request(instance: Instance, asked: dict[str, Any], continuation: str, rolling: bool = False) -> Request:
    return Request(
        id=request_id(instance),
        **asked,
        continuation=continuation,
        rolling=rolling,
        sampling=Sampling(max_tokens=1),
        num_samples=instance.repeats or 1,
    )


def _conversation(prompt: str) -> dict[str, Any]:
    """Earlier messages, the question, and what the answer is made to begin with."""
    messages = [Message(role=each["role"], content=each["content"]) for each in json.loads(prompt)]
    start = messages.pop().content if messages[-1].role == "assistant" else ""
    return {"history": tuple(messages[:-1]), "turns": (messages[-1].content,), "answer_start": start}


def _sampling(config: "Config", arguments: dict[str, Any]) -> Sampling:
    """The task's generation arguments in the server's words, and the recipe's above them; greedy unless it samples."""
    until = arguments.get("until") or []
    sampled = arguments.get("do_sample", False)
    own = Sampling(
        max_tokens=arguments.get("max_gen_toks", DEFAULT_MAX_TOKENS),
        temperature=float(arguments.get("temperature", 1.0)) if sampled else 0.0,
        top_p=float(arguments.get("top_p", 1.0)),
        stop=tuple([until] if isinstance(until, str) else until),
        seed=config.seed,
    )
    chosen = config.generation.model_dump(exclude_none=True)
    return own.model_copy(update={**chosen, **({"max_tokens": config.max_tokens} if config.max_tokens else {})})


def _in_samples(requests: Sequence[Instance]) -> Iterator[tuple[str, int, int]]:
    """The key of each one's answer; lm-eval lists an instance as often as it has samples."""
    seen: dict[str, int] = {}
    for instance in requests:
        name = request_id(instance)
        seen[name] = seen.get(name, -1) + 1
        yield name, seen[name], 0


def _scored(loglikelihood: float | None) -> float:
    """A prompt that could not be asked (it alone fills the context) is as unlikely as can be, and counted."""
    return float("-inf") if loglikelihood is None else loglikelihood
