"""Does the aligner find the report of an image and the image of a report: pure functions over gathered pairs.

Shapes: P patches, D the aligner's space, K words, N pairs.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.alignment import late_interaction


@dataclasses.dataclass(frozen=True)
class Pair:
    """Features of one image and its report, kept for retrieval."""

    order: int  # a hash of the image id: the pairs with the smallest are kept, whatever the ranks and batches
    image_id: str
    patches: Tensor  # [P,D]
    boxes: Tensor | None  # [P,4] where patches choose their place
    words: Tensor  # [K,D], only the words that count
    text: int  # a hash of the report


def text_number(text: str) -> int:
    """A signed 64-bit number for a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def recall_at(scores: Tensor, same: Tensor, *, ks: Sequence[int]) -> tuple[list[float], list[float]]:
    """Retrieval R@k, and what a random order would reach.

    Args:
        scores: float [N,M], of query n with candidate m.
        same: bool [N,M], the right candidates (several where reports are identical); at least one a row.
        ks: list lengths.

    Returns:
        R@k and its chance for each k. A wrong candidate that ties with the best right one counts as ahead of it, so
        that a network with constant output does not score.
    """
    best = scores.masked_fill(~same, float("-inf")).amax(dim=1, keepdim=True)
    ahead = ((scores >= best) & ~same).sum(dim=1)
    right, total = same.sum(dim=1).double(), scores.shape[1]
    recalls, chances = [], []
    for k in ks:
        recalls.append((ahead < k).double().mean().item())
        # All of the first k are wrong with probability C(total - right, k) / C(total, k).
        missed = torch.ones_like(right)
        for i in range(min(k, total)):
            missed *= ((total - right - i) / (total - i)).clamp_min(0.0)
        chances.append((1 - missed).mean().item())
    return recalls, chances


def thinned(patches: Tensor, *, most: int = 256) -> Tensor:
    """Every n-th patch of every n-th row, so that no more than `most` are left: [N,P,D] of a square grid → [N,p,D].

    As in training: a finer grid would make the late interaction of all pairs that much slower.
    """
    side = math.isqrt(patches.shape[1])
    step = math.ceil(side / math.isqrt(most))
    return patches.unflatten(1, (side, side))[:, ::step, ::step].flatten(1, 2)


def retrieval_scores(pairs: Sequence[Pair]) -> dict[str, float]:
    """R@1, 5, 10, the mean of both directions, and its chance; identical reports count as right."""
    longest = max(len(pair.words) for pair in pairs)
    words = torch.stack([functional.pad(pair.words, (0, 0, 0, longest - len(pair.words))) for pair in pairs])
    mask = torch.tensor([[i < len(pair.words) for i in range(longest)] for pair in pairs])
    patches = thinned(torch.stack([pair.patches for pair in pairs]))
    to_text, to_image = late_interaction(patches, words, mask)
    texts = torch.tensor([pair.text for pair in pairs])
    same, ks = texts[:, None] == texts[None, :], (1, 5, 10)
    (forward, chance), (backward, _) = recall_at(to_text, same, ks=ks), recall_at(to_image.T, same, ks=ks)
    scores = {f"recall_at_{k}": (a + b) / 2 for k, a, b in zip(ks, forward, backward, strict=True)}
    scores |= {f"recall_at_{k}_chance": value for k, value in zip(ks, chance, strict=True)}
    return scores | {"retrieval_pairs": float(len(pairs))}
