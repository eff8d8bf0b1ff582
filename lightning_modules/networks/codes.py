"""What all quantisers share: their result, and what they refuse.

`quantizer.py`, `fsq.py` and `lfq.py` map a latent to `Quantized` in their forward and have `encode`, `lookup`, `codes`
(K), `dim` (D) and `codebook`, the vectors of all codes [K,D]. They work in float32 with autocast off.

Shapes: B batch, D code dimension, h × w grid, K codes, N = B·h·w.
"""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.networks.ranks import sum_over_ranks

# Sums of squares of larger values come near the end of float32; a latent of this size has diverged.
LARGEST = 1e12


class Quantized(NamedTuple):
    """What every quantiser returns."""

    vectors: Tensor  # float32 [B,D,h,w], the codes' vectors; gradients reach the input
    codes: Tensor  # int64 [B,h,w]
    commitment: Tensor  # float32 scalar, the quantiser's own loss: how far the input is from its (constant) codes


def float32(device: torch.device) -> contextlib.AbstractContextManager:
    """Autocast off on this device."""
    return torch.autocast(device_type=device.type, enabled=False)


def bf16_at_least(device: torch.device) -> contextlib.AbstractContextManager:
    """Autocast off where it is float16: gradients that no GradScaler has scaled up fall below its smallest number."""
    if torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16:
        return float32(device)
    return contextlib.nullcontext()


def rows_of(latent: Tensor, dim: int) -> Tensor:
    """[B,D,h,w] of any float type → float32 [N,D]."""
    return latent.float().permute(0, 2, 3, 1).reshape(-1, dim)


def finite(vectors: Tensor) -> Tensor:
    """Whether all values are numbers within ±LARGEST: bool scalar."""
    if not vectors.numel():
        return torch.ones((), dtype=torch.bool, device=vectors.device)
    low, high = vectors.detach().aminmax()
    # A comparison with NaN is false.
    return (low >= -LARGEST) & (high <= LARGEST)


def diverged(vectors: Tensor) -> FloatingPointError:
    """The error to raise where `finite` is false; it names what was found in this process's vectors."""
    strange = int((~torch.isfinite(vectors)).sum())
    largest = float(vectors.nan_to_num(0.0, posinf=0.0, neginf=0.0).abs().amax()) if vectors.numel() else 0.0
    return FloatingPointError(
        f"the quantiser got latents that it cannot take: {strange} of {vectors.numel()} values are NaN or infinite and "
        f"the largest other one is {largest:.3g} (at most {LARGEST:g}; in training all ranks stop, whichever has "
        "such values); the encoder has diverged: lower the learning rate, set trainer.gradient_clip_val, or look for "
        "NaN in the images. The codebook was not changed"
    )


def check_finite(vectors: Tensor, *, of: Tensor | None = None, all_ranks: bool = False) -> None:
    """Refuse NaN, infinite and huge values.

    Args:
        vectors: of any shape.
        of: what they were made from by a linear layer, where the message should be about that.
        all_ranks: refuse those of the other ranks too, so that none waits for one that has stopped; all must call.

    Raises:
        FloatingPointError: with how many this process has.
    """
    bad = (~finite(vectors)).float()
    if bool(sum_over_ranks(bad) if all_ranks else bad):
        raise diverged(vectors if of is None else of)


def check_codes(codes: Tensor, count: int) -> None:
    """Refuse codes that a codebook of `count` entries does not have.

    Raises:
        ValueError: with the range of the codes and the allowed one.
    """
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= count):
        raise ValueError(
            f"codes must lie in 0..{count - 1}, got {int(codes.min())}..{int(codes.max())}; "
            "they were made with another codebook or hold special tokens"
        )
