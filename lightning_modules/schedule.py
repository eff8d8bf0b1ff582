"""The learning rate of every stage: linear warm-up under half a cosine, by step."""

import math
from typing import Any

import torch

WARM_UP = 0.02  # share of the steps


def half_cosine(share: float) -> float:
    """From 1 at the beginning to 0 where the whole share is over, and after it."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def with_schedule(
    optimizer: torch.optim.Optimizer, *, steps: float, warmup: float | None = None, floor: float = 0.0
) -> dict[str, Any]:
    """Lightning's optimiser dictionary.

    Args:
        optimizer: whose learning rates are scaled.
        steps: of the whole training; without an end (inf) the rate stays where the warm-up leaves it.
        warmup: steps of the warm-up; 2 % of all by default, 100 without an end.
        floor: share of the rate that is left at the end.
    """
    if warmup is None:
        warmup = WARM_UP * steps if math.isfinite(steps) else 100.0
    warmup = max(1.0, warmup)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup)
        fall = half_cosine(step / steps) if math.isfinite(steps) else 1.0
        return rise * (floor + (1 - floor) * fall)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
