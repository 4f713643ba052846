"""The learning rate of every step, as a function of the step alone: nothing to save, nothing to restore."""

import math

from stages.train import Config


def num_warmup_steps(config: Config, num_steps: int) -> int:
    """As many as the recipe says, or its share of all steps, rounded up."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(config.warmup_ratio * num_steps)


def learning_rate_factor(step: int, num_steps: int, num_warmup: int, schedule: str) -> float:
    """What the peak rate is multiplied by at step 0, 1, ..., num_steps - 1.

    It rises linearly over the first `num_warmup` steps, then falls to zero just after the last one (`cosine`, `linear`)
    or stays (`constant`).
    """
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0
