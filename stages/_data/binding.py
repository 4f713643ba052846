"""A prompt template bound to a model's tokenizer: what ends an answer, and whether BOS is still to be added."""

import re

from pipeline.errors import UserError
from stages._data.prompts import PAPER, PAPER_STOP, Chat, Jinja, Paper
from stages._data.template import Template, render, token_ids, tokenizer_sha256
from stages._data.tokenizer import ModelTokenizer

MARKER = "\u2e2eANSWER\u2e2e"


def bind(prompt: Paper | Chat | Jinja, tokenizer: ModelTokenizer) -> Template:
    """The template for one tokenizer. Raises UserError if it does not show an answer after its generation prompt."""
    jinja, stop = _text_and_stop(prompt, tokenizer)
    bos_token, eos_token = tokenizer.bos_token, tokenizer.eos_token
    question = [{"role": "user", "content": "Q"}]
    answered = [*question, {"role": "assistant", "content": MARKER}]
    start = render(jinja, question, bos_token, eos_token)
    whole = render(jinja, answered, bos_token, eos_token, add_generation_prompt=False)
    prefix, suffix = _around_answer(start, whole, tokenizer.special_tokens(), eos_token)
    stop_ids = (token_ids(tokenizer.encoder, suffix)[-1], tokenizer.eos_token_id)
    return Template(
        kind=prompt.kind,
        jinja=jinja,
        stop=(suffix.strip(), *stop),
        stop_token_ids=tuple(dict.fromkeys(stop_ids)),
        answer_prefix=prefix.removeprefix(" ") if tokenizer.adds_space() else prefix,
        answer_suffix=suffix,
        add_bos=tokenizer.adds_bos and not start.startswith(bos_token),
        bos_token=bos_token,
        bos_token_id=tokenizer.bos_token_id,
        eos_token=eos_token,
        tokenizer_sha256=tokenizer_sha256(tokenizer.model_dir),
    )


def _text_and_stop(prompt: Paper | Chat | Jinja, tokenizer: ModelTokenizer) -> tuple[str, tuple[str, ...]]:
    if isinstance(prompt, Paper):
        return PAPER, PAPER_STOP
    if isinstance(prompt, Jinja):
        return prompt.text, prompt.stop
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.model_dir}: the tokenizer has no chat template; use template kind paper or jinja")
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
