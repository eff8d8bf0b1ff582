"""Does the aligner point at the right place: pure functions over gathered cases.

The pointing game (Zhang et al., arXiv 1608.00507): a hit is a heat map whose highest pixel lies in the finding's mask.
Findings have favourite places, so three references go with the hit rate: a random pixel, the one pixel that a
finding's masks cover most often, and the same word's heat map on another image. The contrast-to-noise ratio asks
whether the whole mask stands out (BioViL, arXiv 2204.09817; with its sign, so that a hole does not count as a peak).

Shapes: B images, P patches, D the aligner's space, H × W pixels, N cases.
"""

import dataclasses
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
from lightning_modules.networks.boxes import centres
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.tokenizer import Tokens

SPREAD = 1 / 32  # of the image's side
SLUGS = tuple(name.lower().replace(" ", "_") for name in FINDINGS)


@dataclasses.dataclass(frozen=True)
class PointingCase:
    """One present finding of one image, with its mask: `query` is what is asked, e.g. the unit mean of its words."""

    image_id: str
    patient_id: str
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
    def boxes(self) -> Tensor:
        """Where they lie, (x0, y0, x1, y1) in fractions of the image, [P,4]."""


def heat_maps(queries: Tensor, patches: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Similarity of a query with each place: [N,D], [N,P,D], [N,P,4] → float32 [N,H,W].

    Args:
        queries: unit vectors.
        patches: unit vectors of each query's image.
        boxes: where these lie, see `HasPatches.boxes`; [1,P,4] if they lie there in every image.
        size: H, W.
    """
    return splatted(cosines(queries[:, None], patches)[:, 0], boxes, size=size)


def splatted(similarity: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Each pixel's mean of patches, weighted by a Gaussian around their centres: [N,P], [N or 1,P,4] → [N,H,W].

    What is shown by several neighbours outweighs what one patch alone resembles: on the phantom's validation images
    the pointing game rose from 0.65 to 0.73 by it. The Gaussian has `SPREAD` and half a cell of a grid of P patches, so
    that no pixel between two large ones is far from both; one that is far from all has the mean of all.
    """
    middles = centres(boxes)  # N P 2 of x, y
    variance = SPREAD**2 + 0.25 / boxes.shape[1]
    near_x, near_y = (
        torch.exp(
            -(((torch.arange(count, device=boxes.device) + 0.5) / count - middles[..., axis, None]) ** 2)
            / (2 * variance)
        )
        for axis, count in ((0, size[1]), (1, size[0]))
    )  # N P W, N P H
    # bf16 would round neighbours to one value, and the first of them would be the peak.
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
    patients: Sequence[str] | None = None,
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
        patients: ids [N] of the cases' patients; with them each hit rate gets its interval, see `bootstrap`. That of a
            rate of 0 or 1 is a point, which says how little a bootstrap knows then, not how sure the rate is.

    Returns:
        "pointing_micro" with "_chance", "_centre" and "_other_image", "pointing_cases"; where a finding has enough
        cases "pointing", "pointing_chance", "pointing_centre", "pointing_other_image", "contrast" (macro means),
        "pointing/<finding>", "contrast/<finding>"; with `patients` "pointing_patients", their number, and
        "pointing_micro_low", "pointing_micro_high", "pointing_low" and "pointing_high".
    """
    own, other, chance, centre, contrast = [], [], [], [], []
    scores: dict[str, float] = {
        "pointing_micro": hits.double().mean().item(),
        "pointing_micro_chance": areas.double().mean().item(),
        "pointing_micro_centre": coverage.flatten(1).amax(dim=1).sum().item() / len(hits),
        "pointing_micro_other_image": other_hits.double().mean().item(),
        "pointing_cases": float(len(hits)),
    }
    if patients is not None:
        scores["pointing_patients"] = float(len(set(patients)))
        scores |= _ends("pointing_micro", resampled(lambda times: weighted_mean(hits, times), patients))
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
    if patients is not None:
        # A finding that a draw has lost is left out of its mean.
        scores |= _ends(
            "pointing",
            resampled(
                lambda times: torch.stack([weighted_mean(hits[c], times[:, c]) for c in enough]).nanmean(dim=0),
                patients,
            ),
        )
    return scores


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def pointing_cases(
    batch: Batch, tokens: Tokens, *, words: Tensor, patches: Tensor, boxes: Tensor
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
    boxes: Tensor,
) -> list[PointingCase]:
    """Whether N queries [N,D] point into the masks of their findings on the batch's `rows`.

    Patches are float [B,P,D], their boxes [B,P,4].
    """
    if not rows:
        return []
    mask = batch["masks"][list(rows), list(findings)]
    maps = heat_maps(queries, patches[list(rows)], boxes[list(rows)], size=(mask.shape[1], mask.shape[2]))
    hits, contrasts = pointing_hits(maps, mask).tolist(), contrast_to_noise(maps, mask).tolist()
    bits = np.packbits(mask.flatten(1).cpu().numpy(), axis=1)
    vectors = queries.cpu().numpy()
    return [
        PointingCase(
            batch["image_id"][b],
            batch["patient_id"][b],
            starts[i],
            findings[i],
            vectors[i],
            hits[i],
            contrasts[i],
            bits[i],
        )
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
    """The pointing game over all cases; the other image of a case is one of `images`, taken in turn.

    Where the only image is a case's own there is no other, and no "pointing_other_image".
    """
    if not cases:
        return {}
    distinct = {image.image_id for image in images}
    alone = len(distinct) == 1 and any(case.image_id in distinct for case in cases)
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
        patches, boxes = torch.stack([o.patches for o in others]), torch.stack([o.boxes for o in others])
        maps = heat_maps(queries, patches, boxes, size=size)
        hits.append(pointing_hits(maps, masks))
        areas.append(masks.float().mean(dim=(1, 2)))
        coverage.index_add_(0, torch.tensor([case.finding for case in part]), masks.float())
    scores = pointing_scores(
        hits=torch.tensor([case.hit for case in cases]),
        contrasts=torch.tensor([case.contrast for case in cases]),
        other_hits=torch.cat(hits),
        areas=torch.cat(areas),
        findings=torch.tensor([case.finding for case in cases]),
        coverage=coverage,
        names=SLUGS,
        least=least,
        patients=[case.patient_id for case in cases] if intervals else None,
    )
    return {name: value for name, value in scores.items() if not (alone and name.endswith("_other_image"))}
