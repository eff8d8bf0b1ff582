"""Losses of the image codebook, in float32: hinge GAN, adaptive weight, distances of features and of spectra."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.ranks import sum_over_ranks, world_size

# A discriminator that tells nothing has vanishing gradients. Without a bound, the ratio would go on pushing the decoder
# at full strength along them, and the discriminator would never recover; it did so at a bound of 100. Taming's is 1e4.
ADAPTIVE_LIMIT = 1.0


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of max(0, 1 - real) and max(0, 1 + fake), each averaged over all logits."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """Minus the mean logit of generated images."""
    return -fake.mean()


def adaptive_weight(output: Tensor, weight: Tensor, *, fidelity: Tensor, adversarial: Tensor) -> Tensor:
    """VQ-GAN equation 7: how much stronger the fidelity gradient is than the adversarial one at the last layer.

    Args:
        output: the reconstruction, still connected to `weight`.
        weight: of the decoder's last layer.
        fidelity: gradient of the fidelity loss (averaged over this rank's batch) for `output`.
        adversarial: gradient of the adversarial loss for `output`.

    Returns:
        A constant float32 scalar in [0, ADAPTIVE_LIMIT], equal on all ranks. The gradients are averaged over ranks
        before their norms are taken, so it is what one rank with the whole batch would find.
    """
    norms = []
    for gradient in (fidelity, adversarial):
        (at_weight,) = torch.autograd.grad(output, weight, grad_outputs=gradient, retain_graph=True)
        at_weight = sum_over_ranks(at_weight.float())
        norms.append(at_weight.norm() / world_size())
    return (norms[0] / (norms[1] + 1e-6)).clamp(0, ADAPTIVE_LIMIT).detach()


def perceptual_distance(
    maps: Sequence[Tensor], targets: Sequence[Tensor], *, weights: Sequence[Tensor] | None = None
) -> Tensor:
    """LPIPS (arXiv 1801.03924): squared distance of unit feature vectors, averaged over positions and images.

    Args:
        maps: feature maps [B,C_i,H_i,W_i] of one image from any network.
        targets: those of the other.
        weights: [C_i] a map, how much each channel counts.

    Returns:
        A scalar: with weights the sum over maps, which is LPIPS; without, the mean over maps, in [0, 4].
    """
    channels = [None] * len(maps) if weights is None else weights
    stacked = torch.stack([_unit_distance(*pair) for pair in zip(maps, targets, channels, strict=True)])
    return stacked.mean() if weights is None else stacked.sum()


def _unit_distance(a: Tensor, b: Tensor, weight: Tensor | None, *, eps: float = 1e-4) -> Tensor:
    """Mean over positions of Σ_c w_c (a_c/|a| - b_c/|b|)²; norms below `eps` count as `eps`.

    Multiplied out, so that only sums over channels are kept and no unit vectors: a third of the time.
    """

    def total(product: Tensor) -> Tensor:
        return (product if weight is None else product * weight[:, None, None]).sum(dim=1)

    a, b = a.float(), b.float()
    inverse_a, inverse_b = (x.square().sum(dim=1).clamp(min=eps**2).rsqrt() for x in (a, b))  # B H W
    squares = total(a.square()) * inverse_a.square() + total(b.square()) * inverse_b.square()
    return (squares - 2 * total(a * b) * inverse_a * inverse_b).mean()


def clinical_distance(features: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance of a classifier's features [B,D]; keeps findings alive (arXiv 2305.11490)."""
    return functional.mse_loss(features.float(), targets.float())


def frequency_distance(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Focal frequency loss (arXiv 2012.12821): squared distance of spectra, the farthest frequencies counting most.

    A thin line is spread over many high frequencies in which an image has little energy: L1 lets a decoder blur it.
    The spectrum is the orthonormal two-dimensional Fourier transform; each frequency is weighted by its own distance
    over the largest of that image, as a constant.

    Args:
        reconstruction: float [B,1,H,W].
        image: float [B,1,H,W].

    Returns:
        A float32 scalar, the mean over images and frequencies.
    """
    # The transform is linear: the distance of two spectra is the spectrum of the difference.
    spectrum = torch.fft.fft2(reconstruction.float() - image.float(), norm="ortho")
    squared = spectrum.real.square() + spectrum.imag.square()
    distance = squared.detach().sqrt()
    weight = distance / distance.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    return (weight * squared).mean()
