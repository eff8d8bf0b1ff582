"""Does the aligner point at the right place: pure functions over gathered cases.

The pointing game (Zhang et al., arXiv 1608.00507): a hit is a heat map whose highest pixel lies in the finding's mask.
Findings have favourite places, so three references go with the hit rate: a random pixel, the one pixel that a
finding's masks cover most often, and the same word's heat map on another image. The contrast-to-noise ratio asks
whether the whole mask stands out (BioViL, arXiv 2204.09817; with its sign, so that a hole does not count as a peak).

Shapes: B images, P patches, D the aligner's space, H × W pixels, N cases.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import extract
from lightning_modules.networks.alignment import cosines
from lightning_modules.networks.bootstrap import resampled, weighted_mean
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.tokenizer import Tokens

SPREAD = 1 / 32  # of the image's side
SLUGS = tuple(name.lower().replace(" ", "_") for name in FINDINGS)


@dataclasses.dataclass(frozen=True)
class PointingCase:
    """One present finding of one image, with its mask: `query` is what is asked, e.g. the unit mean of its words."""

    image_id: str
    start: int
    finding: int
    query: np.ndarray  # [D]
    hit: bool
    contrast: float
    mask: np.ndarray  # packed bits of [H,W]


class HasPatches(Protocol):
    """One image's patches, on which other images' words are tried."""

    @property
    def image_id(self) -> str:
        """Of the image."""

    @property
    def patches(self) -> Tensor:
        """Unit vectors [P,D]."""

    @property
    def boxes(self) -> Tensor | None:
        """[P,4] where patches choose their place."""


def heat_maps(queries: Tensor, patches: Tensor, *, size: tuple[int, int], boxes: Tensor | None = None) -> Tensor:
    """Similarity of a query with each place: [N,D], [N,P,D] → float32 [N,H,W].

    Args:
        queries: unit vectors.
        patches: unit vectors of each query's image.
        size: H, W.
        boxes: [N,P,4], where the patches lie that chose their own place: the mean of the patches by a Gaussian of their
            distance. None is the grid: smoothed, and bilinear between patch centres.
    """
    similarity = cosines(queries[:, None], patches)[:, 0]
    if boxes is not None:
        return splatted(similarity, boxes, size=size)
    similarity = smoothed(similarity)
    side = math.isqrt(similarity.shape[1])
    grid = similarity.view(-1, 1, side, side)
    return functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)[:, 0]


def smoothed(similarity: Tensor) -> Tensor:
    """Float [N,P] of a square grid, blurred by a Gaussian of `SPREAD` of the grid's side.

    What is shown by several neighbours outweighs what one patch alone resembles: on the phantom's validation images
    the pointing game rose from 0.65 to 0.73 by it.
    """
    side = math.isqrt(similarity.shape[1])
    axis = torch.arange(side, device=similarity.device, dtype=torch.float32)
    near = torch.exp(-((axis[:, None] - axis[None, :]) ** 2) / (2 * (SPREAD * side) ** 2))
    near = near / near.sum(dim=1, keepdim=True)  # at the border too the weights are a mean's
    # bf16 would round neighbours to one value, and the first of them would be the peak.
    with torch.autocast(similarity.device.type, enabled=False):
        return (near @ similarity.float().unflatten(1, (side, side)) @ near.T).flatten(1)


def splatted(similarity: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Each pixel's mean of patches, weighted by a Gaussian of `SPREAD` around their centres: [N,P], [N,P,4] → [N,H,W].

    A pixel far from all patches has the mean of all.
    """
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2  # N P 2 of x, y
    near_x, near_y = (
        torch.exp(
            -(((torch.arange(count, device=boxes.device) + 0.5) / count - centres[..., axis, None]) ** 2)
            / (2 * SPREAD**2)
        )
        for axis, count in ((0, size[1]), (1, size[0]))
    )  # N P W, N P H
    with torch.autocast(similarity.device.type, enabled=False):
        values = similarity.float()
        weight = near_y.transpose(1, 2) @ near_x + 1e-6
        total = (near_y * values[..., None]).transpose(1, 2) @ near_x + 1e-6 * values.mean(dim=1)[:, None, None]
        return total / weight


