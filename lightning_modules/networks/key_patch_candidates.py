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
from lightning_modules.networks.alignment import BAD, AlignmentNetwork, content_mask, cosines
from lightning_modules.networks.boxes import centres, inside
from lightning_modules.networks.key_patch_build import Candidate, KeyPatchOptions, cells_of_box
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.pointing import splatted
from lightning_modules.networks.statements import queries, stated
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
    mentions, weights = _asserted(report, tokens, anatomy=options.anatomy)
    if not mentions:
        return []
    with torch.autocast(image.device.type, enabled=False):
        (patches, boxes), words = network.located_patches(image), network.words(tokens)
        told = queries([(0, phrase) for _, phrase in stated(report, tokens.spans[0])], words)
        likelihoods = functional.logsigmoid(network.fits(told, patches))[0]
        mean = weights.to(image.device)  # n W
        similarity = mean @ cosines(words.vectors, patches)[0]  # n P
        scores, places = shown_best(similarity, boxes, size=image.shape[-1])
        halves = functional.normalize(mean @ words.vectors[0], dim=1)  # n D
        features = functional.normalize(halves + patches[0, places], dim=1)
    found_boxes = inside(boxes[0, places]).tolist()
    codes = batch["codes"][row].flatten().tolist()
    height, width = batch["codes"].shape[1:]
    found = []
    for i, (mention, score, box) in enumerate(zip(mentions, scores.tolist(), found_boxes, strict=True)):
        x0, y0, x1, y1 = box
        cells = cells_of_box((x0, y0, x1, y1), height=height, width=width, coverage=options.coverage)
        found.append(
            Candidate(
                word=mention.word,
                kind=mention.kind,
                score=score,
                pair_score=float(likelihoods.mean()) if len(likelihoods) else BAD,
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


def shown_best(similarity: Tensor, boxes: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """The patch nearest to the peak of each query's heat map, which is what explanations point at.

    Args:
        similarity: of n queries with the patches of one image, float [n,P].
        boxes: of these, [1,P,4].
        size: of the image in pixels.

    Returns:
        The maps' height there, float32 [n], and int64 [n].
    """
    heat = splatted(similarity, boxes, size=(size, size)).flatten(1)
    height, pixel = heat.max(dim=1)
    peak = torch.stack([pixel % size, pixel // size], dim=1).add(0.5) / size  # n 2
    return height, torch.cdist(peak, centres(boxes[0])).argmin(dim=1)


def _asserted(report: str, tokens: Tokens, *, anatomy: bool) -> tuple[list[Mention], Tensor]:
    """The mentions that a report does not deny, and float32 [n,W]: the share of each word in a mention's mean."""
    content = content_mask(tokens)[0]
    mentions, rows = [], []
    for mention in extract(report):
        named = [i for i in mention_words(mention, tokens.spans[0]) if content[i]]
        if mention.status != "absent" and named and (anatomy or mention.kind == "pathology"):
            mentions.append(mention)
            rows.append(torch.zeros(len(content)).index_fill(0, torch.tensor(named), 1 / len(named)))
    return mentions, torch.stack(rows) if rows else torch.zeros(0, len(content))


def crop(image: Tensor, box: Sequence[float]) -> np.ndarray:
    """The pixels of a box (fractions) and of what is around it, uint8, from image float [S,S] in [-1,1]."""
    size = image.shape[-1]
    around = size // AROUND
    x0, y0, x1, y1 = (round(edge * size) for edge in box)
    part = image[max(0, y0 - around) : y1 + around, max(0, x0 - around) : x1 + around]
    return ((part.float() + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
