"""NIQE, the distance of an image's local statistics from those of good images (Mittal, Soundararajan & Bovik, 2013).

"Making a 'completely blind' image quality analyzer", IEEE Signal Processing Letters 20 (3). An image is normalised by
its local mean and deviation, cut into square patches, and each patch described by 18 parameters of generalised
Gaussians at full and at half resolution. A multivariate Gaussian of good images' patches is the model; the figure is
the distance of the Gaussian of one image's patches from it (eq. 10). As in the authors' release, the neighbours of a
patch's border pixels are those of its other side, and the local mean beyond the image's border repeats the border.

What it can say of small radiographs: whether the finest grain (noise, blur, ringing, blocks) is that of the images the
model was fitted to. It knows nothing of anatomy or findings. The published patch is 96 pixels wide and the published
model is of photographs; with patches of 32 pixels on images of 64 or 128 the parameters are fitted to 256 to 1,024
pixels each and are noisy, so that an image that was in the fit is also some distance away: only differences from real
images at the same size and patch mean something, and no figure is comparable with a published one.

B images of H × W pixels, P patches an image, 36 features a patch.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FEATURES = 36
WINDOW, SIGMA = 7, 7 / 6  # pixels of the local mean's Gaussian
LEVELS = 255.0
SHARP = 0.75  # a patch enters the model if its mean local deviation is above this share of its image's sharpest patch
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours: right, below, and the two diagonals
SHAPES = torch.arange(0.2, 10.0, 0.001, dtype=torch.float64)
# Gamma(2/a)² / (Gamma(1/a) Gamma(3/a)): the ratio of moments by which the shape `a` is found.
RATIOS = (2 * torch.lgamma(2 / SHAPES) - torch.lgamma(1 / SHAPES) - torch.lgamma(3 / SHAPES)).exp()


class NaturalModel(NamedTuple):
    """The Gaussian of good images' patches."""

    mean: Tensor  # float64 [36]
    covariance: Tensor  # float64 [36,36]


class Patches(NamedTuple):
    """The description of images' patches."""

    features: Tensor  # float64 [B,P,36]; NaN in every feature of a patch that is flat
    sharpness: Tensor  # float64 [B,P], mean local deviation in grey levels of 255


