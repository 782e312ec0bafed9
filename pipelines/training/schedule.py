"""The learning rate as a pure function of the step: linear warm-up, then half a cosine down to a floor."""

from __future__ import annotations

import math

from pipelines.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of optimizer step `step` (from 0).

    Warm-up reaches the full rate at step `warmup_steps`, starting above 0 so that no step is wasted; the cosine
    (Loshchilov and Hutter 2016, arXiv 1608.03983, without restarts) reaches the floor at the last step.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    floor = config.learning_rate * config.min_learning_rate_fraction
    decay_steps = max(1, config.num_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / decay_steps)
    return floor + (config.learning_rate - floor) * 0.5 * (1 + math.cos(math.pi * progress))
