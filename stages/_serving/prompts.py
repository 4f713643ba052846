"""Requests become prompts: token ids through the template the model was trained with, or messages for an endpoint."""

from pathlib import Path
from typing import Protocol

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from stages._data.prompts import Prompt as PromptConfig
from stages._data.template import FILE, Template, token_ids
from stages._data.tokenizer import ModelTokenizer
from stages._serving.prompt import Prompt
from stages._serving.requests import Message, Request


class Prompter(Protocol):
    """Renders requests for one model."""

    def prompts(self, request: Request, messages: list[Message], max_model_len: int | None) -> list[Prompt]:
        """What to ask, one prompt but for documents taken in windows. `messages` ends with the turn to be answered."""


class TokenPrompter:
    """For a model whose tokenizer we hold: every prompt is the exact token ids it is trained to see."""

    def __init__(self, template: Template, tokenizer: ModelTokenizer) -> None:
        self.template = template
        self._tokenizer = tokenizer

    @classmethod
    def for_model(cls, model_dir: Path, template: Template) -> "TokenPrompter":
        """Raises UserError when the template belongs to another tokenizer."""
        from stages._data.tokenizer import load

        template.check_tokenizer(model_dir)
        return cls(template, load(model_dir))

    def prompts(self, request: Request, messages: list[Message], max_model_len: int | None) -> list[Prompt]:
        """Raises UserError for a prompt with two beginnings."""
        if request.continuation is not None:
            return self._scored(request, messages, max_model_len)
        ids = self._prompt_ids(self._text(request, messages), request.raw)
        return [Prompt(tuple(ids), stop=self._stop(request), stop_token_ids=self.template.stop_token_ids)]

    def _text(self, request: Request, messages: list[Message]) -> str:
        if request.raw:
            return messages[-1].content + request.answer_start
        rendered = self.template.render_prompt([message.model_dump() for message in messages])
        return rendered + request.answer_start

    def _prompt_ids(self, text: str, raw: bool) -> list[int]:
        """With one beginning-of-sequence token where the model expects it, whoever puts it there."""
        ids = token_ids(self._tokenizer.encoder, text)
        bos = self._tokenizer.bos_token_id
        if raw and self._tokenizer.adds_bos and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        elif not raw:
            ids = self.template.with_bos(ids)
        if bos is not None and ids[:2] == [bos, bos]:
            raise UserError(
                f"prompt template: a prompt begins with {self._tokenizer.bos_token!r} twice; the template or the "
                "question writes it, and so does the tokenizer: take it out of the text"
            )
        return ids

    def _stop(self, request: Request) -> tuple[str, ...]:
        own = () if request.raw else self.template.stop
        return tuple(dict.fromkeys((*own, *request.sampling.stop)))

    def _scored(self, request: Request, messages: list[Message], max_model_len: int | None) -> list[Prompt]:
        """The pair's ids, or the document's windows."""
        continuation = request.continuation or ""
        if request.rolling:
            return self._windows(continuation, max_model_len)
        context_ids, scored_ids = self._pair(self._text(request, messages), continuation, request.raw)
        ids = [*context_ids, *scored_ids]
        kept = ids if max_model_len is None else ids[-(max_model_len - 1) :]  # a server generates one token beside
        return [Prompt(tuple(kept), num_scored=min(len(scored_ids), len(kept) - 1), was_cut=len(kept) < len(ids))]

    def _pair(self, context: str, continuation: str, raw: bool) -> tuple[list[int], list[int]]:
        """As lm-eval divides them (`TemplateLM._encode_pair`): the ids of the whole, cut after those of the context.

        Spaces at the end of the context go with the continuation, as words are tokenised with the space before them.
        """
        if not context:
            prefix, ids = self._prefix(), token_ids(self._tokenizer.encoder, continuation)
            return ([prefix], ids) if ids[:1] != [prefix] else (ids[:1], ids[1:])
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        context_ids = self._prompt_ids(stripped, raw)
        return context_ids, self._prompt_ids(stripped + continuation, raw)[len(context_ids) :]

    def _windows(self, document: str, max_model_len: int | None) -> list[Prompt]:
        """Disjoint windows with one token of context, cut by lm-eval's own function."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        ids = self._prompt_ids(document, raw=True)
        size = max_model_len - 2 if max_model_len else len(ids)  # beside them: the context, and a generated token
        windows = map(make_disjoint_window, get_rolling_token_windows(ids, self._prefix(), size, context_len=1))
        return [Prompt((*context, *scored), num_scored=len(scored)) for context, scored in windows]

    def _prefix(self) -> int:
        """What stands before a text that has nothing before it: BOS, else the end-of-sequence token."""
        bos = self._tokenizer.bos_token_id
        return self._tokenizer.eos_token_id if bos is None else bos


class ChatPrompter:
    """For a chat endpoint, which has a template of its own."""

    def prompts(self, request: Request, messages: list[Message], max_model_len: int | None) -> list[Prompt]:
        """Raises UserError for what a chat cannot be asked."""
        if request.raw or request.continuation is not None or request.answer_start:
            wanted = "a log-likelihood" if request.continuation is not None else "text to be continued"
            raise UserError(
                f"endpoint.api: found chat, but {request.id} asks for {wanted}; use `api: completions`, "
                "or the chat form of the benchmark"
            )
        return [Prompt(messages=tuple(messages), stop=request.sampling.stop)]


class TextPrompter:
    """For a completions endpoint, whose tokenizer we do not hold: plain text."""

    def prompts(self, request: Request, messages: list[Message], max_model_len: int | None) -> list[Prompt]:
        """Raises UserError for a conversation, which would need the model's template."""
        if not request.raw or request.rolling:
            wanted = "a whole document in windows of tokens" if request.rolling else "a conversation"
            raise UserError(
                f"endpoint.api: found completions, but {request.id} asks for {wanted}; use `api: chat`, or the plain "
                "form of the benchmark (`use_template: false`, `style: completion` or `few_shot`)"
            )
        text = messages[-1].content + request.answer_start
        return [Prompt(text=text, scored=request.continuation, stop=request.sampling.stop)]


def refuse_other_template(model: Artifact, template: Template) -> None:
    """Raises UserError when the model was trained with another template than the one to evaluate it with."""
    if not (model / FILE).exists():
        return
    trained = Template.load(model / FILE)
    if trained.template_sha256 != template.template_sha256:
        raise UserError(
            f"template: the model {model.fingerprint[:12]} was trained with the template "
            f"{trained.kind} {trained.template_sha256[:12]}, found {template.kind} {template.template_sha256[:12]}; "
            "evaluate it with the template of its own track"
        )


def own_template(trained: Artifact, model: Artifact, prompt: PromptConfig | None = None) -> Template:
    """The template that `trained` (a model, or an adapter of it) was trained with.

    Else `prompt`, else the chat template of the model's tokenizer.
    """
    if (trained / FILE).exists():
        return Template.load(trained / FILE)
    from stages._data.binding import bind
    from stages._data.prompts import Chat
    from stages._data.tokenizer import load

    return bind(prompt or Chat(kind="chat"), load(model.path))
