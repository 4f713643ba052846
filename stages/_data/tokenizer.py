"""A model's tokenizer from its files, without importing transformers (which imports torch and takes seconds)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import UserError
from stages._data.template import TOKENIZER_FILE

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ModelTokenizer(NamedTuple):
    """What text becomes, and the settings that stand beside it in the model's folder."""

    model_dir: Path
    encoder: "Tokenizer"
    bos_token: str
    """Empty if the model has none."""
    eos_token: str
    eos_token_id: int
    adds_bos: bool
    """Whether the model was trained to see `bos_token` first, as its tokenizer puts it there unasked."""
    chat_template: str | None

    @property
    def bos_token_id(self) -> int | None:
        """The id of `bos_token`."""
        return self.encoder.token_to_id(self.bos_token) if self.bos_token else None

    def adds_space(self) -> bool:
        """Whether text gets a space in front unasked, so that a template's own space would be a second one."""
        return self.encoder.encode("a", add_special_tokens=False).tokens[0].startswith("\u2581")

    def refuse_beyond_vocabulary(self, token_id: int) -> None:
        """Raises UserError for a token that the model has no embedding for: one added without resizing the model."""
        config = _read(self.model_dir / "config.json")
        size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
        if size is not None and token_id >= size:
            raise UserError(
                f"{self.model_dir}: the tokenizer gives {self.encoder.id_to_token(token_id)!r} the number {token_id}, "
                f"expected one below {size}, the model's vocab_size; resize the model's embeddings to its tokenizer"
            )

    def special_tokens(self) -> list[str]:
        """Tokens that stand for themselves in text, longest first, so that no token hides a longer one."""
        added = [token.content for token in self.encoder.get_added_tokens_decoder().values() if token.special]
        return sorted({*added, self.eos_token}, key=len, reverse=True)


def load(model_dir: Path) -> ModelTokenizer:
    """Read tokenizer.json, tokenizer_config.json and what newer and older models keep beside them.

    Raises UserError for a folder without tokenizer.json or without an end-of-sequence token.
    """
    from tokenizers import Tokenizer

    if not (model_dir / TOKENIZER_FILE).exists():
        raise UserError(f"{model_dir}: no {TOKENIZER_FILE}; save the model's fast tokenizer there with save_pretrained")
    encoder = Tokenizer.from_file(str(model_dir / TOKENIZER_FILE))
    encoder.no_truncation()
    encoder.no_padding()
    config = {**_read(model_dir / "special_tokens_map.json"), **_read(model_dir / "tokenizer_config.json")}
    bos_token, eos_token = _content(config.get("bos_token")), _content(config.get("eos_token"))
    eos_token_id = encoder.token_to_id(eos_token) if eos_token else None
    if eos_token_id is None:
        raise UserError(
            f"{model_dir}: found eos_token {eos_token!r}, expected a token; set it in tokenizer_config.json"
        )
    adds_bos = config.get("add_bos_token", _starts_with(encoder, bos_token))
    return ModelTokenizer(
        model_dir=model_dir,
        encoder=encoder,
        bos_token=bos_token,
        eos_token=eos_token,
        eos_token_id=eos_token_id,
        adds_bos=bool(bos_token and adds_bos),
        chat_template=_chat_template(model_dir, config),
    )


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _content(token: str | dict[str, Any] | None) -> str:
    """A token is stored as text or as a record with its text as "content"."""
    return token["content"] if isinstance(token, dict) else token or ""


def _starts_with(encoder: "Tokenizer", token: str) -> bool:
    return encoder.encode("a").ids[0] == encoder.token_to_id(token)


def _chat_template(model_dir: Path, config: dict[str, Any]) -> str | None:
    """From its own file (newer models) or the config, where it is text or a list of named ones."""
    file = model_dir / "chat_template.jinja"
    stored = file.read_text() if file.exists() else config.get("chat_template")
    if isinstance(stored, list):
        return {entry["name"]: entry["template"] for entry in stored}.get("default")
    return stored
