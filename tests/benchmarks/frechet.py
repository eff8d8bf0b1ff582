"""Fréchet distance against scipy's matrix square root and torchmetrics: `python -m tests.benchmarks.frechet`.

2,048 features as Inception has them, their spread falling over three decades, of 5,000 and of 1,000 images a set.
Each side is timed with what it keeps of a set (moments) in hand, and from the features on.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from callbacks.metrics.frechet import frechet_distance, moments
from tests.benchmarks.record import interleaved, write

FEATURES = 2048


def features(n: int, *, width: int, seed: int) -> Tensor:
    """Float32 [n,width]: correlated, each direction of another spread."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9))).Q
    spread = torch.logspace(0, -3, width).roll(seed)
    return (torch.randn(n, width, generator=generator) * spread) @ turn + 0.01 * seed


def gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance, float64."""
    return x.double().mean(dim=0), x.double().T.cov()


def by_scipy(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> float:
    """As the authors of FID have it: the root of the product of the covariances."""
    (mean_x, cov_x), (mean_y, cov_y) = x, y
    root = scipy.linalg.sqrtm((cov_x @ cov_y).numpy())
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * np.trace(root).real)


def by_torchmetrics(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> float:
    """As torchmetrics ends its `compute`."""
    return float(_compute_fid(x[0], x[1], y[0], y[1]))


def measure(*, counts: tuple[int, ...] = (5000, 1000), width: int = FEATURES, rounds: int = 3) -> dict[str, Any]:
    """Median CPU seconds on one thread, ratios to ours (above 1: ours is faster), and how far the values differ."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"features": width, "threads": 1, "rounds": rounds}
    for n in counts:
        x, y = (features(n, width=width, seed=seed) for seed in (0, 1))
        ours, theirs = (moments(x), moments(y)), (gaussian(x), gaussian(y))
        kept: dict[str, Callable[[], float]] = {
            "ours": lambda ours=ours: frechet_distance(*ours),
            "scipy": lambda theirs=theirs: by_scipy(*theirs),
            "torchmetrics": lambda theirs=theirs: by_torchmetrics(*theirs),
        }
        whole: dict[str, Callable[[], float]] = {
            "ours": lambda x=x, y=y: frechet_distance(moments(x), moments(y)),
            "scipy": lambda x=x, y=y: by_scipy(gaussian(x), gaussian(y)),
            "torchmetrics": lambda x=x, y=y: by_torchmetrics(gaussian(x), gaussian(y)),
        }
        values = {name: function() for name, function in kept.items()}
        for kind, sides in (("", kept), ("from_features_", whole)):
            seconds = interleaved(sides, rounds=rounds, cpu=True)
            figures |= {f"{n}_{kind}{name}_s": value for name, value in seconds.items()}
            figures |= {f"{n}_{kind}ratio_{k}": v / seconds["ours"] for k, v in seconds.items() if k != "ours"}
        figures |= {f"{n}_value_{name}": value for name, value in values.items()}
        for name in ("scipy", "torchmetrics"):
            figures[f"{n}_differs_{name}"] = abs(values[name] - values["ours"]) / values["ours"]
    return write("frechet", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    measure(rounds=parser.parse_args().rounds)
