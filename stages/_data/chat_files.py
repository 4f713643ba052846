"""What makes other programs talk to a trained model through the template of its training.

vLLM, transformers and their like read `chat_template.jinja` and, for what ends an answer, `generation_config.json`.
"""

import json
from pathlib import Path

from stages._data.template import Template

TEMPLATE_FILE = "chat_template.jinja"


def write_chat_files(template: Template, model_dir: Path) -> None:
    """Replace the model's own chat template and stop tokens. Texts that end an answer have no place in these files."""
    (model_dir / TEMPLATE_FILE).write_text(_jinja(template), encoding="utf-8")
    _update(model_dir / "tokenizer_config.json", {"chat_template": None})
    _update(model_dir / "generation_config.json", {"eos_token_id": list(template.stop_token_ids)})


def _jinja(template: Template) -> str:
    """With the beginning-of-sequence token written out, since chat servers add none to a rendered conversation."""
    return ("{{ bos_token }}" if template.add_bos else "") + template.jinja


def _update(file: Path, changes: dict[str, object]) -> None:
    """Set these keys; one that becomes None is taken out."""
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    record = {key: value for key, value in {**record, **changes}.items() if value is not None}
    file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
