"""Prompt templates bound to the tiny model."""

from pathlib import Path

from stages._data.binding import bind
from stages._data.prompts import Chat, Paper
from stages._data.tokenizer import load


def write_template(prompt: Chat | Paper, model_dir: Path, folder: Path) -> Path:
    """`folder`, with the template.json a tokenize step would have written."""
    bind(prompt, load(model_dir)).save(folder)
    return folder
