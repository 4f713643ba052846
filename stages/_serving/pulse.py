"""Whether a vLLM server is alive: what /metrics counts goes up while it works.

https://docs.vllm.ai/en/latest/usage/metrics.html
"""

import re

from pipeline.served import fetch

WAITING = ("vllm:num_requests_running", "vllm:num_requests_waiting")
"""How many requests it has."""
WORK = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total")
"""What it has done since its start."""

Pulse = tuple[float, ...]


def read_pulse(url: str, key: str | None, timeout_seconds: float) -> Pulse | None:
    """What it has done so far, and with how many requests in hand; None while it has none.

    Raises OSError when nobody answers in time, or not with 200; ValueError when the answer is something else.
    """
    text = fetch(url, "/metrics", key, timeout_seconds).decode()
    waiting = [_total(name, text) for name in WAITING]
    return (*waiting, *(_total(name, text) for name in WORK)) if any(waiting) else None


def _total(name: str, text: str) -> float:
    """Over all label sets. Raises ValueError when the server does not count it."""
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    if not values:
        raise ValueError(f"the server's /metrics has no {name}")
    return sum(map(float, values))
