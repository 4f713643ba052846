"""Full fine-tuning: every parameter of the model is trained, and nothing is added to it."""

from __future__ import annotations

from typing import Literal

from stages.adapters.base import MethodConfig


class Config(MethodConfig):
    """No options: how it is trained is all in `train`."""

    method: Literal["full"]
