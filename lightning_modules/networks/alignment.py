"""Image patches and report words in one space, and the late interaction between them (AdaMatch, arXiv 2312.08078).

Two design choices keep a word's feature *about that word* and a patch's feature *about that place*, without which the
similarity of a word with a patch says nothing about where a finding is: a word sees only its own sentence, so
"effusion" cannot stand for the whole report; and a patch sees its surroundings alone (see `patch_encoder`).

Shapes: B images or texts, P patches (row-major), T sub-words, W words, M statements, D the shared space, C a width.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.patch_encoder import PatchEncoder
from lightning_modules.networks.pretrained_image import ImageTrunk
from lightning_modules.networks.pretrained_text import PretrainedTextEncoder
from lightning_modules.networks.text_encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.tokenizer import Tokens, pool_words

# Words that stand in every report whatever it shows: in a mean over words they only dilute those that can be seen.
# Words of negation stay out too: what they deny is carried by the words beside them, which the text encoder lets see.
_STOP_WORDS = (
    "a an the this that these those there here it its is are was were be been being has have had do does and or but "
    "nor of in on at to for from with by as into than then which who no not without any other both per seen noted "
    "identified evident appears appear findings impression"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
SENTENCE_ENDS = frozenset({".", "!", "?", ":"})
COSINES = 1 << 24  # held at a time
BAD = -1e4  # stands for minus infinity: larger than any cosine in magnitude, and finite in bf16


@dataclass(frozen=True)
class AlignerConfig:
    """Sizes of the aligner.

    Attributes:
        resolution: image side in pixels.
        patch: patch side in pixels, a power of two that divides `resolution`.
        channels: widths of the first stages of the image encoder, from which as many are taken as `patch` has halvings;
            those of the FindingClassifier whose weights are taken.
        width, depth: channels and residual blocks of the image encoder on the patch grid.
        dim: size of the shared space (256 in AdaMatch; half of it makes the late interaction twice as fast).
        dropout: in both encoders.
        vocabulary: upper bound of the tokenizer's sub-words.
        max_length: longest report in sub-words; what is longer is cut.
        text_width, text_depth, heads: of the text encoder.
        adaptive: let each patch choose its own box (AdaMatch) in place of its grid cell.
    """

    resolution: int = 64
    patch: int = 2
    channels: tuple[int, ...] = (32, 64, 96, 128)
    width: int = 48
    depth: int = 1
    heads: int = 4
    dim: int = 64
    dropout: float = 0.1
    vocabulary: int = 1000
    max_length: int = 160
    text_width: int = 128
    text_depth: int = 1
    adaptive: bool = False

    def __post_init__(self) -> None:
        if self.patch < 2 or self.patch & (self.patch - 1) or self.resolution % self.patch:
            raise ValueError(
                f"patch {self.patch} must be a power of two, at least 2, that divides resolution {self.resolution}"
            )
        if self.side < 2:
            raise ValueError(f"patch {self.patch} makes one patch of {self.resolution} pixels; give a smaller one")

        if self.halvings > len(self.channels):
            raise ValueError(f"patch {self.patch} needs {self.halvings} channels, one a halving; found {self.channels}")

    @property
    def halvings(self) -> int:
        """How often the image is halved to the patch grid."""
        return self.patch.bit_length() - 1

    @property
    def side(self) -> int:
        """Patches along one side of the image."""
        return self.resolution // self.patch

    def text(self, vocabulary: int) -> TextEncoderConfig:
        """Sizes of the text encoder for a tokenizer of so many sub-words."""
        return TextEncoderConfig(
            vocabulary, self.max_length, self.text_width, self.text_depth, self.heads, self.dropout
        )


@dataclass(frozen=True)
class Alignment:
    """Which patch shows which word.

    Attributes:
        similarity: cosines, float32 [B,W,P]; rows beyond a report's words mean nothing.
        words: each report's words.
        spans: each word's (start, end) in its report.
        boxes: the patches in fractions of the image (x0, y0, x1, y1), float32 [B,P,4].
    """

    similarity: Tensor
    words: list[list[str]]
    spans: list[list[tuple[int, int]]]
    boxes: Tensor


class Words(NamedTuple):
    """What the text encoder makes of each word; rows beyond a text's words mean nothing."""

    vectors: Tensor  # unit, float32 [B,W,D]
    denials: Tensor  # float32 [B,W], the logit that its sentence denies it
    thresholds: Tensor  # float32 [B,W], what is added to its evidence, so that 0 is undecided


