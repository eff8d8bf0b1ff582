"""From an image-report pair to the word-patches that may become key patches.

Shapes: n mentions, W words of the report, P patches, D the aligner's space.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.manifest import Batch
from datamodules.reports.mentions import Mention, extract
from lightning_modules.networks.alignment import AlignmentNetwork, content_mask, cosines
from lightning_modules.networks.key_patch_build import Candidate, KeyPatchOptions, cells_of_box
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.pointing import smoothed
from lightning_modules.networks.tokenizer import Tokens

AROUND = 6  # a crop shows the patch and so much of the image's side beside it, as a fraction of one


@torch.no_grad()
def pair_candidates(
    batch: Batch,
    row: int,
    *,
    network: AlignmentNetwork,
    tokenize: Callable[[Sequence[str]], Tokens],
    options: KeyPatchOptions,
) -> list[Candidate]:
    """The best patch of each mention that a report does not deny.

    One pair at a time and in float32: how a kernel rounds depends on the shape of its input, so that in batches other
    ranks would choose other patches.

    Args:
        batch: with codes.
        row: of the batch.
        network: in evaluation mode.
        tokenize: of the network's words.
        options: how much of a cell a patch must cover, and whether pixels are wanted.
    """
    report, image = batch["report"][row], batch["image"][row : row + 1]
    tokens = tokenize([report])
    mentions, weights = _asserted(report, tokens)
    if not mentions:
        return []
    with torch.autocast(image.device.type, enabled=False):
        (patches, boxes), words = network.located_patches(image), network.words(tokens)[0]
        similarity = cosines(words, patches)[0]  # W P
        content = content_mask(tokens)[0].to(image.device)
        pair_score = float(similarity.max(dim=1).values[content].mean())
        mean = weights.to(image.device)  # n W
        scores, places = smoothed(mean @ similarity).max(dim=1)
        halves = functional.normalize(mean @ words[0], dim=1)  # n D
        features = functional.normalize(halves + patches[0, places], dim=1)
    codes = batch["codes"][row].flatten().tolist()
    height, width = batch["codes"].shape[1:]
    found = []
    for i, (mention, score, box) in enumerate(zip(mentions, scores.tolist(), boxes[0, places].tolist(), strict=True)):
        x0, y0, x1, y1 = box
        cells = cells_of_box((x0, y0, x1, y1), height=height, width=width, coverage=options.coverage)
        found.append(
            Candidate(
                word=mention.word,
                kind=mention.kind,
                score=score,
                pair_score=pair_score,
                side=mention.side or "",
                image_id=batch["image_id"][row],
                study_id=batch["study_id"][row],
                patient_id=batch["patient_id"][row],
                box=(x0, y0, x1, y1),
                feature=features[i].cpu().numpy(),
                word_half=halves[i].cpu().numpy(),
                codes=tuple(codes[cell] for cell in cells),
                positions=tuple(cells),
                pixels=crop(image[0, 0], box) if options.atlas or options.pixels else None,
            )
        )
    return found


def _asserted(report: str, tokens: Tokens) -> tuple[list[Mention], Tensor]:
    """The mentions that a report does not deny, and float32 [n,W]: the share of each word in a mention's mean."""
    content = content_mask(tokens)[0]
    mentions, rows = [], []
    for mention in extract(report):
        inside = [i for i in mention_words(mention, tokens.spans[0]) if content[i]]
        if mention.status != "absent" and inside:
            mentions.append(mention)
            rows.append(torch.zeros(len(content)).index_fill(0, torch.tensor(inside), 1 / len(inside)))
    return mentions, torch.stack(rows) if rows else torch.zeros(0, len(content))


def crop(image: Tensor, box: Sequence[float]) -> np.ndarray:
    """The pixels of a box (fractions) and of what is around it, uint8, from image float [S,S] in [-1,1]."""
    size = image.shape[-1]
    around = size // AROUND
    x0, y0, x1, y1 = (round(edge * size) for edge in box)
    part = image[max(0, y0 - around) : y1 + around, max(0, x0 - around) : x1 + around]
    return ((part.float() + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
