"""Do distances tell who was in the training set, and does a prompt bring back its own image?

Q samples, N images.
"""

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
