"""Lookup-free quantisation (LFQ, arXiv 2310.05737): a code is the signs of log2(K) channels.

There is no codebook to learn; an entropy loss makes each vector sure of its code and the codes evenly used. Everything
runs in float32 with autocast off. Codes, values, losses and gradients are those of vector-quantize-pytorch's LFQ at one
process. Ours stays because (a) bits are independent, so entropies need no [N,K] table of probabilities: see
`code_shares`; (b) theirs drops the result of its all-reduce, so that more ranks change the loss; (c) it leaves CPU
autocast on and gives NaN a code.

Shapes: B batch, D code dimension, h × w grid, K codes, C = log2(K) channels, N = B·h·w.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from lightning_modules.networks.codes import Quantized, check_codes, check_finite, float32, rows_of
from lightning_modules.networks.ranks import distributed


def check_power_of_two(codes: int) -> None:
    """Refuse a number of codes that signs cannot count.

    Raises:
        ValueError: with the nearest numbers that fit.
    """
    if codes < 2 or codes & (codes - 1):
        below = 2 ** max(1, codes.bit_length() - 1)
        raise ValueError(f"quantizer lfq needs a power of two as codes, got {codes}; {below} and {2 * below} fit")


def bit_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of bits that are 1 with probability sigmoid(logits); finite for all finite logits."""
    size = logits.abs()
    return functional.softplus(-size) + size * torch.sigmoid(-size)


def code_shares(ones: Tensor) -> Tensor:
    """Sum over N of each code's probability, from independent bits' probabilities of being 1 [N,C]: [K].

    A code's probability is the product of its bits'. With one table for the first half of the bits, [N,√K], and one
    for the rest, the sum over N of all products is a matrix product: the [N,K] table is never made.
    """
    halves = []
    for part in (ones[:, : ones.shape[1] // 2], ones[:, ones.shape[1] // 2 :]):
        table = torch.ones_like(ones[:, :1])
        for one in part.unbind(dim=1):
            table = (table[:, :, None] * torch.stack([1 - one, one], dim=1)[:, None, :]).flatten(1)
        halves.append(table)
    return (halves[0].T @ halves[1]).flatten()


class LFQ(nn.Module):
    """Takes the signs of C channels as the bits of a code; its vector has ±1 in each.

    The commitment of `Quantized` is, in training mode, the mean squared distance of the channels from their signs plus
    `entropy` × (mean entropy of a vector's code - entropy of the codes of the batch). The second is taken over the
    vectors of all ranks, with gradients through the all-reduce: after DDP has averaged gradients, R ranks of equal
    batches act like one rank with the whole batch. In eval mode it is the distance alone and ranks do not meet.

    Args:
        codes: K, a power of two.
        dim: D of the latent and of the codes' vectors; where it is not C, linear layers map to C channels and back.
        entropy: weight of the entropy loss beside the distance.
        sharpness: inverse temperature of a vector's distribution over codes,
            softmax(2 · sharpness · ⟨channels, signs⟩).

    Raises:
        ValueError: if codes is no power of two.
    """

    basis: Tensor

    def __init__(self, codes: int, *, dim: int, entropy: float = 0.4, sharpness: float = 100.0) -> None:
        super().__init__()
        check_power_of_two(codes)
        self.codes, self.dim, self.entropy, self.sharpness = codes, dim, entropy, sharpness
        bits = codes.bit_length() - 1
        # The first channel is the highest bit.
        self.register_buffer("basis", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)
        self.narrow = nn.Linear(dim, bits) if dim != bits else nn.Identity()
        self.widen = nn.Linear(bits, dim) if dim != bits else nn.Identity()

    def _channels(self, latent: Tensor, *, all_ranks: bool = False) -> Tensor:
        """[B,D,h,w] → float32 [N,C]."""
        vectors = rows_of(latent, self.dim)
        channels = self.narrow(vectors)
        # NaN and infinity pass the layer, and here are far fewer values to look at.
        check_finite(channels, of=vectors, all_ranks=all_ranks)
        return channels

    def _codes(self, channels: Tensor) -> Tensor:
        """Float [N,C] → int64 [N]."""
        return ((channels > 0) * self.basis).sum(dim=1)

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """[B,D,h,w] → codes int64 [B,h,w].

        Raises:
            FloatingPointError: if the latent holds NaN, infinite or huge values.
        """
        with float32(latent.device):
            return self._codes(self._channels(latent)).reshape(len(latent), *latent.shape[2:])

    def forward(self, latent: Tensor) -> Quantized:
        """Quantise [B,D,h,w]; gradients pass the sign unchanged (straight-through).

        Raises:
            FloatingPointError: if the latent holds NaN, infinite or huge values; in training mode on all ranks at once.
        """
        with float32(latent.device):
            b, _, h, w = latent.shape
            channels = self._channels(latent, all_ranks=self.training)
            signs = torch.where(channels.detach() > 0, 1.0, -1.0)
            commitment = functional.mse_loss(channels, signs)
            if self.training:
                sure, even = self.entropies(channels)
                commitment = commitment + self.entropy * (sure - even)
            # In this order the value is exactly the sign.
            passed = signs + (channels - channels.detach()) if channels.requires_grad else signs
            grid = self.widen(passed).reshape(b, h, w, self.dim).permute(0, 3, 1, 2)
            return Quantized(grid, self._codes(channels).reshape(b, h, w), commitment)

    def entropies(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean entropy of a vector's code, and the entropy of the mean distribution over all ranks; scalars in nats.

        Args:
            channels: float32 [N,C].
        """
        # A bit's two signs differ by 2 in the scalar product.
        logits = 4 * self.sharpness * channels
        shares, number = code_shares(torch.sigmoid(logits)), channels.new_tensor(float(len(channels)))
        if distributed():
            dist.all_reduce(number)
            shares = all_reduce(shares)
        shares = shares / number
        # Bounded below: the slope of p log p is infinite at 0.
        return bit_entropy(logits).sum(dim=1).mean(), -(shares * shares.clamp(min=1e-12).log()).sum()

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
        return self.widen((codes[..., None] & self.basis).ne(0).float() * 2 - 1)

    @property
    def codebook(self) -> Tensor:
        """The constant vectors of all codes [K,D]."""
        with torch.no_grad(), float32(self.basis.device):
            return self._vectors(torch.arange(self.codes, device=self.basis.device))
