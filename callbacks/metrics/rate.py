"""How many bits the codes of an image hold: nominal, and by the entropy of the codes of a whole test set.

N images of L cells, K codes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class CodeRate(NamedTuple):
    """Bits an image."""

    bits: float  # L times the entropy of the distribution of all codes of the set, wherever they stand
    nominal: float  # L log2 K: what a file of plain indices takes
    dead: int  # codes that do not occur
    cells: int  # L


def code_rate(codes: Tensor, *, total: int) -> CodeRate:
    """Bits an image, from the codes int64 [N,L] of a set with `total` = K codes.

    The entropy is the plug-in value, which is too low by about (K - 1) / (2 ln 2 · N · L) bits a cell. It knows nothing
    of neighbours, so a model of their order (the generator) needs fewer bits still.

    Raises:
        ValueError: for no codes, or a code outside of 0..K-1.
    """
    if not codes.numel():
        raise ValueError("no code was given: the test split is empty")
    if int(codes.min()) < 0 or int(codes.max()) >= total:
        raise ValueError(f"codes must lie in 0..{total - 1}, got {int(codes.min())}..{int(codes.max())}")
    counts = torch.bincount(codes.reshape(-1).cpu(), minlength=total).double()
    entropy = torch.special.entr(counts / counts.sum()).sum().item() / math.log(2)
    cells = codes.shape[1]
    return CodeRate(max(0.0, entropy) * cells, math.log2(total) * cells, int((counts == 0).sum()), cells)
