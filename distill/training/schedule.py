"""The learning rate of each step."""

import math


def learning_rate(
    peak: float, step: int, num_steps: int, *, warmup_share: float, schedule: str = "cosine"
) -> float:
    """Return the learning rate of `step`, which counts from 0.

    It rises linearly to `peak` over a share of the steps; then it falls to 0 as a cosine or
    linearly, or stays constant.
    """
    num_warmup = max(1, round(warmup_share * num_steps))
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    left = 1 - (step - num_warmup) / max(1, num_steps - num_warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * (1 - left)))
    return peak * {"cosine": cosine, "linear": left, "constant": 1.0}[schedule]
