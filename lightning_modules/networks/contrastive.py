"""Contrast of whole reports: each image should prefer its own among all ranks' reports, and each report its own image.

Three ways to score an image with a report: by its statements, by late interaction of words and patches (AdaMatch,
arXiv 2312.08078, equations 1 to 4), and by one vector each (CLIP, arXiv 2103.00020). Features are gathered with their
gradients, so that the mean over ranks, which DDP takes, is the loss and the gradient of one rank with the union batch.

Shapes: I images and J texts of this rank, N of all ranks, P patches, W words, M statements, D the shared space.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.alignment import BAD, late_interaction
from lightning_modules.networks.ranks import distributed, gather_rows, world_size


class Scores(NamedTuple):
    """Scores of this rank's images with all texts, and of all images with this rank's texts."""

    to_text: Tensor  # float32 [I,N]
    to_image: Tensor  # float32 [N,J]


def soft_targets(rows: Tensor, columns: Tensor, row_text: Tensor, column_text: Tensor, *, same_labels: float) -> Tensor:
    """How much each column deserves of each row's probability, so that interchangeable pairs do not repel each other.

    Args:
        rows: labels, float [I,14] of 1, 0 or NaN.
        columns: labels, float [N,14].
        row_text: int64 [I], equal where texts are equal.
        column_text: int64 [N].
        same_labels: the weight, in [0,1], of a pair whose known labels are the same; one with the same text weighs 1.

    Returns:
        float32 [I,N]; each row sums to 1, provided that its own text is among the columns.
    """
    same_text = row_text[:, None] == column_text[None, :]
    a, b = rows.nan_to_num(-2.0), columns.nan_to_num(-2.0)
    same = (a[:, None, :] == b[None, :, :]).all(dim=-1) & ~rows.isnan().all(dim=1)[:, None]
    weight = torch.where(same_text, 1.0, same.float() * same_labels)
    return weight / weight.sum(dim=1, keepdim=True)


def batch_targets(labels: Tensor, texts: Tensor, *, same_labels: float) -> Tensor:
    """`soft_targets` [I,N] of this rank's pairs among those of all ranks: labels float [I,14], texts int64 [I]."""
    return soft_targets(labels, gather_rows(labels), texts, gather_rows(texts), same_labels=same_labels)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy of float [I,N] logits with targets whose rows sum to 1, or to 0: no loss."""
    return -(targets * functional.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()


def contrastive_loss(scores: Scores, targets: Tensor, *, scale: Tensor, image_targets: Tensor | None = None) -> Tensor:
    """The mean of both directions' cross-entropy.

    Args:
        scores: of this rank.
        targets: float [I,N] of `batch_targets`.
        scale: 1 / temperature.
        image_targets: of this rank's texts with all images, float [I,N], where these are others.
    """
    # DDP takes the mean over ranks: a rank with one row more counts so much more.
    share = targets.shape[0] * world_size() / targets.shape[1]
    to_text = soft_cross_entropy(scale * scores.to_text, targets)
    to_image = soft_cross_entropy(scale * scores.to_image.T, targets if image_targets is None else image_targets)
    return 0.5 * share * (to_text + to_image)


def word_scores(patches: Tensor, words: Tensor, mask: Tensor) -> Scores:
    """Late interaction of unit vectors [I,P,D] with [J,W,D], of which bool [J,W] count."""
    if not distributed():
        return Scores(*late_interaction(patches, words, mask))
    longest = torch.tensor(words.shape[1], device=words.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    extra = int(longest) - words.shape[1]
    words, mask = functional.pad(words, (0, 0, 0, extra)), functional.pad(mask, (0, extra))
    to_text = late_interaction(patches, gather_rows(words), gather_rows(mask))[0]
    return Scores(to_text, late_interaction(gather_rows(patches), words, mask)[1])


def pooled_scores(patches: Tensor, words: Tensor, mask: Tensor) -> Scores:
    """Cosines of one vector an image, its patches' mean, with one vector a text, the mean of the words that count."""
    with torch.autocast(patches.device.type, enabled=False):
        images = functional.normalize(patches.float().mean(dim=1), dim=-1)
        texts = functional.normalize((words.float() * mask[..., None]).sum(dim=1), dim=-1)
        return Scores(images @ gather_rows(texts).T, gather_rows(images) @ texts.T)


def statement_scores(fits: Tensor, spoken: Tensor) -> Scores:
    """The mean log-likelihood of a text's statements: log σ of how well each fits the image.

    Args:
        fits: float [I,M] of this rank's images with the statements of all ranks.
        spoken: bool [J,M], what each text of this rank states.

    Returns:
        Scores of at most 0; a text that states nothing has `BAD`, so that it is nobody's best.
    """
    with torch.autocast(fits.device.type, enabled=False):
        likelihoods = functional.logsigmoid(fits.float())
        return Scores(
            mean_likelihoods(likelihoods, gather_rows(spoken)), mean_likelihoods(gather_rows(likelihoods), spoken)
        )


def mean_likelihoods(likelihoods: Tensor, spoken: Tensor) -> Tensor:
    """Of float [I,M], over what each text states, bool [J,M]: [I,J], `BAD` for a text that states nothing."""
    count = spoken.sum(dim=1)
    means = likelihoods @ (spoken.float() / count.clamp_min(1)[:, None]).T
    return means.masked_fill(count == 0, BAD)


def told(targets: Tensor, spoken: Tensor) -> tuple[Tensor, Tensor]:
    """Targets [I,N] where some texts state nothing: of images with texts, and of texts with images.

    Such a text is nobody's target, and neither it nor its image has one of its own. Its image may be another text's.
    """
    own = spoken.any(dim=1)[:, None]
    kept = targets * gather_rows(spoken).any(dim=1)
    to_text = kept / kept.sum(dim=1, keepdim=True).clamp_min(1e-6)
    return torch.where(own, to_text, 0.0), torch.where(own, targets, 0.0)


def spoken_by(texts: Sequence[Sequence[int]], *, count: int, device: torch.device) -> Tensor:
    """Bool [J,M] from the numbers of each text's statements."""
    spoken = torch.zeros(len(texts), count, dtype=torch.bool, device=device)
    for row, numbers in enumerate(texts):
        spoken[row, list(numbers)] = True
    return spoken
