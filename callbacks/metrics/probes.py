"""Linear probes: what frozen features tell of a question with two answers, and what they tell of an image's sides.

Pooled features do not say where a thing is. So an image is shown as two, each half completed by its own mirror image;
the difference of their features changes its sign, and nothing else, when the image is mirrored. N images of D features.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

STRENGTH = 0.03


class Probe(NamedTuple):
    """A logistic regression on features as they are."""

    weights: Tensor  # float64 [D]
    bias: float  # 0 of an odd probe

    def scores(self, rows: Tensor) -> Tensor:
        """Log-odds float64 [N] of answer 1, of float rows [N,D]."""
        return rows.detach().cpu().double() @ self.weights + self.bias


def fit_probe(rows: Tensor, labels: Tensor, *, odd: bool, strength: float = STRENGTH) -> Probe:
    """The probe that minimises the mean logistic loss + strength / 2 · |weights|², of features in units of deviations.

    As L2-regularised logistic regression with C = 1 / (N · strength), found by L-BFGS-B; the minimum is unique.

    Args:
        rows: float [N,D].
        labels: float [N] of 1 and 0, both of which occur.
        odd: the log-odds of -row are those of row with the other sign: deviations from 0, no bias.
        strength: above 0. 0.03 is where held-out AUROCs of the phantom's sides and degrees are flat and highest.

    Raises:
        ValueError: for labels of one class, or other numbers.
    """
    x, y = rows.detach().cpu().double().numpy(), labels.detach().cpu().double().numpy()
    if set(np.unique(y)) != {0.0, 1.0}:
        raise ValueError(f"labels of a probe are {sorted(set(y.tolist()))}; expected both 0 and 1")
    middle = np.zeros(x.shape[1]) if odd else x.mean(0)
    scale = np.sqrt(np.square(x - middle).mean(0))
    scale[scale == 0] = 1.0  # a feature that never changes
    x, sign = (x - middle) / scale, np.where(y == 1, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = sign * (x @ weights + bias)
        value = np.logaddexp(0.0, -margins).mean() + strength / 2 * weights @ weights
        pull = -sign * np.exp(-np.logaddexp(0.0, margins)) / len(x)
        return value, np.append(x.T @ pull + strength * weights, 0.0 if odd else pull.sum())

    options = {"maxiter": 10_000, "maxfun": 100_000, "gtol": 1e-8, "ftol": 1e-14}
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options=options).x
    weights = found[:-1] / scale
    return Probe(torch.from_numpy(weights), float(found[-1] - middle @ weights))


def completed_halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """Float [B,1,H,W] → the halves at small and at large x, each beside its mirror image: two of the same shape.

    Both show the half on the same side and are symmetric, so that those of a mirrored image are the same two exchanged.
    A middle column belongs to both.
    """
    width = images.shape[-1]
    half = (width + 1) // 2
    sides = images[..., :half], images.flip(-1)[..., :half]
    first, second = (torch.cat([side, side[..., : width // 2].flip(-1)], dim=-1) for side in sides)
    return first, second
