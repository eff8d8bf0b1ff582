"""`RowBank`: a metric state of one row an image, whose content does not depend on how ranks shared the images.

Rows are gathered from all ranks (any rank may hold fewer, or none), put in the order of a hash of their image id, and
rows that a padding sampler gave twice are kept once. So everything computed from a bank, random subsets included, is
the same for one rank and for many. N rows of D numbers.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


class Rows(NamedTuple):
    """What a bank holds after all ranks have given their rows."""

    values: Tensor  # float32 [N,D] on the CPU, in the order of the ids' hashes
    groups: Tensor  # int64 [N], equal for rows of one patient
    repeated: int  # rows left out since their image id was there already
    keys: Tensor  # int64 [N], the ids' hashes, ascending


def id_hash(text: str) -> int:
    """The first 8 bytes of sha256 as a signed integer: a stable order and identity of ids across processes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


class RowBank(Metric):
    """Keeps one float32 row an image.

    Args:
        width: D.
        kwargs: those of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = None

    rows: list[Tensor]
    keys: list[Tensor]
    groups: list[Tensor]

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        for state in ("rows", "keys", "groups"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.start()

    def start(self) -> None:
        """Empty the bank, and leave an empty row set in it: a rank without images then takes part in the gathering."""
        self.reset()
        self.update(torch.empty(0, self.width, device=self.device), ids=[], groups=[])

    def update(self, values: Tensor, ids: Sequence[str], groups: Sequence[str]) -> None:
        """Add float [B,D] rows with their image ids and the ids of what they belong to (patients).

        Raises:
            ValueError: for another width or another number of ids.
        """
        if values.ndim != 2 or values.shape[1] != self.width or not len(values) == len(ids) == len(groups):
            raise ValueError(
                f"rows of the shape {list(values.shape)} with {len(ids)} ids and {len(groups)} groups; "
                f"expected [B, {self.width}] and B of each"
            )
        self.rows.append(values.detach().float())
        for state, names in ((self.keys, ids), (self.groups, groups)):
            state.append(torch.tensor([id_hash(name) for name in names], dtype=torch.int64, device=values.device))

    def compute(self) -> Rows:
        """All rows of all ranks, see `Rows`."""
        keys, order = torch.sort(dim_zero_cat(self.keys).cpu(), stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        kept = order[first]
        values, groups = dim_zero_cat(self.rows).cpu()[kept], dim_zero_cat(self.groups).cpu()[kept]
        return Rows(values, groups, len(order) - len(kept), keys[first])

    def _wrap_compute(self, compute: Callable[[], Rows]) -> Callable[[], Rows]:
        # What torchmetrics wraps around `compute` makes scalars of the tensors of a single row.
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(wrapped)
        def with_shapes() -> Rows:
            values, groups, repeated, keys = wrapped()
            return Rows(values.view(-1, self.width), groups.view(-1), repeated, keys.view(-1))

        return with_shapes
