"""What `PrivacyGate` writes: privacy.json, privacy.csv, and a picture of flagged images beside what they resemble."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from callbacks.grids import compose
from callbacks.metrics_json import write_json

SCHEMA = 1


class Finding(NamedTuple):
    """One image as the detectors see it; the mappings have the same keys."""

    image_id: str
    distances: Mapping[str, float]
    nearest: Mapping[str, str]  # detector → id of the nearest training image
    below: Mapping[str, bool]  # detector → whether the distance is below its threshold
    score: float

    @property
    def detector(self) -> str:
        """The first detector that it is flagged by."""
        return next(name for name, flagged in self.below.items() if flagged)


def write_findings(
    folder: Path, flagged: Sequence[Finding], *, thresholds: Mapping[str, float], facts: Mapping[str, Any]
) -> None:
    """Write both files, under temporary names first: also an empty list is a finding.

    Args:
        folder: where privacy.json and privacy.csv are put.
        flagged: the most suspicious first.
        thresholds: detector → distance.
        facts: what the figures were measured under; plain data.
    """
    rows = [
        {
            "image_id": one.image_id,
            "score": one.score,
            "detectors": {
                name: {
                    "distance": one.distances[name], "threshold": thresholds[name],
                    "flagged": one.below[name], "nearest_training_image": one.nearest[name],
                }
                for name in thresholds
            },
        }
        for one in flagged
    ]  # fmt: skip
    write_json(folder / "privacy.json", {"schema": SCHEMA, **facts, "thresholds": dict(thresholds), "flagged": rows})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image_id", "detector", "flagged", "distance", "threshold", "nearest_training_image"])
    for one in flagged:
        for name, threshold in thresholds.items():
            values = (one.distances[name], threshold)
            table.writerow([one.image_id, name, int(one.below[name]), *(f"{v:.6g}" for v in values), one.nearest[name]])
    temporary = folder / "privacy.csv.tmp"
    temporary.write_text(text.getvalue(), encoding="utf-8")
    os.replace(temporary, folder / "privacy.csv")


def pairs_picture(
    images: Tensor, training: Tensor, flagged: Sequence[Finding], *, thresholds: Mapping[str, float]
) -> Image.Image:
    """Flagged images float [K,1,H,W] above the training images that they resemble, with what was measured."""
    captions = []
    for one in flagged:
        said = [
            f"{name} {one.distances[name]:.3g} < {thresholds[name]:.3g}" for name, below in one.below.items() if below
        ]
        captions.append(f"{one.image_id} / {one.nearest[one.detector]}: {', '.join(said)}")
    return compose({"output": images, "nearest training image": training}, captions=captions, cell=128)
