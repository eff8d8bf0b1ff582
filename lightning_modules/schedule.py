"""The learning rate of every stage: linear warm-up, then half a cosine to zero, by step."""

import math
from typing import Any

import torch

WARM_UP = 0.02  # share of the steps


def half_cosine(share: float) -> float:
    """From 1 at the beginning to 0 where the whole share is over, and after it."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def with_schedule(optimizer: torch.optim.Optimizer, *, steps: float) -> dict[str, Any]:
    """Lightning's optimiser dictionary: warm-up over 2 % of the steps, half a cosine to 0; constant without an end."""
    warmup = max(1.0, WARM_UP * steps) if math.isfinite(steps) else 100.0

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup)
        fall = half_cosine(step / steps) if math.isfinite(steps) else 1.0
        return rise * fall

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
