"""The pointing game by prompts: an image's labels say what to point at, not its report.

A report of another patient names other sides and places, and not every finding with a box; and a classifier's
maps can only be asked by label. So "There is X." is asked, of a finding's words the one that the image shows best.
"""

import torch

from datamodules.manifest import Batch
from lightning_modules.networks.pointing import PointingCase, cases_of, labelled
from lightning_modules.networks.zero_shot import PromptedFindings


def prompted_cases(
    batch: Batch, prompted: PromptedFindings, *, patches: torch.Tensor, boxes: torch.Tensor
) -> list[PointingCase]:
    """Positive labels with a mask whose finding has a word; patches float [B,P,D], boxes as of `cases_of`."""
    shown = [(b, finding) for b, finding in labelled(batch) if finding in prompted.owners]
    queries = []
    for b, finding in shown:
        own = [n for n, owner in enumerate(prompted.owners) if owner == finding]
        queries.append(prompted.vectors[own[int(prompted.values[b, own].argmax())]])
    findings = [finding for _, finding in shown]
    return cases_of(
        batch,
        rows=[b for b, _ in shown],
        starts=findings,
        findings=findings,
        queries=torch.stack(queries) if queries else patches.new_zeros(0, patches.shape[-1]),
        patches=patches,
        boxes=boxes,
    )
