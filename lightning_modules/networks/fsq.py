"""Finite scalar quantisation (FSQ, arXiv 2309.15505): few bounded channels, each rounded to a fixed number of levels.

There is no codebook to learn, so nothing can collapse, ranks share nothing but whether one has diverged, and the
quantiser has no loss of its own. Everything runs in float32 with autocast off. Codes, values and gradients are those of
vector-quantize-pytorch's FSQ, which leaves CPU autocast on, numbers NaN as a code, and brings six packages with it.

Shapes: B batch, D code dimension, h × w grid, K codes = product of the levels, C = number of levels, N = B·h·w.
"""

import math
from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from lightning_modules.networks.codes import Quantized, check_codes, check_finite, float32, rows_of

# tanh is stretched by this much so that the outermost levels are reached; 1000 levels would round beyond them.
STRETCH = 1e-3
FEWEST, MOST = 3, 256
# What is proposed to a user: the paper finds five levels and more to work best, six channels reach millions of codes.
PROPOSED, CHANNELS = range(4, 17), range(2, 7)


def fitting_levels(codes: int) -> tuple[int, ...] | None:
    """Levels whose product is `codes`, where possible all of five or more and near one another; None if none fit."""
    found = [
        levels[::-1]
        for channels in CHANNELS
        if PROPOSED[0] ** channels <= codes
        for levels in combinations_with_replacement(PROPOSED, channels)
        if math.prod(levels) == codes
    ]
    return min(found, key=lambda levels: (min(levels) < 5, levels[0] / levels[-1], len(levels)), default=None)


def check_levels(levels: tuple[int, ...], codes: int) -> None:
    """Refuse levels that do not make `codes` codes.

    Raises:
        ValueError: with the product, and levels that fit.
    """
    product = math.prod(levels)
    if levels and product == codes and all(FEWEST <= level <= MOST for level in levels):
        return
    fit = fitting_levels(codes)
    advice = f"levels {list(fit)} fit" if fit else f"no levels of {PROPOSED[0]} to {PROPOSED[-1]} fit, take other codes"
    raise ValueError(
        f"quantizer fsq needs levels of {FEWEST}..{MOST} whose product is codes = {codes}, got {list(levels)} with the "
        f"product {product}: {advice}"
    )


class FSQ(nn.Module):
    """Rounds each of C channels to one of its levels.

    Args:
        levels: of each channel, each 3..256; K is their product.
        dim: D of the latent and of the codes' vectors; where it is not C, linear layers map to C channels and back.

    Raises:
        ValueError: if a level is out of range.
    """

    half_range: Tensor
    offset: Tensor
    shift: Tensor
    half_width: Tensor
    basis: Tensor
    levels: Tensor

    def __init__(self, levels: tuple[int, ...], *, dim: int) -> None:
        super().__init__()
        check_levels(levels, math.prod(levels))
        self.codes, self.dim = math.prod(levels), dim
        count = torch.tensor(levels)
        half_range = (count - 1) * (1 + STRETCH) / 2
        # An even number of levels has no middle one: half a step to the left, and input 0 stays on the level 0.
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        constants = {
            "levels": count,
            "basis": torch.tensor([1, *levels[:-1]]).cumprod(0),
            "half_range": half_range,
            "offset": offset,
            "shift": torch.atanh(offset / half_range),
            "half_width": count // 2,
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.narrow = nn.Linear(dim, len(levels)) if dim != len(levels) else nn.Identity()
        self.widen = nn.Linear(len(levels), dim) if dim != len(levels) else nn.Identity()

    def _bounded(self, latent: Tensor, *, all_ranks: bool = False) -> Tensor:
        """[B,D,h,w] → float32 [N,C]; rounding gives the levels -(L//2)..(L-1)//2."""
        vectors = rows_of(latent, self.dim)
        channels = self.narrow(vectors)
        # NaN and infinity pass the layer, and here are far fewer values to look at.
        check_finite(channels, of=vectors, all_ranks=all_ranks)
        return torch.tanh(channels + self.shift) * self.half_range - self.offset

    def _codes(self, rounded: Tensor) -> Tensor:
        """Float [N,C] → int64 [N]; the first channel counts fastest."""
        return ((rounded.long() + self.half_width) * self.basis).sum(dim=1)

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """[B,D,h,w] → codes int64 [B,h,w].

        Raises:
            FloatingPointError: if the latent holds NaN, infinite or huge values.
        """
        with float32(latent.device):
            return self._codes(self._bounded(latent).round()).reshape(len(latent), *latent.shape[2:])

    def forward(self, latent: Tensor) -> Quantized:
        """Quantise [B,D,h,w]; gradients pass the rounding unchanged (straight-through), the commitment is 0.

        Raises:
            FloatingPointError: if the latent holds NaN, infinite or huge values; in training mode on all ranks at once.
        """
        with float32(latent.device):
            b, _, h, w = latent.shape
            bounded = self._bounded(latent, all_ranks=self.training)
            rounded = bounded.detach().round()
            # In this order the value is exactly the level.
            passed = rounded + (bounded - bounded.detach()) if bounded.requires_grad else rounded
            grid = self.widen(passed / self.half_width).reshape(b, h, w, self.dim).permute(0, 3, 1, 2)
            return Quantized(grid, self._codes(rounded).reshape(b, h, w), latent.new_zeros((), dtype=torch.float32))

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 [B,h,w] → float32 [B,D,h,w].

        Raises:
            ValueError: if a code is outside 0..K-1.
        """
        check_codes(codes, self.codes)
        with float32(codes.device):
            return self._vectors(codes).permute(0, 3, 1, 2)

    def _vectors(self, codes: Tensor) -> Tensor:
        """int64 [...] → [...,D]."""
        return self.widen((codes[..., None] // self.basis % self.levels - self.half_width) / self.half_width)

    @property
    def codebook(self) -> Tensor:
        """The constant vectors of all codes [K,D]."""
        with torch.no_grad(), float32(self.basis.device):
            return self._vectors(torch.arange(self.codes, device=self.basis.device))
