"""The vector quantiser: nearest code, EMA codebook (arXiv 1711.00937 appendix A), k-means start, dead-code restart.

Everything here runs in float32 with autocast off. Under torch.distributed the codebook sees the vectors of all ranks:
sums are all-reduced, starts and restarts are chosen from the gathered vectors by rank 0 and broadcast, so every rank
holds the same codebook and R ranks act like one rank with the whole batch. Batches may differ in size between ranks.

Shapes: B batch, D code dimension, h × w grid, K codes, N = all vectors of a batch.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from lightning_modules.networks.codes import Quantized, check_codes, check_finite, diverged, finite, float32, rows_of
from lightning_modules.networks.ranks import distributed, gather_rows, sum_over_ranks

Gradient = Literal["rotation", "straight-through"]
KMEANS_ROUNDS = 10
KMEANS_VECTORS_A_CODE = 64
# Distances that are held at once: on a CPU what stays in its cache, elsewhere a quarter of a gigabyte.
DISTANCES_ON_CPU, DISTANCES_ELSEWHERE = 2**20, 2**26


def in_order(vectors: Tensor) -> Tensor:
    """Rows sorted by their first column: what is drawn from them does not depend on which rank held which image."""
    return vectors[vectors[:, 0].argsort()]


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest row of codebook [K,D] for vectors [N,D] by Euclidean distance: int64 [N]."""
    # ‖v‖² is the same for all codes and left out.
    squares, codes = (codebook**2).sum(1)[None, :], codebook.T
    most = DISTANCES_ON_CPU if vectors.device.type == "cpu" else DISTANCES_ELSEWHERE
    parts = vectors.split(max(1, most // len(codebook)))
    return torch.cat([torch.addmm(squares, part, codes, alpha=-2).argmin(dim=1) for part in parts])


def kmeans(vectors: Tensor, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from a k-means++ start; an empty cluster moves to one of the worst-covered vectors.

    Args:
        vectors: float32 [N,D]; where fewer than `count` differ, some are used repeatedly.
        count: number of clusters K.
        generator: on the CPU, decides the start.

    Returns:
        Centres [K,D] and how many vectors each has [K].
    """
    first = int(torch.randint(len(vectors), (1,), generator=generator))
    chosen, error = [first], (vectors - vectors[first]).square().sum(1)
    for _ in range(count - 1):
        # The generator is the CPU's, so every device draws the same; where no error is left, any vector will do.
        weights = error if float(error.max()) > 0 else torch.ones_like(error)
        chosen.append(int(torch.multinomial(weights.cpu(), 1, generator=generator)))
        error = torch.minimum(error, (vectors - vectors[chosen[-1]]).square().sum(1))
    centres = vectors[chosen].clone()
    for _ in range(KMEANS_ROUNDS):
        codes = nearest(vectors, centres)
        sizes = torch.bincount(codes, minlength=count).to(vectors.dtype)
        sums = torch.zeros_like(centres).index_add_(0, codes, vectors)
        empty = (sizes == 0).nonzero().squeeze(1)
        worst = (vectors - centres[codes]).square().sum(1).argsort(descending=True, stable=True)[: len(empty)]
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
        centres[empty[: len(worst)]] = vectors[worst]
    return centres, torch.bincount(nearest(vectors, centres), minlength=count).to(vectors.dtype)


def rotate(vectors: Tensor, targets: Tensor) -> Tensor:
    """Rotation trick (arXiv 2410.06424): vectors [N,D] turned and scaled into targets [N,D] by a constant map.

    The value is `targets`; the gradient keeps its angle to the vector instead of being copied from the code. Where one
    of the two is nearly zero or they are opposite no such rotation exists: the gradient is copied (straight-through).
    """
    with torch.no_grad():
        norm_v, norm_t = vectors.norm(dim=1, keepdim=True), targets.norm(dim=1, keepdim=True)
        unit_v, unit_t = vectors / norm_v.clamp(min=1e-6), targets / norm_t.clamp(min=1e-6)
        middle = unit_v + unit_t
        length = middle.norm(dim=1, keepdim=True)
        middle = middle / length.clamp(min=1e-6)
        scale = norm_t / norm_v.clamp(min=1e-6)
        regular = (norm_v > 1e-4) & (norm_t > 1e-4) & (length > 1e-2)
    rotated = scale * (
        vectors
        - 2 * (vectors * middle).sum(1, keepdim=True) * middle
        + 2 * (vectors * unit_v).sum(1, keepdim=True) * unit_t
    )
    copied = vectors + (targets - vectors).detach()
    return torch.where(regular, rotated, copied)


class VectorQuantizer(nn.Module):
    """Nearest-code quantisation whose codebook follows the encoder by exponential moving averages.

    Args:
        codes: K.
        dim: D.
        decay: of the moving averages; .97 forgets half in 23 batches.
        restart_below: a code whose averaged share of the vectors falls below this fraction of an even share 1/K is
            moved to a vector of the current batch, drawn in proportion to its squared error (as k-means++ does); 0
            never restarts.
        cosine: compare directions only: inputs and codes are l2-normalised.
        gradient: how gradients pass the quantiser.
        seed: of the k-means start and the restarts.

    Attributes:
        restarted: how often a code was moved by a restart in this process's life, int64, equal on all ranks; not saved.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    initialised: Tensor
    updates: Tensor
    restarted: Tensor

    def __init__(
        self,
        codes: int,
        *,
        dim: int,
        decay: float = 0.97,
        restart_below: float = 0.03,
        cosine: bool = False,
        gradient: Gradient = "rotation",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.codes, self.dim, self.decay, self.restart_below = codes, dim, decay, restart_below
        self.cosine, self.gradient, self.seed = cosine, gradient, seed
        start = torch.randn(codes, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("codebook", functional.normalize(start, dim=1) if cosine else start)
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("restarted", torch.tensor(0), persistent=False)

    def _vectors(self, latent: Tensor) -> Tensor:
        """[B,D,h,w] → float32 [N,D]."""
        vectors = rows_of(latent, self.dim)
        return functional.normalize(vectors, dim=1) if self.cosine else vectors

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """[B,D,h,w] → codes int64 [B,h,w]; never changes the codebook.

        Raises:
            FloatingPointError: if the latent holds NaN, infinite or huge values.
        """
        with float32(latent.device):
            vectors = self._vectors(latent)
            check_finite(vectors)
            return nearest(vectors, self.codebook).reshape(len(latent), *latent.shape[2:])

    def forward(self, latent: Tensor) -> Quantized:
        """Quantise [B,D,h,w]; in training mode the codebook is updated after its vectors were looked up.

        Raises:
            FloatingPointError: if the latent holds NaN, infinite or huge values; in training mode on all ranks at once.
        """
        with float32(latent.device):
            b, _, h, w = latent.shape
            vectors = self._vectors(latent)
            if not self.training:
                check_finite(vectors)
            if self.training and not bool(self.initialised):
                self._start(vectors.detach())
            codes = nearest(vectors.detach(), self.codebook)
            # A copy, since the update below changes the codebook in place.
            targets = self.codebook[codes].clone()
            commitment = functional.mse_loss(vectors, targets)
            if self.training:
                self._update(vectors.detach(), codes)
            if not vectors.requires_grad:
                passed = targets
            elif self.gradient == "rotation":
                passed = rotate(vectors, targets)
            else:
                passed = vectors + (targets - vectors).detach()
            grid = passed.reshape(b, h, w, self.dim).permute(0, 3, 1, 2)
            return Quantized(grid, codes.reshape(b, h, w), commitment)

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 [B,h,w] → float32 [B,D,h,w].

        Raises:
            ValueError: if a code is outside 0..K-1.
        """
        check_codes(codes, self.codes)
        return self.codebook[codes].permute(0, 3, 1, 2)

    def _generator(self) -> torch.Generator:
        """Draws depend on the seed and the number of updates only, so a resumed run repeats them."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.updates))

    @torch.no_grad()
    def _start(self, vectors: Tensor) -> None:
        vectors = gather_rows(vectors)
        check_finite(vectors)
        vectors = in_order(vectors)
        generator = self._generator()
        most = KMEANS_VECTORS_A_CODE * self.codes
        if len(vectors) > most:
            vectors = vectors[torch.randperm(len(vectors), generator=generator)[:most].to(vectors.device)]
        centres, sizes = kmeans(vectors, self.codes, generator=generator)
        if distributed():
            dist.broadcast(centres, src=0)
            dist.broadcast(sizes, src=0)
        self._place(centres, counts=sizes.clamp(min=1))
        self.initialised.fill_(True)

    def _place(self, centres: Tensor, *, counts: Tensor) -> None:
        self.codebook.copy_(functional.normalize(centres, dim=1) if self.cosine else centres)
        self.counts.copy_(counts)
        self.sums.copy_(centres * counts[:, None])

    @torch.no_grad()
    def _update(self, vectors: Tensor, codes: Tensor) -> None:
        # One all-reduce: the last column counts the vectors of each code, the last row the ranks with unusable vectors.
        rows = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
        total = vectors.new_zeros(self.codes + 1, self.dim + 1)
        total.index_add_(0, codes, rows)
        total[-1, 0] = 1 - finite(vectors).float()
        total = sum_over_ranks(total)
        if float(total[-1, 0]):
            raise diverged(vectors)
        total = total[:-1]
        self.sums.lerp_(total[:, :-1], 1 - self.decay)
        self.counts.lerp_(total[:, -1], 1 - self.decay)
        centres = self.sums / self.counts.clamp(min=1e-6)[:, None]
        # A code that nothing has used for long keeps its place until it is restarted.
        centres = torch.where(self.counts[:, None] > 1e-6, centres, self.codebook)
        self.codebook.copy_(functional.normalize(centres, dim=1) if self.cosine else centres)
        self.updates.add_(1)
        # The counts are equal on all ranks, so all ranks take the same branch.
        even_share = float(self.counts.sum()) / self.codes
        dead = (self.counts < self.restart_below * even_share).nonzero().squeeze(1)
        if len(dead):
            self._restart(dead, vectors, even_share=even_share)

    def _restart(self, dead: Tensor, vectors: Tensor, *, even_share: float) -> None:
        vectors = in_order(gather_rows(vectors))
        error = (vectors - self.codebook[nearest(vectors, self.codebook)]).square().sum(1)
        # Where every vector has its own code already there is nothing to gain.
        chosen = min(len(dead), int((error > 1e-8).sum()))
        if distributed():
            # Rounding may differ between machines: rank 0 decides how many.
            number = torch.tensor([chosen], device=vectors.device)
            dist.broadcast(number, src=0)
            chosen = int(number)
        if not chosen:
            return
        # torch.multinomial takes at most 2^24 weights; top-k of Gumbel noise draws the same without that bound.
        noise = torch.rand(len(vectors), generator=self._generator()).clamp(min=1e-12).to(vectors.device)
        picks = vectors[(error.clamp(min=1e-30).log() - (-noise.log()).log()).topk(chosen).indices]
        if distributed():
            dist.broadcast(picks, src=0)
        dead = dead[:chosen]
        self.codebook[dead] = picks
        self.counts[dead] = even_share
        self.sums[dead] = picks * even_share
        self.restarted.add_(chosen)


class CodeUsage(Metric):
    """Counts of every code over all updates and ranks; `compute` gives the share of codes used and the perplexity.

    The perplexity is exp(entropy) of the code distribution: K when all are used evenly, 1 when one is used.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, codes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(codes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Add codes, int64 of any shape."""
        self.counts += torch.bincount(codes.reshape(-1), minlength=len(self.counts))

    def compute(self) -> dict[str, Tensor]:
        """{"usage": share in [0,1], "perplexity": in [1,K]}, float32."""
        share = self.counts / self.counts.sum().clamp(min=1)
        return {
            "usage": (self.counts > 0).float().mean(),
            "perplexity": torch.exp(torch.special.entr(share).sum()).float(),
        }
