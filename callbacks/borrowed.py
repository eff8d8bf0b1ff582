"""A module borrowed in the middle of its training: what it logs is collected, and it is given back as it was."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric

from callbacks.metrics.ranks import from_all_ranks

# How often a metric was updated and what it has computed stand beside its states.
BOOKKEEPING = ("_update_count", "_forward_cache", "_computed", "_cache", "_is_synced")


class Logged(NamedTuple):
    """What one rank logged under one name."""

    reduce: str  # "mean", "sum", "min" or "max"
    values: list[float]
    weights: list[int]


class Collector:
    """Takes the place of `LightningModule.log`, and reduces over steps and ranks as Lightning does at a test's end.

    Attributes:
        batch_size: images of the current batch: the weight of what is logged without one.
    """

    def __init__(self) -> None:
        self.batch_size = 1
        self._logged: dict[str, Logged] = {}
        self._metrics: dict[str, Metric] = {}

    def log(
        self,
        name: str,
        value: float | Tensor | Metric,
        *_: Any,
        reduce_fx: str | Callable[[Any], Any] = "mean",
        batch_size: int | None = None,
        **__: Any,
    ) -> None:
        """As `LightningModule.log`; what only says where a figure is shown is not looked at."""
        if isinstance(value, Metric):
            self._metrics[name] = value
            return
        reduce = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", "")
        if reduce not in ("mean", "sum", "min", "max"):
            raise ValueError(f"{name} is logged with reduce_fx={reduce_fx!r}; expected mean, sum, min or max")
        entry = self._logged.setdefault(name, Logged(reduce, [], []))
        entry.values.append(float(value))
        entry.weights.append(self.batch_size if batch_size is None else batch_size)

    def figures(self) -> dict[str, float]:
        """All that was logged, over all ranks; all take part."""
        found = {name: float(self._metrics[name].compute()) for name in sorted(self._metrics)}
        parts = from_all_ranks(self._logged)
        for name in sorted({name for part in parts for name in part}):
            told = [part[name] for part in parts if name in part]
            values = [value for one in told for value in one.values]
            weights = [weight for one in told for weight in one.weights]
            found[name] = _reduced(told[0].reduce, values, weights)
        return found


def _reduced(reduce: str, values: list[float], weights: list[int]) -> float:
    if any(math.isnan(value) for value in values):
        return math.nan
    if reduce == "mean":
        return math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
    if reduce == "sum":
        return math.fsum(values)
    return min(values) if reduce == "min" else max(values)


@contextlib.contextmanager
def borrowed(module: LightningModule, *, seed: int) -> Iterator[Collector]:
    """Within, what `module` logs is collected, its metrics are empty and random numbers come from `seed`.

    Afterwards the generators (Python's, NumPy's, torch's on CPU and CUDA), each part's mode and the metrics' states are
    those of before. Weights and buffers are the step's own responsibility, as in any test.
    """
    modes = [(part, part.training) for part in module.modules()]
    metrics = [part for part in module.modules() if isinstance(part, Metric)]
    states = [{name: getattr(metric, name) for name in (*metric._defaults, *BOOKKEEPING)} for metric in metrics]
    collector = Collector()
    with isolate_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for metric in metrics:
            for name, default in metric._defaults.items():
                if isinstance(default, list):
                    setattr(metric, name, [])  # `reset` would empty the list that is to be kept
            metric.reset()
        module.log = collector.log  # type: ignore[method-assign]
        try:
            yield collector
        finally:
            del module.log
            for metric, state in zip(metrics, states, strict=True):
                for name, value in state.items():
                    setattr(metric, name, value)
            for part, training in modes:
                part.training = training
