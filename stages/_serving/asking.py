"""Hold many conversations with a model at once, keeping every answer as it arrives and asking nothing twice."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.errors import StepFailed
from stages._serving.answers import AnswerStore
from stages._serving.engine import Completion
from stages._serving.prompt import Prompt
from stages._serving.requests import PROMPT_CUT, TOO_LONG, Answer, Message, Request, Sampling
from stages._serving.respondent import Respondent

T = TypeVar("T")

Progress = Callable[[int, int, float], None]
"""(answers done, answers wanted, generated tokens a second)"""


class Asker:
    """Asks requests of one model, taking from the store what it already holds. The engine must have been entered."""

    def __init__(self, respondent: Respondent, store: AnswerStore, progress: Progress) -> None:
        self._engine = respondent.engine
        self._prompter = respondent.prompter
        self._max_model_len = respondent.max_model_len
        self._setting = respondent.setting
        self._store = store
        self._progress = progress
        self._done = self._total = 0
        self._started = time.monotonic()
        self.answers: dict[tuple[str, int, int], Answer] = {}
        """By (request id, sample, turn)."""
        self.num_asked = 0
        self.num_tokens = 0

    @property
    def tokens_per_second(self) -> float:
        """Generated for this process; stored answers do not count."""
        return self.num_tokens / max(time.monotonic() - self._started, 1e-9)

    async def ask(self, requests: Sequence[Request], first_sample: int = 0) -> None:
        """Return when every request has all its answers. Samples are numbered from `first_sample`."""
        self._refuse_other_length()
        jobs = ((each, first_sample + k) for each in requests for k in range(each.num_samples))
        self._total = sum(len(request.turns) * request.num_samples for request in requests)
        self._done = 0
        self._started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._engine.num_in_flight):
                    workers.create_task(self._work(jobs))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _work(self, jobs: Iterator[tuple[Request, int]]) -> None:
        for request, sample in jobs:
            await self._converse(request, sample)

    async def _converse(self, request: Request, sample: int) -> None:
        messages = list(request.history)
        for turn, text in enumerate(request.turns):
            messages.append(Message(role="user", content=text))
            answer = await self._answer(request, sample, turn, messages)
            self.answers[answer.key] = answer
            messages.append(Message(role="assistant", content=answer.text))
            self._done += 1
            self._progress(self._done, self._total, self.tokens_per_second)

    async def _answer(self, request: Request, sample: int, turn: int, messages: list[Message]) -> Answer:
        prompts = self._prompter.prompts(request, messages, self._max_model_len)
        completions = [await self._completion(prompt, request.sampling, sample) for prompt in prompts]
        whole = completions[0] if len(completions) == 1 else _joined(completions)
        return Answer(
            id=request.id,
            sample=sample,
            turn=turn,
            text=whole.text,
            finish_reason=PROMPT_CUT if any(prompt.was_cut for prompt in prompts) else whole.finish_reason,
            num_prompt_tokens=whole.num_prompt_tokens,
            num_tokens=whole.num_tokens,
            loglikelihood=whole.loglikelihood,
            is_greedy=whole.is_greedy,
            prompt_sha256=prompts[0].sha256 if prompts else "",
        )

    async def _completion(self, prompt: Prompt, sampling: Sampling, sample: int) -> Completion:
        """A stored answer, or a new one. It may be cut to the room the prompt leaves (and counts as truncated).

        A prompt never is: one that fills the context is not sent.
        """
        room = self._room(prompt)
        if room is not None and room < 1:
            return Completion("", TOO_LONG, len(prompt.token_ids or ()), 0)
        fitting = sampling if room is None or sampling.max_tokens <= room else _with_max_tokens(sampling, room)
        key = prompt.answer_key(fitting, sample, self._setting)
        if stored := self._store.get(key):
            return stored
        completion = await (
            self._engine.loglikelihood(prompt)
            if prompt.asks_for_likelihood
            else self._engine.complete(prompt, fitting, prompt.seed(sampling, sample))
        )
        self._refuse_other_prompt(prompt, completion)
        self._store.add(key, completion)
        self.num_asked += 1
        self.num_tokens += completion.num_tokens
        return completion

    def _room(self, prompt: Prompt) -> int | None:
        """Tokens that the context has left for an answer; None where the endpoint alone knows."""
        if self._max_model_len is None or prompt.token_ids is None:
            return None
        return self._max_model_len - len(prompt.token_ids)

    def _refuse_other_length(self) -> None:
        served = self._engine.max_model_len
        if None not in (served, self._max_model_len) and served != self._max_model_len:
            raise StepFailed(f"the server's max_model_len is {served}, expected {self._max_model_len}")

    def _refuse_other_prompt(self, prompt: Prompt, completion: Completion) -> None:
        """A server that added a token or cut some away answered another question."""
        sent, read = prompt.token_ids, completion.num_prompt_tokens
        if sent is not None and read is not None and len(sent) != read:
            raise StepFailed(f"the server read {read} prompt tokens, expected the {len(sent)} that were sent")


def run_in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end while the main thread stays free for signals: an exception raised there cancels the coroutine.

    (An exception raised by a signal handler inside an event loop may be swallowed by the loop.)
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(loop.run_until_complete, task)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                loop.call_soon_threadsafe(task.cancel)
            raise
        finally:
            future.cancel()


def _joined(windows: list[Completion]) -> Completion:
    """The log-likelihood of a document from those of its windows; of an empty one it is 0."""
    return Completion(
        text="",
        finish_reason=windows[0].finish_reason if windows else "scored",
        num_prompt_tokens=sum(each.num_prompt_tokens or 0 for each in windows),
        num_tokens=sum(each.num_tokens for each in windows),
        loglikelihood=sum(each.loglikelihood or 0.0 for each in windows),
        is_greedy=all(each.is_greedy for each in windows),
    )


def _with_max_tokens(sampling: Sampling, max_tokens: int) -> Sampling:
    return sampling.model_copy(update={"max_tokens": max_tokens})
