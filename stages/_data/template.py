"""How a conversation becomes text and token ids: the same code for training and for evaluation.

Every template is Jinja over `messages` (a list of {"role", "content"}), with `add_generation_prompt`, `bos_token` and
`eos_token`, as the chat templates of the Hugging Face hub are. A `Template` is what travels with a trained model: the
Jinja text, what ends an answer, and which tokenizer it was made for.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import UserError
from pipeline.fingerprint import canonical_json
from pipeline.strict import StrictModel

FILE = "template.json"
TOKENIZER_FILE = "tokenizer.json"

Messages = list[dict[str, str]]


class Tokenizer(Protocol):
    """A transformers tokenizer, or a `tokenizers.Tokenizer` (which loads without importing transformers)."""

    def encode(self, *args: Any, **kwargs: Any) -> Any: ...


class Template(StrictModel):
    """A prompt template bound to one tokenizer; `template.json` holds exactly these fields and `template_sha256`."""

    kind: str
    """"paper", "chat" or "jinja": where the text came from."""
    jinja: str
    stop: tuple[str, ...]
    """Texts that end an answer."""
    stop_token_ids: tuple[int, ...]
    """Tokens that end an answer."""
    answer_prefix: str
    """What the template puts between the generation prompt and the answer; learnt with the answer."""
    answer_suffix: str
    """What ends an answer; learnt with it. Its last token is one of `stop_token_ids`."""
    add_bos: bool
    """Whether `bos_token_id` goes before the rendered text."""
    bos_token: str
    bos_token_id: int | None
    eos_token: str
    tokenizer_sha256: str

    @classmethod
    def load(cls, path: Path) -> "Template":
        """Read a `template.json`, or the one in a folder. Raises UserError if its hash does not fit its content."""
        file = path / FILE if path.is_dir() else path
        record = json.loads(file.read_text())
        stated = record.pop("template_sha256")
        template = cls.model_validate_json(json.dumps(record))
        if template.template_sha256 != stated:
            raise UserError(f"{file}: the template was changed by hand (its template_sha256 does not fit)")
        return template

    def save(self, folder: Path) -> None:
        """Write `template.json`."""
        record = {**self.model_dump(mode="json"), "template_sha256": self.template_sha256}
        (folder / FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    @property
    def template_sha256(self) -> str:
        """64 hex digits over everything that changes a prompt or an answer, except the tokenizer."""
        fields = self.model_dump(mode="json", exclude={"kind", "tokenizer_sha256"})
        return hashlib.sha256(canonical_json(fields).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """64 hex digits; equal exactly when template and tokenizer are."""
        return hashlib.sha256(f"{self.template_sha256} {self.tokenizer_sha256}".encode()).hexdigest()

    def render_prompt(self, messages: Messages) -> str:
        """The text a model answers to: the conversation so far and the start of the assistant's turn."""
        return render(self.jinja, messages, bos_token=self.bos_token, eos_token=self.eos_token)

    def render_answer(self, answer: str) -> str:
        """The text that training makes the model produce after the prompt."""
        return self.answer_prefix + answer + self.answer_suffix

    def encode_prompt(self, tokenizer: Tokenizer, messages: Messages) -> list[int]:
        """Token ids of the rendered prompt, with one beginning-of-sequence token where the model expects it."""
        return self.with_bos(token_ids(tokenizer, self.render_prompt(messages)))

    def with_bos(self, prompt_ids: list[int]) -> list[int]:
        """The ids of a rendered prompt, with the BOS token that the tokenizer adds and the template does not write."""
        return [cast(int, self.bos_token_id), *prompt_ids] if self.add_bos else prompt_ids

    def check_tokenizer(self, model_dir: Path) -> None:
        """Raises UserError if the model in this folder has another tokenizer than the template was made for."""
        found = tokenizer_sha256(model_dir)
        if found != self.tokenizer_sha256:
            raise UserError(
                f"{model_dir}: its tokenizer ({found[:12]}) is not the one the template was made for "
                f"({self.tokenizer_sha256[:12]}); tokenise the data for this model"
            )


def render(jinja: str, messages: Messages, bos_token: str, eos_token: str, add_generation_prompt: bool = True) -> str:
    """Raises UserError naming the template's line for bad syntax, an unknown variable or the template's own refusal."""
    try:
        return compiled(jinja).render(
            messages=messages, add_generation_prompt=add_generation_prompt, bos_token=bos_token, eos_token=eos_token
        )
    except jinja2.TemplateError as error:
        raise UserError(f"prompt template: {error.message}") from error


@lru_cache(maxsize=16)
def compiled(jinja: str) -> jinja2.Template:
    """The template with the settings of hub chat templates. Raises UserError for bad syntax.

    `strftime_now` is left undefined on purpose: a prompt must not depend on the day it is rendered.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(jinja)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"prompt template: line {error.lineno}: {error.message}") from error


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of `text` alone; tokens written in the text, such as <|im_start|>, become their ids."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return encoded if isinstance(encoded, list) else encoded.ids


def tokenizer_sha256(model_dir: Path) -> str:
    """64 hex digits of the file that decides how text becomes ids. Raises UserError if there is none."""
    file = model_dir / TOKENIZER_FILE
    if not file.exists():
        raise UserError(f"{model_dir}: no {TOKENIZER_FILE}; save the model's fast tokenizer there with save_pretrained")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _refuse(message: str) -> str:
    raise jinja2.TemplateError(message)
