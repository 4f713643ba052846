"""What of an example is shown and what is learnt, as text."""

from typing import Literal, NamedTuple

from stages._data.formats import Example
from stages._data.template import Template

Learn = Literal["response", "all", "assistant_turns"]


class Turn(NamedTuple):
    """A text that the model is to produce, its end included, after what stands between it and the turn before."""

    context: str
    answer: str


class TurnProblem(ValueError):
    """A conversation that cannot be learnt turn by turn through this template."""


def document(example: Example, eos_token: str) -> list[Turn]:
    """A plain text, after nothing."""
    return [Turn("", example.response + eos_token)]


def turns(template: Template, example: Example, learn: Learn, adds_space: bool) -> list[Turn]:
    """The response after the whole prompt, or every assistant turn of the conversation. Raises TurnProblem.

    `adds_space`: the tokenizer puts a space before a text, so that a template's own space before an answer is not in
    the answer.
    """
    if learn != "assistant_turns":
        return [Turn(template.render_prompt(example.messages), template.render_answer(example.response))]
    return _assistant_turns(template, example, " " if adds_space else "")


def _assistant_turns(template: Template, example: Example, space: str) -> list[Turn]:
    """Each after the very text it would be generated after; together they are the conversation as rendered for the
    last one. A template that shows earlier turns in another form than it asks for (trimmed, without their thoughts)
    has no such text.
    """
    conversation, found, done = example.conversation(), list[Turn](), [""]
    for number, message in enumerate(conversation):
        if message["role"] != "assistant":
            continue
        if "user" not in {before["role"] for before in conversation[:number]}:
            raise TurnProblem("an assistant turn before the first user turn answers nothing")
        prompt, answer = template.render_prompt(conversation[:number]), template.render_answer(message["content"])
        found.append(Turn(prompt.removeprefix(_shown(prompt, done)), answer))
        done = [prompt + answer, prompt + space + answer]
    return found


def _shown(prompt: str, done: list[str]) -> str:
    """The form in which the prompt starts with the conversation so far. Raises TurnProblem if it has none of them."""
    for form in done:
        if prompt.startswith(form):
            return form
    raise TurnProblem(
        f"the template does not show earlier assistant turns as they are generated: expected {done[0][-60:]!r}, "
        f"found {prompt[max(0, len(done[0]) - 60) :][:60]!r}; use learn: response, or another template"
    )
