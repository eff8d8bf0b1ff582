"""The pointing game of a finding classifier by Grad-CAM: what its test collects, and the figures over all ranks.

A map of each finding is to a place what a vector is to a patch: with findings as its dimensions, the heat maps, hits
and references are those of the aligner, by the same functions.
"""

import dataclasses

import torch
from torch.nn import functional

from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS
from lightning_modules.networks.classifier import FindingNetwork, place_boxes
from lightning_modules.networks.grad_cam import grad_cam
from lightning_modules.networks.pointing import PointingCase, case_scores, cases_of, labelled
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.text_numbers import text_number


@dataclasses.dataclass(frozen=True)
class CamImage:
    """All findings' maps of one image, as patches."""

    order: int  # a hash of the image id: the images with the smallest are kept, whatever the ranks and batches
    image_id: str
    patches: torch.Tensor  # [P,F]
    boxes: torch.Tensor  # [P,4]


class CamCases:
    """Cases of the pointing game: positive labels with a mask.

    Args:
        limit: images among which a case's other image is, which bounds memory.
        least: cases a finding needs to count in the means over findings.
        layer: see `grad_cam`.
    """

    def __init__(self, *, limit: int, least: int, layer: int) -> None:
        self.limit, self.least, self.layer = limit, least, layer
        self.images: list[CamImage] = []
        self.cases: list[PointingCase] = []
        self.size = (0, 0)

    def add(self, batch: Batch, *, network: FindingNetwork) -> None:
        """Take a batch with masks."""
        maps = grad_cam(network, batch["image"], range(len(FINDINGS)), layer=self.layer)
        places = maps.flatten(2).transpose(1, 2)  # B P F
        level = (batch["image"].shape[-1] // maps.shape[-1]).bit_length() - 1
        boxes = place_boxes(level, resolution=batch["image"].shape[-1]).to(places.device)
        for image_id, of_image in zip(batch["image_id"], places.cpu(), strict=True):
            self.images.append(CamImage(text_number(image_id), image_id, of_image.clone(), boxes.cpu()))
        self.images = sorted(self.images, key=lambda image: image.order)[: self.limit]
        self.size = (batch["masks"].shape[2], batch["masks"].shape[3])
        shown = labelled(batch)
        findings = [finding for _, finding in shown]
        queries = functional.one_hot(torch.tensor(findings, dtype=torch.long), len(FINDINGS)).to(places)
        self.cases += cases_of(
            batch,
            rows=[b for b, _ in shown],
            starts=findings,
            findings=findings,
            queries=queries,
            patches=places,
            boxes=boxes.expand(len(places), -1, -1),
        )

    def scores(self) -> dict[str, float]:
        """`pointing_scores` with intervals over all ranks' cases; empty if there were none. Each rank must ask."""
        images = sorted(gather_items(self.images), key=lambda image: image.order)[: self.limit]
        cases = sorted(gather_items(self.cases), key=lambda case: (case.image_id, case.start))
        size = max(gather_items([self.size]))
        return case_scores(cases, images, size=size, least=self.least, intervals=True)