class Queries(NamedTuple):
    """What M statements ask for."""

    vectors: Tensor  # unit, float32 [M,D]
    denials: Tensor  # float32 [M]
    thresholds: Tensor  # float32 [M]


class AlignmentNetwork(nn.Module):
    """Both encoders and the learnable temperature.

    Args:
        config: sizes.
        vocabulary: sub-words of the tokenizer.
        trunk: a pretrained image network, whose grid then counts instead of the config's.
        text: a pretrained text encoder in place of the small one.
    """

    def __init__(
        self,
        config: AlignerConfig,
        *,
        vocabulary: int,
        trunk: ImageTrunk | None = None,
        text: PretrainedTextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image = PatchEncoder(
            side=config.side,
            channels=tuple(config.channels[: config.halvings]),
            width=config.width,
            depth=config.depth,
            dim=config.dim,
            dropout=config.dropout,
            adaptive=config.adaptive,
            trunk=trunk,
        )
        self.text = TextEncoder(config.text(vocabulary)) if text is None else text
        self.text_out = nn.Linear(2 * self.text.width, config.dim)
        self.denial_out = nn.Linear(2 * self.text.width, 1)
        self.threshold_out = nn.Linear(2 * self.text.width, 1)
        nn.init.constant_(self.threshold_out.bias, -3.0)  # at first nothing is shown
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.log_gain = nn.Parameter(torch.tensor(10.0).log())

    @property
    def pretrained(self) -> list[nn.Module]:
        """The parts that come from elsewhere."""
        return [part for part in (self.image.trunk, self.text) if isinstance(part, ImageTrunk | PretrainedTextEncoder)]

    def patches(self, image: Tensor, *, phase: int | None = None) -> Tensor:
        """Unit vectors of the patches: float [B,1,H,W] → float32 [B,P,D]; `phase` as of `PatchEncoder`."""
        return self.image(image, phase=phase)

    def located_patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The patches, and their boxes (x0, y0, x1, y1) in fractions of the image, float32 [B,P,4]."""
        return self.image.located(image)

    def words(self, tokens: Tokens) -> Words:
        """What each word asks for."""
        read = read_words(self.text, tokens)
        vectors = functional.normalize(self.text_out(read).float(), dim=-1)
        return Words(vectors, self.denial_out(read)[..., 0].float(), self.threshold_out(read)[..., 0].float())

    def evidence(self, queries: Queries, patches: Tensor) -> Tensor:
        """How much each image shows of what each statement names, as a logit: M queries, [B,P,D] → float32 [B,M].

        The smooth maximum (log-mean-exp) over the patches of gain · cosine, plus the statement's threshold:
        multiple-instance learning. Some findings are a few pixels and some fill the lung, so each has its own.
        """
        # A test asks a thousand statements at once: all cosines of a batch would take a gigabyte.
        chunk = max(1, COSINES // max(1, len(queries.vectors) * patches.shape[1]))
        peaks = [
            torch.logsumexp(self.log_gain.exp() * every_cosine(queries.vectors, part), dim=-1)
            for part in patches.split(chunk)
        ]
        return torch.cat(peaks) - math.log(patches.shape[1]) + queries.thresholds

    def fits(self, queries: Queries, patches: Tensor) -> Tensor:
        """How well each statement fits each image, float32 [B,M]: its evidence, turned round as far as it denies."""
        return self.evidence(queries, patches) * (1 - 2 * queries.denials.sigmoid())

    @property
    def scale(self) -> Tensor:
        """1 / temperature, kept in [1, 100] as CLIP does so that no logit overflows."""
        return self.log_scale.clamp(0.0, 4.6052).exp()


def read_words(text: TextEncoder | PretrainedTextEncoder, tokens: Tokens) -> Tensor:
    """What the text encoder reads at each word, [B,W,2C]: the sum of its sub-words, and the mean of its sentence.

    Side, zone and denial of a finding stand elsewhere in its sentence; without the mean the encoder would have to carry
    them to each word by attention, which it learns late. A sentence that stands in several reports is encoded once.
    """
    device = next(text.parameters()).device
    place, mask = sentence_rows(tokens)
    rows = torch.where(mask, tokens.ids.flatten()[place.clamp_min(0)], -1)  # S t
    unique, copy_of = rows.unique(dim=0, return_inverse=True)
    known = (unique >= 0).to(device)
    read = text(unique.clamp_min(0).to(device), known)
    mean = (read * known[..., None]).sum(dim=1, keepdim=True) / known.sum(dim=1)[:, None, None]
    read = torch.cat([read, mean.expand_as(read)], dim=-1)[copy_of.to(device)]  # S t 2C
    batch, length = tokens.ids.shape
    # Every sub-word stands in exactly one sentence, so this writes each place once.
    flat = read.new_zeros(batch * length, read.shape[-1])
    flat = flat.index_copy(0, place[mask].to(device), read[mask.to(device)]).view(batch, length, -1)
    index, words = tokens.word_index.to(device), tokens.word_mask.shape[1]
    width = flat.shape[-1] // 2
    pieces = pool_words((index >= 0)[..., None].to(flat.dtype), index, words=words).clamp_min(1)
    pooled = pool_words(flat, index, words=words)
    return torch.cat([pooled[..., :width], pooled[..., width:] / pieces], dim=-1)


def sentence_rows(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Where the sub-words of each sentence stand in `tokens.ids.flatten()`.

    Returns:
        int64 [S,t] places, -1 = padding, and bool [S,t], True where a sub-word stands; S sentences of all texts.
    """
    length = tokens.ids.shape[1]
    rows: list[list[int]] = []
    for b, (words, index) in enumerate(zip(tokens.words, tokens.word_index.tolist(), strict=True)):
        row: list[int] = []
        for t, word in enumerate(index):
            if word < 0:
                break
            row.append(b * length + t)
            if words[word] in SENTENCE_ENDS:
                rows.append(row)
                row = []
        if row:
            rows.append(row)
    longest = max(len(row) for row in rows)
    place = torch.tensor([row + [-1] * (longest - len(row)) for row in rows])
    return place, place >= 0


def content_mask(tokens: Tokens) -> Tensor:
    """Bool [B,W], True at the words that may show in an image: neither punctuation, numbers nor stop words.

    A text without any such word keeps all its words, so that its mean is defined.
    """
    mask = torch.zeros_like(tokens.word_mask)
    for b, words in enumerate(tokens.words):
        keep = [word not in STOP_WORDS and any(c.isalpha() for c in word) for word in words]
        mask[b, : len(words)] = torch.tensor(keep if any(keep) else [True] * len(words))
    return mask


def cosines(words: Tensor, patches: Tensor) -> Tensor:
    """Similarity of each word with each patch of its own image: [B,W,D], [B,P,D] → [B,W,P], in float32."""
    with torch.autocast(words.device.type, enabled=False):
        return words.float() @ patches.float().transpose(1, 2)


def every_cosine(queries: Tensor, patches: Tensor) -> Tensor:
    """Similarity of each query with each patch of each image: [M,D], [B,P,D] → [B,M,P], in float32."""
    with torch.autocast(queries.device.type, enabled=False):
        return torch.einsum("md,bpd->bmp", queries.float(), patches.float())


def compact(words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the kept words to the front and cut the rest: [B,W,D], bool [B,W] → [B,K,D], bool [B,K].

    Fewer words make the late interaction, whose cost is B × B × W × P, that much cheaper.
    """
    count = mask.sum(dim=1)
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(1, int(count.max()))]
    kept = torch.arange(order.shape[1], device=mask.device)[None, :] < count[:, None]
    return words.gather(1, order[..., None].expand(-1, -1, words.shape[-1])), kept


def late_interaction(
    patches: Tensor, words: Tensor, word_mask: Tensor, *, budget: int = COSINES
) -> tuple[Tensor, Tensor]:
    """Scores of every image with every text, each from cosines of patches with words.

    Args:
        patches: unit vectors [I,P,D].
        words: unit vectors [J,W,D].
        word_mask: bool [J,W], True at the words that count; at least one in each row.
        budget: the largest number of cosines held at a time; images are taken in chunks of that size.

    Returns:
        float32 [I,J] image→text = mean over patches of the maximum over words, and float32 [I,J] text→image = mean over
        words of the maximum over patches.
    """
    (images, count, _), (texts, length, _) = patches.shape, words.shape
    chunk = max(1, budget // (count * texts * length))
    weight = word_mask.float() / word_mask.sum(dim=1, keepdim=True)
    flat = words.flatten(0, 1).T  # D JW
    to_text, to_image = [], []
    for start in range(0, images, chunk):
        cosine = (patches[start : start + chunk] @ flat).unflatten(-1, (texts, length))  # i P J W
        # `max` keeps only indices for the backward pass, `amax` would keep all cosines of all chunks.
        per_patch = cosine.masked_fill(~word_mask, BAD).max(dim=-1).values  # i P J
        to_text.append(per_patch.float().mean(dim=1))
        to_image.append((cosine.max(dim=1).values.float() * weight).sum(dim=-1))
    return torch.cat(to_text), torch.cat(to_image)
