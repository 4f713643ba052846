"""Which prompt template to use, as written in a recipe, and how it is bound to a model's tokenizer."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.errors import UserError
from pipeline.strict import StrictModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from stages._data.template import Template

PAPER = """\
{%- if messages[0].role == 'system' -%}
{{ messages[0].content }}
{%- else -%}
Below is an instruction that describes a task. Write a response that appropriately completes the request.
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '\\n\\n### Instruction:\\n' + message.content }}
{%- elif message.role == 'assistant' -%}
{{ '\\n\\n### Response:' + message.content + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '\\n\\n### Response:' }}
{%- endif -%}
"""
PAPER_STOP = ("\n\n### Instruction:",)


class Paper(StrictModel):
    """The instruction prompt of the paper's reference implementation, extended to several turns."""

    kind: Literal["paper"]


class Chat(StrictModel):
    """The chat template that comes with the model's tokenizer."""

    kind: Literal["chat"]


class Jinja(StrictModel):
    """A chat template written in the recipe."""

    kind: Literal["jinja"]
    text: str = Field(min_length=1)
    """Jinja over `messages`, `add_generation_prompt`, `bos_token`, `eos_token`."""
    stop: tuple[str, ...] = ()
    """Further texts that end an answer in evaluation."""


Prompt = Annotated[Paper | Chat | Jinja, Field(discriminator="kind")]

MARKER = "\u2e2eANSWER\u2e2e"


def bind(prompt: Paper | Chat | Jinja, tokenizer: "PreTrainedTokenizerFast", model_dir: Path) -> "Template":
    """The template for one tokenizer. Raises UserError if it does not show an answer after its generation prompt."""
    from stages._data.template import Template, render, token_ids, tokenizer_sha256

    jinja, stop = _text_and_stop(prompt, tokenizer, model_dir)
    bos_token, eos_token = _special(tokenizer.bos_token), _special(tokenizer.eos_token)
    if not eos_token:
        raise UserError(f"{model_dir}: the tokenizer has no end-of-sequence token; set eos_token in its config")
    question = [{"role": "user", "content": "Q"}]
    answered = [*question, {"role": "assistant", "content": MARKER}]
    start = render(jinja, question, bos_token, eos_token)
    whole = render(jinja, answered, bos_token, eos_token, add_generation_prompt=False)
    prefix, suffix = _around_answer(start, whole, _special_tokens(tokenizer), eos_token)
    stop_id = token_ids(tokenizer, suffix)[-1]
    bos_id = tokenizer.bos_token_id
    return Template(
        kind=prompt.kind,
        jinja=jinja,
        stop=(suffix.strip(), *stop),
        stop_token_ids=tuple(dict.fromkeys((stop_id, int(tokenizer.eos_token_id)))),
        answer_prefix=prefix.removeprefix(" ") if _adds_space(tokenizer) else prefix,
        answer_suffix=suffix,
        add_bos=_adds_bos(tokenizer) and not start.startswith(bos_token),
        bos_token=bos_token,
        bos_token_id=bos_id if bos_id is None else int(bos_id),
        eos_token=eos_token,
        tokenizer_sha256=tokenizer_sha256(model_dir),
    )


def _text_and_stop(
    prompt: Paper | Chat | Jinja, tokenizer: "PreTrainedTokenizerFast", model_dir: Path
) -> tuple[str, tuple[str, ...]]:
    if isinstance(prompt, Paper):
        return PAPER, PAPER_STOP
    if isinstance(prompt, Jinja):
        return prompt.text, prompt.stop
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(f"{model_dir}: the tokenizer has no chat template; use template kind paper or jinja")
    return tokenizer.chat_template, ()


def _around_answer(start: str, whole: str, special_tokens: list[str], eos_token: str) -> tuple[str, str]:
    """What stands between the generation prompt and an answer, and what ends the answer.

    The end reaches up to the first special token after the answer, or is `eos_token` where the template has none.
    """
    before, found, after = whole.partition(MARKER)
    if not found or not before.startswith(start):
        raise UserError(
            "prompt template: an assistant message must render as the generation prompt followed by its content; "
            f"the generation prompt is {start!r}, a conversation with the answer {MARKER!r} is {whole!r}"
        )
    end = re.search("|".join(re.escape(token) for token in special_tokens), after)
    return before.removeprefix(start), after[: end.end()] if end else after.rstrip() + eos_token


def _special_tokens(tokenizer: "PreTrainedTokenizerFast") -> list[str]:
    """Longest first, so that no token hides a longer one."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)


def _adds_bos(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether the model was trained to see BOS first, as its tokenizer does unasked."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def _adds_space(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether text gets a space in front unasked, so that a template's own space would be a second one."""
    ids = tokenizer.encode("a", add_special_tokens=False)
    return bool(tokenizer.convert_ids_to_tokens(ids)[0].startswith("\u2581"))


def _special(token: str | None) -> str:
    return token or ""