def patch_features(images: Tensor, *, patch: int) -> Patches:
    """Describe the whole patches of float [B,1,H,W] in [-1,1], row by row; what is left over at right and below is not.

    Images are rounded to 8 bits first: real ones are stored so, and a difference in rounding is a difference in grain.

    Raises:
        ValueError: for an odd patch, one below 16 pixels, or images of less than two patches a side.
    """
    if patch < 16 or patch % 2:
        raise ValueError(f"NIQE patches of {patch} pixels; expected an even number of at least 16")
    rows, columns = (side // patch for side in images.shape[-2:])
    if min(rows, columns) < 2:
        raise ValueError(
            f"NIQE with patches of {patch} pixels needs images of at least {2 * patch} a side, found "
            f"{list(images.shape[-2:])}; give a smaller patch"
        )
    pixels = ((images.double().cpu() + 1) * (LEVELS / 2)).round().clamp(0, LEVELS)
    pixels = pixels[..., : rows * patch, : columns * patch]
    normal, deviation = normalised(pixels)
    half = F.interpolate(pixels, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False)
    features = torch.cat(
        [_describe(_cut(normal, patch)), _describe(_cut(normalised(half)[0], patch // 2))],
        dim=-1,
    )
    features = torch.where(features.isfinite().all(-1, keepdim=True), features, torch.nan)
    return Patches(features, _cut(deviation, patch).mean((-2, -1)))


def normalised(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(pixels - local mean) / (local deviation + 1), and the local deviation: both like float [B,1,H,W] in [0,255]."""
    at = torch.arange(WINDOW, dtype=pixels.dtype) - WINDOW // 2
    weights = (-(at**2) / (2 * SIGMA**2)).exp()
    weights = weights / weights.sum()

    def smooth(values: Tensor) -> Tensor:
        padded = F.pad(values, [WINDOW // 2] * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))

    mean = smooth(pixels)
    deviation = (smooth(pixels.square()) - mean.square()).abs().sqrt()
    return (pixels - mean) / (deviation + 1), deviation


def _cut(images: Tensor, patch: int) -> Tensor:
    # [B,1,H,W] → [B,P,patch,patch], row by row
    tiles = images[:, 0].unfold(1, patch, patch).unfold(2, patch, patch)
    return tiles.flatten(1, 2)


def _describe(patches: Tensor) -> Tensor:
    # [B,P,h,h] → [B,P,18]
    shape, left, right = asymmetric_gaussian(patches)
    found = [shape, (left + right) / 2]
    for shift in SHIFTS:
        shape, left, right = asymmetric_gaussian(patches * patches.roll(shift, dims=(-2, -1)))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        found += [shape, mean, left, right]
    return torch.stack(found, dim=-1)


def asymmetric_gaussian(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape and left and right scale, each [...], of the asymmetric generalised Gaussian of float64 [...,h,w].

    By moments (Lasmar, Stitou & Berthoumieu, 2009), the shape on a grid of .001 from .2 to 10. NaN where the values
    have no left or no right side.
    """
    values = values.flatten(-2)
    squared = values.square()

    def deviation(side: Tensor) -> Tensor:
        return ((squared * side).sum(-1) / side.sum(-1)).sqrt()

    left, right = deviation(values < 0), deviation(values > 0)
    skew = left / right
    moment = values.abs().mean(-1).square() / squared.mean(-1)
    wanted = moment * (skew**3 + 1) * (skew + 1) / (skew**2 + 1).square()
    # RATIOS rises with the shape: the nearest entry is one of the two around the place of insertion.
    above = torch.searchsorted(RATIOS, wanted.nan_to_num(0.0).contiguous()).clamp(1, len(RATIOS) - 1)
    nearer = (wanted - RATIOS[above - 1]).abs() <= (RATIOS[above] - wanted).abs()
    shape = SHAPES[torch.where(nearer, above - 1, above)]
    ratio = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    broken = ~(left * right).isfinite() | (left * right == 0)
    return tuple(x.masked_fill(broken, torch.nan) for x in (shape, left * ratio, right * ratio))  # type: ignore[return-value]


def sharp(patches: Patches, *, share: float = SHARP) -> Tensor:
    """Bool [B,P]: patches that are not flat, and sharper than `share` of the sharpest of their image."""
    peak = patches.sharpness.amax(1, keepdim=True)
    return (patches.sharpness > share * peak) & patches.features.isfinite().all(-1)


def fit(features: Tensor) -> NaturalModel:
    """The model of patches, float [M,36].

    Raises:
        ValueError: for 36 patches or fewer, whose covariance is singular, or for any that is not finite.
    """
    if len(features) <= FEATURES:
        raise ValueError(
            f"NIQE's model needs more than {FEATURES} sharp patches, found {len(features)}; fit more images"
        )
    if not torch.isfinite(features).all():
        raise ValueError("NIQE's model: a patch's features are not finite; leave out flat patches with `sharp`")
    features = features.double()
    return NaturalModel(features.mean(0), torch.cov(features.T))


def niqe(features: Tensor, model: NaturalModel) -> Tensor:
    """NIQE float64 [B] of images by their patches [B,P,36] (eq. 10); flat patches, which are NaN, are left out.

    NaN where fewer than two patches are left, since they have no covariance.
    """
    values = []
    for rows in features.double():
        kept = rows[rows.isfinite().all(-1)]
        if len(kept) < 2:
            values.append(torch.tensor(torch.nan, dtype=torch.float64))
            continue
        away = kept.mean(0) - model.mean
        # As in the release a pseudo-inverse: a few patches have a singular covariance of their own.
        inverse = torch.linalg.pinv((model.covariance + torch.cov(kept.T)) / 2, hermitian=True)
        values.append((away @ inverse @ away).clamp(min=0).sqrt())
    return torch.stack(values) if values else torch.empty(0, dtype=torch.float64)


def read_model(path: str | Path) -> NaturalModel:
    """The authors' model of photographs: `modelparameters.mat` of their release, made for patches of 96 pixels.

    Raises:
        FileNotFoundError: naming the file and where it comes from.
        ValueError: when it holds other variables or other sizes.
    """
    # Only this way of getting a model needs it.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: NIQE's model of photographs is not there; it is modelparameters.mat in niqe_release.zip of "
            "the Laboratory for Image and Video Engineering, Austin. Or fit one to real radiographs: model: null"
        )
    try:
        found = loadmat(path)
    except (ValueError, NotImplementedError, MatReadError) as error:
        raise ValueError(f"{path}: cannot be read as a MATLAB file ({error}); fetch it again") from error
    names, shapes = ("mu_prisparam", "cov_prisparam"), ((1, FEATURES), (FEATURES, FEATURES))
    sizes = {name: np.shape(value) for name, value in found.items() if not name.startswith("__")}
    if [sizes.get(name) for name in names] != list(shapes):
        raise ValueError(f"{path}: expected mu_prisparam (1, 36) and cov_prisparam (36, 36), found {sizes}")
    mean, covariance = (torch.from_numpy(np.asarray(found[name], dtype=np.float64)) for name in names)
    return NaturalModel(mean[0], covariance)
