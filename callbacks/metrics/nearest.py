"""`Nearest`: the k nearest of many rows to each query, exact, in memory that does not grow with the rows.

The rows come in blocks, each rank its own. A block's distances are one matrix product; of its few best the distance
is computed again by subtraction, since the product's rounding is as large as the distance of a copy. At 370,000 rows of
512 numbers and 5,000 queries that is 2 × 10¹² operations and 20 MB a block of 1,024 rows: no index of approximate
neighbours is needed, and none could miss a copy. Q queries, N rows, D features, R ranks.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

SPARE = 2  # rows a block that are looked at beside the k nearest, so that a near tie is seldom in doubt
ROUNDING = {"highest": 2**-24, "high": 2**-11, "medium": 2**-8}  # of a product's factors, float32, TF32 and bfloat16


def nearest_rows(queries: Tensor, rows: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    """Euclidean distances float32 [Q,k], ascending, and places int64 [Q,k] of rows [N,D] nearest to queries [Q,D].

    Where there are fewer than k rows, k is their number. No nearer row is missed: a query for which the product's
    rounding could hide one, by the bound of Higham (2002, 3.5), is compared with all rows by subtraction.
    """
    k = min(k, len(rows))
    looked_at = min(k + SPARE, len(rows))
    middle = queries.mean(0)  # the product rounds with the size of what it is given
    centred, moved = rows - middle, queries - middle
    squares = centred.square().sum(1)
    # d² = |q|² + |r|² - 2 q r, of which |q|² changes no order.
    order = squares - 2 * moved @ centred.T
    least, places = order.topk(looked_at, dim=1, largest=False)
    exact = torch.stack([(queries - rows[places[:, j]]).norm(dim=1) for j in range(looked_at)], dim=1)
    if looked_at < len(rows):
        unit = ROUNDING[torch.get_float32_matmul_precision()] if queries.is_cuda else ROUNDING["highest"]
        largest = squares.max()
        error = (queries.shape[1] * ROUNDING["highest"] + 2 * unit) * (largest + 2 * moved.norm(dim=1) * largest.sqrt())
        for query in (least[:, -1] - least[:, k - 1] <= 2 * error).nonzero()[:, 0].tolist():
            found = (queries[query] - rows).norm(dim=1).topk(looked_at, largest=False)
            exact[query], places[query] = found.values, found.indices
    exact, by = exact.sort(dim=1, stable=True)
    return exact[:, :k], places.gather(1, by)[:, :k]


def least_distances(queries: Tensor, rows: Tensor, *, block: int = 1024) -> Tensor:
    """Float32 [Q]: the Euclidean distance of each query to its nearest row."""
    parts = [nearest_rows(queries, part, k=1)[0] for part in rows.split(block)]
    return torch.cat(parts, dim=1).amin(1)


class Nearest(Metric):
    """Keeps the k least distances of each query and the keys of their rows, the same on every number of ranks.

    Args:
        queries: Q.
        k: how many are kept.
    """

    full_state_update = False
    distances: Tensor
    keys: Tensor

    def __init__(self, queries: int, *, k: int) -> None:
        super().__init__()
        self.queries, self.k = queries, k
        # Gathered without a reduction: [R,Q,k] on R ranks, [Q,k] on one.
        self.add_state("distances", torch.full((queries, k), torch.inf), dist_reduce_fx=None)
        self.add_state("keys", torch.full((queries, k), -1), dist_reduce_fx=None)

    def update(self, distances: Tensor, keys: Tensor) -> None:
        """Add distances float [Q,j] with the keys int64 [Q,j] of their rows; any j."""
        self._keep(torch.cat([self.distances, distances], dim=1), torch.cat([self.keys, keys], dim=1))

    def _keep(self, distances: Tensor, keys: Tensor) -> None:
        keys, order = keys.sort(dim=1, stable=True)  # equal distances in the order of their keys
        distances, by = distances.gather(1, order).sort(dim=1, stable=True)
        self.distances = distances[:, : self.k].contiguous()
        self.keys = keys.gather(1, by)[:, : self.k].contiguous()

    def compute(self) -> tuple[Tensor, Tensor]:
        """Float32 [Q,k] ascending and int64 [Q,k], on the CPU; infinite and -1 where there were fewer rows."""
        shape = (-1, self.queries, self.k)
        distances, keys = (state.cpu().view(shape).transpose(0, 1).flatten(1) for state in (self.distances, self.keys))
        merged = Nearest(self.queries, k=self.k)
        merged._keep(distances, keys)
        return merged.distances, merged.keys
