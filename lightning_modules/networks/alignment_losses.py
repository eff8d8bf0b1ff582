"""What trains the aligner: each statement for itself, and whole reports against one another.

The contrast of whole reports cannot teach a word where to look: most words of a report say that nothing is wrong.
So one finding is asked for at a time, with its side and place: multiple-instance learning on the late interaction.
Legend: B images or texts of this rank, P patches, M statements of all ranks, D dimensions.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.reports.entailment import facts
from lightning_modules.networks.alignment import AlignmentNetwork, Queries, Words, compact, content_mask
from lightning_modules.networks.contrastive import (
    batch_targets,
    contrastive_loss,
    pooled_scores,
    spoken_by,
    statement_scores,
    told,
    word_scores,
)
from lightning_modules.networks.ranks import gather_items, gather_rows, sum_over_ranks, world_size
from lightning_modules.networks.statements import Answers, answers, queries, statements
from lightning_modules.networks.text_numbers import text_number
from lightning_modules.networks.tokenizer import Tokens


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """How much each part counts; what weighs 0 is not computed.

    Attributes:
        statements: each statement for itself; that a sentence denies is learnt with it.
        hard: share, in [0,1], of images with the same finding on the other side among those of which a statement does
            not hold; at 0 these are no negatives at all.
        reports: contrast of whole reports by their statements.
        words: contrast of whole reports by late interaction of all words with all patches, as AdaMatch has it; it costs
            as much as all else together.
        pooled: contrast of whole reports by one vector an image and one a text.
        same_labels: weight in the contrasts' targets of a pair whose known labels are all the same, against 1 for its
            own pair: two normal studies in a batch do not repel each other. Equal reports are one pair at any weight.
    """

    statements: float = 1.0
    hard: float = 0.5
    reports: float = 0.5
    words: float = 0.0
    pooled: float = 0.0
    same_labels: float = 0.0

    def __post_init__(self) -> None:
        if max(self.statements, self.reports, self.words, self.pooled) <= 0:
            raise ValueError("all losses of the aligner weigh 0; give statements, reports, words or pooled a weight")


def alignment_losses(
    network: AlignmentNetwork,
    weights: LossWeights,
    *,
    texts: Sequence[str],
    tokens: Tokens,
    words: Words,
    patches: Tensor,
    labels: Tensor,
    step: int,
) -> dict[str, Tensor]:
    """The weighted parts; their sum is the loss.

    Args:
        network: gives the evidence and the temperature.
        weights: of the parts.
        texts: first the reports of this rank's B images, then what else states something.
        tokens: of the texts.
        words: of the texts.
        patches: unit vectors [B,P,D] of the images.
        labels: float [B,14] of 1, 0 or NaN.
        step: of the training.

    Returns:
        Scalars whose means over ranks are those of one rank with the union batch.
    """
    reports = texts[: len(patches)]
    numbers = torch.tensor([text_number(report) for report in reports], device=patches.device)
    targets = batch_targets(labels, numbers, same_labels=weights.same_labels)
    losses: dict[str, Tensor] = {}
    if weights.statements or weights.reports:
        losses |= _of_statements(
            network, weights, texts=texts, tokens=tokens, words=words, patches=patches, targets=targets, step=step
        )
    if weights.words or weights.pooled:
        mask = content_mask(tokens).to(patches.device)[: len(reports)]
        kept = compact(words.vectors[: len(reports)], mask)
        for name, score in (("words", word_scores), ("pooled", pooled_scores)):
            if weight := getattr(weights, name):
                losses[name] = weight * contrastive_loss(score(patches, *kept), targets, scale=network.scale)
    # DDP wants a gradient for each parameter, whichever parts there are.
    nothing = 0.0 * torch.stack([part.sum() for part in (*words, network.log_scale, network.log_gain)]).sum()
    return {name: loss + nothing for name, loss in losses.items()}


def _of_statements(
    network: AlignmentNetwork,
    weights: LossWeights,
    *,
    texts: Sequence[str],
    tokens: Tokens,
    words: Words,
    patches: Tensor,
    targets: Tensor,
    step: int,
) -> dict[str, Tensor]:
    device, reports = patches.device, texts[: len(patches)]
    found = statements(texts, tokens, step=step)
    mine = queries([(one.text, one.words) for one in found], words)
    asked, everyone = gather_items([one.fact for one in found]), Queries(*(gather_rows(part) for part in mine))
    denied = torch.tensor([fact.status == "absent" for fact in asked], dtype=torch.bool, device=device)
    evidence = network.evidence(everyone, patches)
    losses = {}
    if weights.statements:
        own = torch.tensor([one.fact.status == "absent" for one in found], dtype=torch.bool, device=device)
        held = answers(asked, reports, device=device)
        losses["statements"] = weights.statements * statement_loss(evidence, held, denied, hard=weights.hard)
        losses["denials"] = weights.statements * denial_loss(mine.denials, own)
    if weights.reports:
        number = {fact: m for m, fact in enumerate(asked)}
        told_by = [{fact._replace(severity=None) for fact in facts(report)} & number.keys() for report in reports]
        spoken = spoken_by([[number[fact] for fact in of] for of in told_by], count=len(asked), device=device)
        scores = statement_scores(torch.where(denied, -evidence, evidence), spoken)
        of_images, of_texts = told(targets, spoken)
        losses["reports"] = weights.reports * contrastive_loss(
            scores, of_images, scale=network.scale, image_targets=of_texts
        )
    return losses


def statement_loss(evidence: Tensor, found: Answers, denied: Tensor, *, hard: float) -> Tensor:
    """Binary cross-entropy, balanced within each statement: the images of which it holds count as much as the others.

    So rare findings count as much as frequent ones, and where a batch holds both kinds of images a finding's evidence
    is 0 where it is as likely there as not; a statement that holds of none of them, or of all, has one half only.
    A denial counts half: its evidence is that of absence.

    Args:
        evidence: float [B,M], the logit that each image of this rank shows each statement's finding.
        found: of the same.
        denied: bool [M], the statements that deny.
        hard: share of `found.hard` among the images of which a statement does not hold, where it has any.

    Returns:
        Scalar whose mean over ranks is that of one rank with the union batch.
    """
    sign = torch.where(denied, -1.0, 1.0)
    yes, no = functional.softplus(-sign * evidence), functional.softplus(sign * evidence)  # -log of each answer
    chosen = (found.true, found.false, found.hard)
    counts = sum_over_ranks(torch.stack([part.sum(dim=0) for part in chosen]))  # 3 M
    holds, easy, other = (
        (values * part).sum(dim=0) / count.clamp_min(1)
        for values, part, count in zip((yes, no, no), chosen, counts, strict=True)
    )
    share = torch.where((counts[2] > 0) & (counts[1] > 0), hard, (counts[2] > 0).float())
    each = 0.5 * holds + 0.5 * ((1 - share) * easy + share * other)  # M
    stated = each[~denied].sum() / (~denied).sum().clamp_min(1)
    return (stated + 0.5 * each[denied].sum() / denied.sum().clamp_min(1)) * world_size()


def denial_loss(logits: Tensor, denied: Tensor) -> Tensor:
    """Whether each of this rank's statements denies: mean binary cross-entropy over all ranks' statements."""
    losses = functional.binary_cross_entropy_with_logits(logits, denied.float(), reduction="sum")
    count = sum_over_ranks(torch.tensor(len(denied), device=logits.device)).clamp_min(1)
    return losses * world_size() / count
