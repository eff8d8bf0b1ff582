"""Which rank sees which rows in which batch: training rows once an epoch, evaluation rows once, on any number of ranks.

Both yield whole batches, for a DataLoader with `batch_size=None`, and are DistributedSamplers in name so that
Lightning, which wraps any other sampler under DDP, leaves them alone.
"""

import math
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DistributedSampler


class TrainSampler(DistributedSampler):
    """A permutation of the data set from (seed, epoch), cut into batches that all ranks together see exactly once.

    An epoch has ceil(N / (world × batch_size)) steps. The rows are spread evenly over them, so there is no small last
    batch: step k takes the rows from k N / steps to (k + 1) N / steps of the permutation, and rank r of these every
    world-th from r on. So the k-th batches of all ranks are the k-th batch of one rank with world × batch_size, and the
    batches of one step differ by one row at most: in the mean over ranks that DDP takes, a row of the smaller batch
    weighs up to 1 / batch_size more. Two cases are not exact: a data set smaller than world is wrapped around, so that
    each rank has one row; and batches grow by a row where else a rank would have none.

    With weights, rows are drawn with replacement instead, N of them an epoch; `draws` tells a row's draws apart.

    Args:
        dataset: anything with a length of at least 1.
        batch_size: most rows of a batch on each rank.
        rank: this process, in [0, world).
        world: number of processes.
        seed: of the permutation, together with the epoch that Lightning sets through `set_epoch`.
        weights: float [N], how often each row is drawn relative to others; None takes each once.
        identity: a digest of which rows these are and how they are weighted: a resumed epoch must have the same.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        batch_size: int,
        rank: int,
        world: int,
        seed: int,
        weights: np.ndarray | None = None,
        identity: str = "",
    ) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.rows, self.batch_size, self.weights = len(dataset), batch_size, weights
        steps = math.ceil(self.rows / (world * batch_size))
        # Every rank takes part in every step, else the others would wait for it.
        self.steps = steps if self.rows >= steps * world else max(self.rows // world, 1)
        self.identity = identity
        self._resume: dict[str, Any] | None = None

    def order(self) -> np.ndarray:
        """Int64 [N], or [world] for a data set smaller than that: the rows of this epoch over all ranks."""
        # A plain sum seed + epoch would give seed 1, epoch 0 the order of seed 0, epoch 1.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        if self.weights is not None:
            weights = torch.from_numpy(np.asarray(self.weights, dtype=np.float64))
            order = torch.multinomial(weights, self.rows, replacement=True, generator=generator).numpy()
        else:
            order = torch.randperm(self.rows, generator=generator).numpy()
        return np.resize(order, max(self.rows, self.num_replicas))

    def first_step(self) -> int:
        """The step that this epoch starts with: 0, except in the epoch that is resumed."""
        if self._resume is not None and self._resume["epoch"] == self.epoch:
            return self._resume["step"]
        return 0

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches(self.order())

    def draws(self) -> Iterator[list[int]]:
        """Beside each batch of the iteration: how often the epoch's order has had each row before, over all ranks."""
        order = self.order()
        yield from self._batches(pd.Series(order).groupby(order).cumcount().to_numpy())

    def _batches(self, values: np.ndarray) -> Iterator[list[int]]:
        bounds = np.arange(self.steps + 1) * len(values) // self.steps
        for step in range(self.first_step(), self.steps):
            yield values[bounds[step] + self.rank : bounds[step + 1] : self.num_replicas].tolist()

    def __len__(self) -> int:
        return self.steps

    def state(self, *, step: int) -> dict[str, Any]:
        """What `resume` needs to go on after `step` steps of this epoch."""
        facts = {"rows": self.rows, "steps": self.steps, "seed": self.seed, "data": self.identity}
        return facts | {"epoch": self.epoch, "step": step}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where an interrupted epoch stopped; a finished epoch leaves nothing to go on with.

        Raises:
            ValueError: in the middle of an epoch, when data, seed, or the batch over all ranks are not what they were.
        """
        if state["step"] >= state["steps"]:
            return
        now = self.state(step=0)
        changed = [name for name in ("rows", "steps", "seed", "data") if state[name] != now[name]]
        if changed:
            raise ValueError(
                f"the checkpoint stopped at step {state['step']} of {state['steps']} of epoch {state['epoch']}, with "
                + ", ".join(f"{name} {state[name]} where now there are {now[name]}" for name in changed)
                + "; go on with the same data, data.init_args.seed, balance, and batch_size × number of ranks, or "
                "start from the checkpoint of a finished epoch"
            )
        self._resume = dict(state)


class EvalSampler(DistributedSampler):
    """Rows r, r + world, ... in order: every row once over all ranks, nothing padded, so counts may differ by one.

    Args:
        dataset: anything with a length of at least `world`.
        batch_size: most rows of a batch.
        rank: this process, in [0, world).
        world: number of processes.

    Raises:
        ValueError: when a rank would have no row, since it would miss the collectives of the others.
    """

    def __init__(self, dataset: Sized, *, batch_size: int, rank: int, world: int) -> None:
        if len(dataset) < world:
            raise ValueError(f"{len(dataset)} rows cannot be split over {world} processes; use at most {len(dataset)}")
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.rows, self.batch_size = len(dataset), batch_size

    def __iter__(self) -> Iterator[list[int]]:
        mine = list(range(self.rank, self.rows, self.num_replicas))
        for start in range(0, len(mine), self.batch_size):
            yield mine[start : start + self.batch_size]

    def __len__(self) -> int:
        return math.ceil(len(range(self.rank, self.rows, self.num_replicas)) / self.batch_size)


def long_tail_weights(labels: np.ndarray, *, power: float) -> np.ndarray:
    """How often each row is drawn so that rare findings are seen more often.

    A finding that n of N rows have weighs (N / n) ** power; a row weighs what its rarest positive finding weighs, and 1
    without any, so that power 0 is uniform and power 1 shows each finding about equally often.

    Args:
        labels: float [N,14] of 1, 0, -1 or NaN.
        power: 0 (uniform) to 1 (balanced).

    Returns:
        float64 [N] with mean 1.

    Raises:
        ValueError: when power is not in [0, 1].
    """
    if not 0 <= power <= 1:
        raise ValueError(
            f"data.init_args.balance is {power}; expected 0 (as the data are) to 1 (findings equally often)"
        )
    positive = labels == 1
    counts = positive.sum(axis=0)
    of_finding = (len(labels) / np.maximum(counts, 1)) ** power
    weights = np.where(positive, of_finding, 1.0).max(axis=1, initial=1.0)
    return weights / weights.mean()
