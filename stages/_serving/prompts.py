"""Requests become token ids through the template the model was trained with."""

from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from stages._data.template import FILE, Template, token_ids
from stages._serving.requests import Message, Request


class Prompter:
    """Renders conversations for one model."""

    def __init__(self, template: Template, tokenizer: Any) -> None:
        self.template = template
        self._tokenizer = tokenizer

    @classmethod
    def for_model(cls, model_dir: Path, template: Template) -> "Prompter":
        """Raises UserError when the template belongs to another tokenizer."""
        from stages._data.tokenizer import load

        template.check_tokenizer(model_dir)
        return cls(template, load(model_dir).encoder)

    def prompt_ids(self, request: Request, messages: list[Message]) -> list[int]:
        """Token ids [num_prompt_tokens] the model continues with its next answer."""
        return self.template.with_bos(token_ids(self._tokenizer, self._text(request, messages) + request.answer_start))

    def stop(self, request: Request) -> list[str]:
        """Texts that end an answer."""
        own = () if request.raw else self.template.stop
        return list(dict.fromkeys((*own, *request.sampling.stop)))

    def _text(self, request: Request, messages: list[Message]) -> str:
        if request.raw:
            return messages[-1].content
        return self.template.render_prompt([message.model_dump() for message in messages])


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


def own_template(model: Artifact) -> Template:
    """The template the model was trained with, else the chat template of its tokenizer."""
    if (model / FILE).exists():
        return Template.load(model / FILE)
    from stages._data.binding import bind
    from stages._data.prompts import Chat
    from stages._data.tokenizer import load

    return bind(Chat(kind="chat"), load(model.path))
