"""Where an image shows what its report says: one heat map a mention, with the figures that go with it.

Shapes: B images of H × W pixels, D the aligner's space.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from datamodules.reports.mentions import Mention, extract
from datamodules.reports.modifiers import Status
from lightning_modules.networks.alignment import AlignmentNetwork, Queries
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.pointing import heat_maps
from lightning_modules.networks.statements import queries
from lightning_modules.networks.tokenizer import Tokens

ORDER = ("present", "uncertain", "absent")


@dataclasses.dataclass(frozen=True)
class WordMap:
    """Where an image shows one mention of its report.

    Attributes:
        word: the mention's canonical name.
        kind: "pathology" or "anatomy".
        status: what the report says of it; anatomy is always "present".
        side: the patient's side, None where none is named.
        label: its CheXpert name, None where it has none.
        span: (start, end) of its characters in the report.
        heat: cosines of the mention with each place, float32 [H,W], as the pointing game takes them.
        peak: (x, y) of the highest pixel's centre, in fractions of the image.
        cosine: at the peak.
        evidence: the logit that the image shows the finding anywhere; of a denied one too it is that it *is* there.
    """

    word: str
    kind: Literal["anatomy", "pathology"]
    status: Status
    side: str | None
    label: str | None
    span: tuple[int, int]
    heat: Tensor
    peak: tuple[float, float]
    cosine: float
    evidence: float


def asked(report: str, *, anatomy: bool) -> list[Mention]:
    """The mentions of a report worth a map: stated findings first, then doubtful, then denied ones, then anatomy.

    What is said twice (word, side and status alike) is asked once, where it is said first.
    """
    first: dict[tuple[str, str | None, str], Mention] = {}
    for mention in extract(report):
        if anatomy or mention.kind == "pathology":
            first.setdefault((mention.word, mention.side, mention.status), mention)
    return sorted(first.values(), key=lambda m: (m.kind == "anatomy", ORDER.index(m.status), m.start))


def word_maps(
    network: AlignmentNetwork, tokens: Tokens, image: Tensor, report: Sequence[str], *, anatomy: bool = False
) -> list[list[WordMap]]:
    """The maps of B images [B,1,H,W] in [-1,1] and their reports, in the order of `asked`.

    A mention that lies beyond the longest text that the network reads has none.

    Args:
        network: the aligner's.
        tokens: of the reports.
        image: of the network's resolution.
        report: B texts.
        anatomy: also the anatomy that is named.
    """
    found = [
        (b, mention, inside)
        for b, text in enumerate(report)
        for mention in asked(text, anatomy=anatomy)
        if (inside := mention_words(mention, tokens.spans[b]))
    ]
    maps: list[list[WordMap]] = [[] for _ in report]
    if not found:
        return maps
    statements = queries([(b, inside) for b, _, inside in found], network.words(tokens))
    patches, boxes = network.located_patches(image)
    for n, (b, mention, _) in enumerate(found):
        query = Queries(*(part[n : n + 1] for part in statements))
        own = patches[b : b + 1]
        heat = heat_maps(query.vectors, own, boxes[b : b + 1], size=(image.shape[-2], image.shape[-1]))[0].cpu()
        y, x = divmod(int(heat.argmax()), heat.shape[1])
        maps[b].append(
            WordMap(
                mention.word,
                mention.kind,
                mention.status,
                mention.side,
                mention.label,
                (mention.start, mention.end),
                heat,
                ((x + 0.5) / heat.shape[1], (y + 0.5) / heat.shape[0]),
                float(heat[y, x]),
                float(network.evidence(query, own)),
            )
        )
    return maps
