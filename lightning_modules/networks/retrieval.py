"""Does the aligner find the report of an image and the image of a report: pure functions over gathered pairs.

Shapes: P patches, D the aligner's space, K words, M statements, N pairs.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.alignment import Queries, late_interaction
from lightning_modules.networks.contrastive import Scores, mean_likelihoods, spoken_by


@dataclasses.dataclass(frozen=True)
class Pair:
    """Features of one image and its report, kept for retrieval."""

    order: int  # a hash of the image id: the pairs with the smallest are kept, whatever the ranks and batches
    image_id: str
    patches: Tensor  # [P,D]
    boxes: Tensor  # [P,4]
    words: Tensor  # [K,D], only the words that count
    statements: Queries  # what the report states
    text: int  # a hash of the report
    shown: int  # a hash of what the report says is there


def recall_at(scores: Tensor, same: Tensor, *, ks: Sequence[int]) -> list[float]:
    """Retrieval R@k.

    Args:
        scores: float [N,M], of query n with candidate m.
        same: bool [N,M], the right candidates (several where reports are identical); at least one a row.
        ks: list lengths.

    Returns:
        R@k for each k. A wrong candidate that ties with the best right one counts as ahead of it, so that a network
        with constant output does not score.
    """
    best = scores.masked_fill(~same, float("-inf")).amax(dim=1, keepdim=True)
    ahead = ((scores >= best) & ~same).sum(dim=1)
    return [(ahead < k).double().mean().item() for k in ks]


def random_recall(right: Tensor, total: Tensor | int, *, k: int) -> float:
    """Mean R@k of a random order of `total` candidates a query, int64 [N], of which `right`, int64 [N], are right."""
    # All of the first k are wrong with probability C(total - right, k) / C(total, k).
    wrong, left = (torch.as_tensor(total) - right).double(), torch.as_tensor(total).double().expand(len(right))
    missed = torch.ones_like(wrong)
    for i in range(k):
        missed *= ((wrong - i).clamp_min(0) / (left - i).clamp_min(1)).clamp(max=1)
    return (1 - missed).mean().item()


def thinned(patches: Tensor, *, most: int = 256) -> Tensor:
    """Every n-th patch of every n-th row, so that no more than `most` are left: [N,P,D] of a square grid → [N,p,D].

    As in training: a finer grid would make the late interaction of all pairs that much slower.
    """
    side = math.isqrt(patches.shape[1])
    step = math.ceil(side / math.isqrt(most))
    return patches.unflatten(1, (side, side))[:, ::step, ::step].flatten(1, 2)


def retrieval_scores(pairs: Sequence[Pair], *, fits: Callable[[Queries, Tensor], Tensor]) -> dict[str, float]:
    """R@1, 5, 10, the mean of both directions; identical reports count as right.

    Args:
        pairs: all of them.
        fits: of the network, statements and patches [N,P,D] → [N,M].

    Returns:
        "recall_at_<k>" by the reports' statements and "word_recall_at_<k>" by late interaction of all words;
        "..._chance" of a random order; "..._ceiling" of who reads in each image exactly what its report says is there:
        reports that deny different things of equal images cannot be told apart.
    """
    patches = thinned(torch.stack([pair.patches for pair in pairs]))
    texts, shown = (torch.tensor([getattr(pair, name) for pair in pairs]) for name in ("text", "shown"))
    same, ks = texts[:, None] == texts[None, :], (1, 5, 10)
    scores = {"retrieval_pairs": float(len(pairs))}
    for prefix, both in (("", _by_statements(pairs, patches, fits)), ("word_", _by_words(pairs, patches))):
        forward, backward = recall_at(both.to_text, same, ks=ks), recall_at(both.to_image.T, same, ks=ks)
        scores |= {f"{prefix}recall_at_{k}": (a + b) / 2 for k, a, b in zip(ks, forward, backward, strict=True)}
    for k in ks:
        scores[f"recall_at_{k}_chance"] = random_recall(same.sum(dim=1), len(pairs), k=k)
        scores[f"recall_at_{k}_ceiling"] = random_recall(
            same.sum(dim=1), (shown[:, None] == shown[None, :]).sum(dim=1), k=k
        )
    return scores


def _by_words(pairs: Sequence[Pair], patches: Tensor) -> Scores:
    longest = max(len(pair.words) for pair in pairs)
    words = torch.stack([functional.pad(pair.words, (0, 0, 0, longest - len(pair.words))) for pair in pairs])
    mask = torch.tensor([[i < len(pair.words) for i in range(longest)] for pair in pairs])
    return Scores(*late_interaction(patches, words, mask))


def _by_statements(
    pairs: Sequence[Pair], patches: Tensor, fits: Callable[[Queries, Tensor], Tensor], *, step: int = 16
) -> Scores:
    counts = [len(pair.statements.vectors) for pair in pairs]
    every = Queries(*(torch.cat(parts) for parts in zip(*(pair.statements for pair in pairs), strict=True)))
    ends = torch.tensor(counts).cumsum(dim=0).tolist()
    numbers = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
    spoken = spoken_by(numbers, count=sum(counts), device=patches.device)
    # In parts: 500 images of 256 patches and 4,000 statements have half a billion cosines.
    fitting = torch.cat([fits(every, part) for part in patches.split(step)])
    # The pairs are those of all ranks already: nothing is gathered here.
    scores = mean_likelihoods(functional.logsigmoid(fitting.float()), spoken)
    return Scores(scores, scores)
