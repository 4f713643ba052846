"""The Hugging Face hub as the environment describes it: address, cache, token, offline. Standard library only.

The variables are huggingface_hub's own; importing that library would cost preflight more than it may take.
"""

import os
from pathlib import Path


def endpoint() -> str:
    """The hub's address, HF_ENDPOINT or its own."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def cache_dir() -> Path:
    """Where huggingface_hub keeps what it has fetched."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{user_cache}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def headers() -> dict[str, str]:
    """With HF_TOKEN, if there is one."""
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