def pointing_hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Bool [N]: whether the highest pixel of each float [N,H,W] map lies in its bool [N,H,W] mask."""
    return masks.flatten(1).gather(1, maps.flatten(1).argmax(dim=1, keepdim=True))[:, 0]


def contrast_to_noise(maps: Tensor, masks: Tensor) -> Tensor:
    """(mean inside - mean outside) / sqrt(their variances' sum), float [N]: maps float [N,H,W], masks bool [N,H,W].

    0 where a mask covers nothing or everything, or nothing varies.
    """
    inside, outside = masks.flatten(1).double(), (~masks).flatten(1).double()
    values = maps.flatten(1).double()

    def moments(weight: Tensor) -> tuple[Tensor, Tensor]:
        count = weight.sum(dim=1).clamp_min(1)
        mean = (values * weight).sum(dim=1) / count
        return mean, ((values - mean[:, None]).square() * weight).sum(dim=1) / count

    (mean_in, var_in), (mean_out, var_out) = moments(inside), moments(outside)
    noise = (var_in + var_out).sqrt()
    defined = masks.flatten(1).any(dim=1) & ~masks.flatten(1).all(dim=1) & (noise > 0)
    return torch.where(defined, (mean_in - mean_out) / noise, 0.0).float()


def pointing_scores(
    *,
    hits: Tensor,
    contrasts: Tensor,
    other_hits: Tensor,
    areas: Tensor,
    findings: Tensor,
    coverage: Tensor,
    names: Sequence[str],
    least: int,
    images: Sequence[str] | None = None,
) -> dict[str, float]:
    """Hit rates and their references: means over findings with at least `least` cases, and "micro" over all cases.

    Args:
        hits: bool [N], of each case's own image.
        contrasts: float [N], `contrast_to_noise` of the same maps.
        other_hits: bool [N], of the same words' map on another image against the case's mask.
        areas: float [N], share of the image that the mask covers.
        findings: int64 [N], index into names.
        coverage: [F,H,W], how many cases' masks of each finding cover a pixel.
        names: slugs of the F findings.
        least: cases a finding needs to count in the macro means.
        images: ids [N] of the cases' images; with them each hit rate gets its interval, see `bootstrap`. That of a rate
            of 0 or 1 is a point, which says how little a bootstrap knows then, not how sure the rate is.

    Returns:
        "pointing_micro" with "_chance", "_centre" and "_other_image", "pointing_cases"; where a finding has enough
        cases "pointing", "pointing_chance", "pointing_centre", "pointing_other_image", "contrast" (macro means),
        "pointing/<finding>", "contrast/<finding>"; with `images` "pointing_images", their number, "pointing_micro_low",
        "pointing_micro_high", "pointing_low" and "pointing_high".
    """
    own, other, chance, centre, contrast = [], [], [], [], []
    scores: dict[str, float] = {
        "pointing_micro": hits.double().mean().item(),
        "pointing_micro_chance": areas.double().mean().item(),
        "pointing_micro_centre": coverage.flatten(1).amax(dim=1).sum().item() / len(hits),
        "pointing_micro_other_image": other_hits.double().mean().item(),
        "pointing_cases": float(len(hits)),
    }
    if images is not None:
        scores["pointing_images"] = float(len(set(images)))
        scores |= _ends("pointing_micro", resampled(lambda times: weighted_mean(hits, times), images))
    enough: list[Tensor] = []
    for index, name in enumerate(names):
        chosen = findings == index
        count = int(chosen.sum())
        if count < least:
            continue
        enough.append(chosen)
        own.append(hits[chosen].double().mean().item())
        other.append(other_hits[chosen].double().mean().item())
        chance.append(areas[chosen].double().mean().item())
        centre.append(coverage[index].max().item() / count)
        contrast.append(contrasts[chosen].double().mean().item())
        scores |= {f"pointing/{name}": own[-1], f"contrast/{name}": contrast[-1]}
    if not own:
        return scores
    means = {"pointing": own, "pointing_chance": chance, "pointing_centre": centre, "pointing_other_image": other}
    means |= {"contrast": contrast}
    scores |= {name: sum(values) / len(values) for name, values in means.items()}
    if images is not None:
        # A finding that a draw has lost is left out of its mean.
        scores |= _ends(
            "pointing",
            resampled(
                lambda times: torch.stack([weighted_mean(hits[c], times[:, c]) for c in enough]).nanmean(dim=0), images
            ),
        )
    return scores


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def pointing_cases(
    batch: Batch, tokens: Tokens, *, words: Tensor, patches: Tensor, boxes: Tensor | None = None
) -> list[PointingCase]:
    """The present findings of a batch that have a mask; words float [B,W,D], patches float [B,P,D], boxes [B,P,4]."""
    rows, starts, findings, queries = [], [], [], []
    for b, report in enumerate(batch["report"]):
        for mention in extract(report):
            if mention.kind != "pathology" or mention.status != "present" or mention.label not in FINDINGS:
                continue
            finding, inside = FINDINGS.index(mention.label), mention_words(mention, tokens.spans[b])
            if inside and batch["masks"][b, finding].any():
                rows.append(b)
                starts.append(mention.start)
                findings.append(finding)
                queries.append(functional.normalize(words[b, inside].float().mean(dim=0), dim=0))
    if not rows:
        return []
    return cases_of(
        batch,
        rows=rows,
        starts=starts,
        findings=findings,
        queries=torch.stack(queries),
        patches=patches,
        boxes=boxes,
    )


def labelled(batch: Batch) -> list[tuple[int, int]]:
    """(row, finding) of each positive label of a batch that has a mask."""
    return [(int(b), int(f)) for b, f in ((batch["labels"] == 1) & batch["masks"].flatten(2).any(dim=2)).nonzero()]


def cases_of(
    batch: Batch,
    *,
    rows: Sequence[int],
    starts: Sequence[int],
    findings: Sequence[int],
    queries: Tensor,
    patches: Tensor,
    boxes: Tensor | None = None,
) -> list[PointingCase]:
    """Whether N queries [N,D] point into the masks of their findings on the batch's `rows`.

    Patches are float [B,P,D], boxes of patches that chose their place [B,P,4].
    """
    if not rows:
        return []
    mask = batch["masks"][list(rows), list(findings)]
    places = None if boxes is None else boxes[list(rows)]
    maps = heat_maps(queries, patches[list(rows)], size=(mask.shape[1], mask.shape[2]), boxes=places)
    hits, contrasts = pointing_hits(maps, mask).tolist(), contrast_to_noise(maps, mask).tolist()
    bits = np.packbits(mask.flatten(1).cpu().numpy(), axis=1)
    vectors = queries.cpu().numpy()
    return [
        PointingCase(batch["image_id"][b], starts[i], findings[i], vectors[i], hits[i], contrasts[i], bits[i])
        for i, b in enumerate(rows)
    ]


def case_scores(
    cases: Sequence[PointingCase],
    images: Sequence[HasPatches],
    *,
    size: tuple[int, int],
    least: int,
    intervals: bool = False,
) -> dict[str, float]:
    """The pointing game over all cases; the other image of a case is one of `images`, taken in turn."""
    if not cases:
        return {}
    pixels = size[0] * size[1]
    hits, areas, coverage = [], [], torch.zeros(len(FINDINGS), *size)
    for start in range(0, len(cases), 256):
        part = cases[start : start + 256]
        bits = np.unpackbits(np.stack([case.mask for case in part]), axis=1, count=pixels)
        masks = torch.from_numpy(bits).bool().view(-1, *size)
        others = []
        for i, case in enumerate(part, start=start):
            other = images[i % len(images)]
            others.append(images[(i + 1) % len(images)] if other.image_id == case.image_id else other)
        queries = torch.from_numpy(np.stack([case.query for case in part]))
        placed = [o.boxes for o in others if o.boxes is not None]
        maps = heat_maps(
            queries,
            torch.stack([o.patches for o in others]),
            size=size,
            boxes=torch.stack(placed) if placed else None,
        )
        hits.append(pointing_hits(maps, masks))
        areas.append(masks.float().mean(dim=(1, 2)))
        coverage.index_add_(0, torch.tensor([case.finding for case in part]), masks.float())
    return pointing_scores(
        hits=torch.tensor([case.hit for case in cases]),
        contrasts=torch.tensor([case.contrast for case in cases]),
        other_hits=torch.cat(hits),
        areas=torch.cat(areas),
        findings=torch.tensor([case.finding for case in cases]),
        coverage=coverage,
        names=SLUGS,
        least=least,
        images=[case.image_id for case in cases] if intervals else None,
    )
