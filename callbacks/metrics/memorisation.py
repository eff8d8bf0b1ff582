"""Do distances tell who was in the training set, and does a prompt bring back its own image?

Q samples, N images.
"""

from collections import Counter

import torch
from torch import Tensor

from callbacks.metrics.auroc import binary_auroc
from callbacks.metrics.auroc_interval import interval, resampled_macros


def membership(members: Tensor, others: Tensor) -> tuple[float, float, float]:
    """AUROC of a membership inference, and where it lies in 95 % of draws of as many images.

    The attacker holds an image and the synthetic set and takes it for a member if a synthetic image is near (as in Chen
    et al., GAN-Leaks, 2020, with nothing known of the generator). 0.5 is chance.

    Args:
        members: float [M], distances of training images to their nearest synthetic image.
        others: float [N], the same of images that were not trained on.
    """
    scores = -torch.cat([members, others]).float()
    labels = torch.cat([torch.ones(len(members)), torch.zeros(len(others))])
    each = torch.arange(len(scores))
    draws = resampled_macros([scores[:, None]], labels[:, None], groups=each, min_positives=1)
    return binary_auroc(scores, labels), *interval(draws[0])


def own_nearer(distances: Tensor, own: Tensor, alike: Tensor) -> Tensor:
    """Of images with the same labels, the share that is farther from a sample than the prompt's own: float32 [Q].

    Ties count one half. 0.5 is what chance gives; a report says more than its labels, so a faithful generator is above
    it too: compare with the prompts of images that were not trained on.

    Args:
        distances: float [Q,N] of samples to images.
        own: int64 [Q], the column of the image that the sample's prompt describes.
        alike: bool [Q,N], images with the same labels, of other patients; NaN is given where there is none.
    """
    reference = distances.gather(1, own[:, None])
    farther = (distances > reference).float() + 0.5 * (distances == reference).float()
    return (farther * alike).sum(1) / alike.sum(1)


def samples_nearer(samples: Tensor, reference: Tensor, reals: Tensor, alike: Tensor) -> Tensor:
    """Of real images with the same labels, the share that lie farther from the own one than the samples lie apart.

    0.5: samples of one prompt vary as real images of its labels do; 1: they are all alike, as those of a memorised
    prompt are (Carlini et al., "Extracting Training Data from Diffusion Models", 2023, section 4.2). A report says more
    than its labels, so a faithful generator is above 0.5 too: compare with prompts that were not trained on.

    Args:
        samples: float [Q,S,D], features of S samples of each of Q prompts, 2 or more.
        reference: float [Q,D], those of the image that the prompt describes.
        reals: float [N,D].
        alike: bool [Q,N], images with the same labels, of other patients; NaN is given where there is none.

    Returns:
        Float32 [Q]; ties count one half.
    """
    first, second = torch.triu_indices(samples.shape[1], samples.shape[1], offset=1)
    apart = (samples[:, first] - samples[:, second]).norm(dim=2).mean(1, keepdim=True)
    distances = exact_distances(reference, reals)
    farther = (distances > apart).float() + 0.5 * (distances == apart).float()
    return (farther * alike).sum(1) / alike.sum(1)


def exact_distances(queries: Tensor, rows: Tensor) -> Tensor:
    """Euclidean distances float [Q,N] of float [Q,D] and [N,D] by subtraction: 0 where two are equal."""
    return torch.cdist(queries, rows, compute_mode="donot_use_mm_for_euclid_dist")


def matched_prompts(
    training: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], *, most: int, least: int, seed: int
) -> list[tuple[int, int]]:
    """Pairs of a training and a held-out row with the same labels: what is rare is then as rare on both sides.

    Both have at least `least` rows of other patients with the same labels in their own set. A patient is taken once.

    Args:
        training: int64 [N] of labels, equal numbers for equal labels, and int64 [N] of patients.
        held_out: the same of [M] held-out rows.
        most: pairs at most.
        least: 1 or more.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [_companions(*one, least=least, generator=generator) for one in (held_out, training)]
    waiting: dict[int, list[int]] = {}
    for row in reversed(orders[1]):
        waiting.setdefault(int(training[0][row]), []).append(row)
    pairs: list[tuple[int, int]] = []
    used: set[tuple[int, int]] = set()  # side and patient
    for row in orders[0]:
        rows = waiting.get(int(held_out[0][row]), [])
        while rows and (0, int(training[1][rows[-1]])) in used:
            rows.pop()
        if len(pairs) < most and rows and (1, int(held_out[1][row])) not in used:
            pairs.append((rows.pop(), row))
            used |= {(0, int(training[1][pairs[-1][0]])), (1, int(held_out[1][row]))}
    return pairs


def _companions(labels: Tensor, patients: Tensor, *, least: int, generator: torch.Generator) -> list[int]:
    # The rows with `least` rows of the same labels and of other patients, in drawn order.
    names = list(zip(labels.tolist(), patients.tolist(), strict=True))
    of_labels, of_both = Counter(label for label, _ in names), Counter(names)
    order = torch.randperm(len(names), generator=generator).tolist()
    return [row for row in order if of_labels[names[row][0]] - of_both[names[row]] >= least]
