"""Checked images in, checked features out: the border that every image crosses before it can become a number.

Nothing non-finite, out of range or of another shape gets past it; the error names the image. B images of H × W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from callbacks.protocols import Extractor, FeatureExtractor

# A decoder that ends in a clamp or tanh stays inside; the slack is for resampling and half precision.
RANGE_SLACK = 1e-3
CHUNK = 64  # images a forward pass of sets that come in one piece (reference images)


def images_of(outputs: object, *, key: str, like: Tensor, ids: Sequence[str]) -> Tensor:
    """The images a step returned under `key`: float32 [B,1,H,W], checked against the batch's images.

    Raises:
        ValueError: the step returned none, or they differ in shape from `like`, or `check_images` refuses them.
    """
    if not isinstance(outputs, Mapping) or key not in outputs:
        found = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise ValueError(
            f"the step returned no {key!r} images; it returned {found}. Name the right output in the config"
        )
    images = outputs[key]
    if images.shape != like.shape:
        raise ValueError(f"{key} images have the shape {list(images.shape)}, the batch's images {list(like.shape)}")
    return check_images(images, what=key, ids=ids)


def check_images(images: Tensor, *, what: str, ids: Sequence[str]) -> Tensor:
    """Refuse images that are not [B,1,H,W], finite and in [-1,1]; give the others back as float32.

    Raises:
        ValueError: naming the first offending image and what was found in it.
    """
    if images.ndim != 4 or images.shape[1] != 1 or images.shape[0] != len(ids):
        raise ValueError(f"{what} images have the shape {list(images.shape)}, expected [{len(ids)}, 1, H, W]")
    images = images.detach().float()
    _refuse_non_finite(images, what=f"{what} image", ids=ids)
    outside = images.abs().flatten(1).amax(1) > 1 + RANGE_SLACK
    if outside.any():
        at = int(outside.nonzero()[0])
        low, high = images[at].min().item(), images[at].max().item()
        raise ValueError(f"{what} image {ids[at]}: pixels in [{low:.4g}, {high:.4g}], expected [-1, 1]")
    return images


def _refuse_non_finite(values: Tensor, *, what: str, ids: Sequence[str]) -> None:
    bad = ~torch.isfinite(values).flatten(1)
    if bad.any():
        at = int(bad.any(1).nonzero()[0])
        raise ValueError(
            f"{what} {ids[at]}: {int(bad[at].sum())} of {bad.shape[1]} values are not finite "
            f"({int(bad.any(1).sum())} such in this batch of {len(ids)}); no metric is computed from them"
        )


def extract(
    extractor: FeatureExtractor, images: Tensor, *, method: Literal["features", "logits"], what: str, ids: Sequence[str]
) -> Tensor:
    """Float32 [B,D] of `images` ([B,1,H,W], checked): no gradient, no autocast, on the extractor's device.

    Raises:
        ValueError: naming the image whose features are not finite, or a shape that the extractor did not promise.
    """
    device = next(cast(nn.Module, extractor).parameters(), images).device
    forward = extractor.features if method == "features" else cast(Extractor, extractor).logits
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        rows = torch.cat([forward(chunk.to(device).float()).float() for chunk in images.split(CHUNK)])
    if (
        rows.ndim != 2
        or rows.shape[0] != len(ids)
        or (method == "features" and rows.shape[1] != extractor.num_features)
    ):
        expected = [len(ids), extractor.num_features if method == "features" else "findings"]
        raise ValueError(f"extractor {extractor.name}: {method} of the shape {list(rows.shape)}, expected {expected}")
    _refuse_non_finite(rows, what=f"extractor {extractor.name}: {method} of {what} image", ids=ids)
    return rows


def describe(extractor: FeatureExtractor) -> dict[str, Any]:
    """What the protocol says of an extractor; "resolution" is the side that it resizes images to, where it does."""
    facts = {"name": extractor.name, "digest": extractor.digest, "num_features": int(extractor.num_features)}
    resolution = getattr(extractor, "resolution", None)
    return facts if resolution is None else facts | {"resolution": int(resolution)}
