"""Each statement of a report on its own: is it shown by some patch of each image of the batch?

The contrastive loss compares whole reports, most of whose words say that nothing is wrong. Here one finding is asked
for at a time, with its side and place, so this is what teaches a word where to look: multiple-instance learning on
the late interaction. What holds of which image is decided by `datamodules.reports.entailment`, so equal findings of two
studies do not repel each other, and the same finding on the other side is the hardest negative there is.
Legend: B images, P patches, D dimensions, M statements of all ranks.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.reports.entailment import Fact, fact_of, facts, holds, pathologies, silent
from lightning_modules.networks.alignment import every_cosine
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.ranks import gather_items, gather_rows, sum_over_ranks, world_size
from lightning_modules.networks.tokenizer import Tokens


class Statement(NamedTuple):
    """A pathology that a text states or denies.

    Attributes:
        fact: what it says.
        text: row of the text.
        words: the words of the phrase.
    """

    fact: Fact
    text: int
    words: tuple[int, ...]


class Answers(NamedTuple):
    """Which statements hold of which images; bool [B,M]. A pair that is in none of them is not decided."""

    true: Tensor
    false: Tensor
    hard: Tensor  # false, and the image shows the same finding elsewhere


def prompts(reports: Sequence[str]) -> list[str]:
    """A sentence that states and one that denies it, for every pathology that the reports name; sorted by word.

    Reports give nearly every finding a side or a degree: what it looks like anywhere is asked by these alone.
    """
    words = sorted({fact.word for report in reports for fact in facts(report)})
    return [text for word in words for text in prompt_pair(word)]


def prompt_pair(word: str) -> tuple[str, str]:
    """The sentence that states a pathology anywhere, and the one that denies it."""
    return f"There is {word}.", f"No {word}."


def statements(texts: Sequence[str], tokens: Tokens, *, step: int) -> list[Statement]:
    """One statement of each fact but its degree, among all ranks' texts; suspicions are left out.

    Which text speaks for a fact that several state changes with `step`, and does not depend on the ranks.
    """
    best: dict[Fact, tuple[bytes, Statement]] = {}
    for row, text in enumerate(texts):
        for mention in pathologies(text):
            inside = mention_words(mention, tokens.spans[row])
            if mention.status == "uncertain" or not inside:
                continue
            fact = fact_of(mention)._replace(severity=None)
            order = hashlib.blake2b(f"{step}/{mention.start}/{text}".encode(), digest_size=8).digest()
            if fact not in best or order < best[fact][0]:
                best[fact] = order, Statement(fact, row, tuple(inside))
    everyone = gather_items([{fact: order for fact, (order, _) in best.items()}])  # one dictionary a rank
    if len(everyone) == 1:
        return [one for _, one in best.values()]
    mine = torch.distributed.get_rank()
    least = {fact: min((orders[fact], rank) for rank, orders in enumerate(everyone) if fact in orders) for fact in best}
    return [one for fact, (_, one) in best.items() if least[fact][1] == mine]


def statement_vectors(
    found: Sequence[tuple[int, Sequence[int]]], vectors: Tensor, denials: Tensor
) -> tuple[Tensor, Tensor]:
    """What M statements ask for: the means over their words.

    Args:
        found: for each the row of its text, and its words; at least one.
        vectors: unit vectors [B,W,D] of the texts' words.
        denials: [B,W], the logits that a word's sentence denies it.

    Returns:
        Unit vectors [M,D], and logits of denial [M].
    """
    length, device = vectors.shape[1], vectors.device
    place = torch.tensor([row * length + i for row, words in found for i in words], dtype=torch.long, device=device)
    owner = torch.tensor([m for m, (_, words) in enumerate(found) for _ in words], dtype=torch.long, device=device)
    both = torch.cat([vectors, denials[..., None]], dim=-1).flatten(0, 1).index_select(0, place)
    summed = both.new_zeros(len(found), both.shape[-1]).index_add(0, owner, both)
    counts = torch.tensor([len(words) for _, words in found], device=device)
    return functional.normalize(summed[:, :-1], dim=-1), summed[:, -1] / counts


def answers(asked: Sequence[Fact], reports: Sequence[str], *, device: torch.device) -> Answers:
    """What each of B images answers to M statements; an image whose report tells nothing answers none."""
    stated = [facts(report) for report in reports]
    held = torch.tensor([[holds(fact, of, severity=False) for fact in asked] for of in stated], device=device)
    held = held.reshape(len(reports), len(asked))
    held[torch.tensor([silent(report) for report in reports], device=device)] = torch.nan
    shown = [{fact.word for fact in of if fact.status == "present"} for of in stated]
    elsewhere = torch.tensor(
        [[fact.status == "present" and fact.word in words for fact in asked] for words in shown],
        dtype=torch.bool,
        device=device,
    )
    return Answers(held == 1, (held == 0) & ~elsewhere, (held == 0) & elsewhere)


def mention_loss(evidence: Tensor, found: Answers, denied: Tensor) -> Tensor:
    """Balanced binary cross-entropy: what is stated and what is denied count alike, and so do what holds and what not.

    Args:
        evidence: float [B,M], the logit that each image of this rank shows each statement's finding.
        found: of the same.
        denied: bool [M], the statements that deny: their evidence is that of absence.

    Returns:
        Scalar whose mean over ranks is that of one rank with the union batch.
    """
    sign = torch.where(denied, -1.0, 1.0)
    losses, wrong = functional.softplus(-sign * evidence), functional.softplus(sign * evidence)  # -log of yes, of no
    groups = (
        (found.true & ~denied, losses, 0.5),
        (found.false & ~denied, wrong, 0.25),
        (found.hard & ~denied, wrong, 0.25),
        (found.true & denied, losses, 0.25),
        (found.false & denied, wrong, 0.25),
    )
    counts = sum_over_ranks(torch.stack([chosen.sum() for chosen, _, _ in groups])).clamp_min(1)
    terms = [
        weight * (values * chosen).sum() / count for (chosen, values, weight), count in zip(groups, counts, strict=True)
    ]
    return torch.stack(terms).sum() * world_size()


def denial_loss(logits: Tensor, denied: Tensor) -> Tensor:
    """Whether each of this rank's statements denies: mean binary cross-entropy over all ranks' statements."""
    losses = functional.binary_cross_entropy_with_logits(logits, denied.float(), reduction="sum")
    count = sum_over_ranks(torch.tensor(len(denied), device=logits.device)).clamp_min(1)
    return losses * world_size() / count


def statement_losses(
    texts: Sequence[str],
    tokens: Tokens,
    reports: Sequence[str],
    *,
    words: tuple[Tensor, Tensor],
    patches: Tensor,
    evidence: Callable[[Tensor], Tensor],
    step: int,
) -> tuple[Tensor, Tensor]:
    """`mention_loss` and `denial_loss` of the statements of all ranks.

    Args:
        texts: the reports of this rank, and what else states something.
        tokens: of the texts.
        reports: of the images.
        words: unit vectors and logits of denial of the texts' words, [T,W,D] and [T,W].
        patches: unit vectors [B,P,D] of the images.
        evidence: cosines [B,M,P] → logits [B,M].
        step: of the training.
    """
    found = statements(texts, tokens, step=step)
    vectors, denials = statement_vectors([(one.text, one.words) for one in found], *words)
    asked, queries = gather_items([one.fact for one in found]), gather_rows(vectors)
    denied = torch.tensor([fact.status == "absent" for fact in asked], dtype=torch.bool, device=patches.device)
    own = torch.tensor([one.fact.status == "absent" for one in found], dtype=torch.bool, device=patches.device)
    logits = evidence(every_cosine(queries, patches))
    return mention_loss(logits, answers(asked, reports, device=patches.device), denied), denial_loss(denials, own)
