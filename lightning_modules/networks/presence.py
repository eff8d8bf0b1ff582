"""Word presence: a stated finding must be found by some patch of its image, and by none of an image without it.

Multiple-instance learning on top of the late interaction. The contrastive loss compares whole reports, most of whose
words say that nothing is wrong; this term speaks of one finding at a time, so it is what teaches a word its place.
Legend: B images, P patches, D dimensions, U words of the lexicon, M mentions.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from datamodules.reports.mentions import Mention, extract
from datamodules.reports.phrases import lexicon
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.ranks import distributed
from lightning_modules.networks.tokenizer import Tokens


@lru_cache(maxsize=1)
def findings() -> dict[str, int]:
    """The lexicon's pathology words and their places."""
    words = sorted(word for word, entity in lexicon().entities.items() if entity.kind == "pathology")
    return {word: place for place, word in enumerate(words)}


@lru_cache(maxsize=100_000)
def stated(report: str) -> tuple[Mention, ...]:
    """The pathologies that a report names, whatever their status; remembered, since each is read every epoch."""
    return tuple(mention for mention in extract(report) if mention.kind == "pathology")


def mentioned(reports: Sequence[str], tokens: Tokens, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `presence_loss` needs of B reports and their word vectors [B,W,D].

    Returns:
        The vectors [M,D] of the findings that are present, their places int64 [M] in `findings()`, and the table [B,U]
        of 1 present, 0 not, NaN uncertain.
    """
    places = findings()
    present = torch.zeros(len(reports), len(places))
    rows, found = [], []
    for b, report in enumerate(reports):
        for mention in stated(report):
            place = places[mention.word]
            if mention.status == "uncertain" and present[b, place] == 0:
                present[b, place] = torch.nan
            if mention.status == "present":
                present[b, place] = 1.0
                inside = mention_words(mention, tokens.spans[b])
                if inside:
                    rows.append(functional.normalize(vectors[b, inside].mean(dim=0), dim=0))
                    found.append(place)
    stacked = torch.stack(rows) if rows else vectors.new_zeros(0, vectors.shape[-1])
    return stacked, torch.tensor(found, dtype=torch.long, device=vectors.device), present.to(vectors.device)


def presence_loss(
    patches: Tensor, mentions: Tensor, words: Tensor, present: Tensor, *, gain: Tensor, offset: Tensor
) -> Tensor:
    """Binary cross-entropy of "this image shows this word" over images and words that occur in the batch of all ranks.

    A word's vector is the mean of its mentions; an image's score is the smooth maximum (log-mean-exp) over its patches
    of gain · cosine, plus the offset. Words are averaged over all ranks with their gradients, so that the mean over
    ranks, which DDP takes, is the loss of one rank with the union batch.

    Args:
        patches: unit vectors [B,P,D].
        mentions: unit vectors [M,D] of the findings that reports state.
        words: int64 [M], the mentions' places in the lexicon.
        present: float [B,U] of 1 stated, 0 not, NaN left out.
        gain: scalar, above 0.
        offset: scalar.
    """
    sums = patches.new_zeros(present.shape[1], patches.shape[-1], dtype=torch.float32)
    sums = sums.index_add(0, words, mentions.float())
    counts = torch.bincount(words, minlength=present.shape[1]).float()
    if distributed():
        sums = all_reduce(sums)
        dist.all_reduce(counts)
    met = counts > 0
    if not met.any():
        return (patches.sum() + gain + offset) * 0.0
    vectors = functional.normalize(sums[met], dim=-1)
    with torch.autocast(patches.device.type, enabled=False):
        scores = torch.logsumexp(gain * (patches.float() @ vectors.T), dim=1) - torch.tensor(patches.shape[1]).log()
    known = ~present[:, met].isnan()
    losses = functional.binary_cross_entropy_with_logits(
        scores + offset, present[:, met].nan_to_num(), reduction="none"
    )
    # Over all places, known or not, so that every rank divides by the same number.
    return (losses * known).mean()
