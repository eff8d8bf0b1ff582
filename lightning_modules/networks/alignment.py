"""Image patches and report words in one space, and the late interaction between them (AdaMatch, arXiv 2312.08078).

Two design choices keep a word's feature *about that word* and a patch's feature *about that place*, without which the
similarity of a word with a patch says nothing about where a finding is: a word sees only its own sentence, so
"effusion" cannot stand for the whole report; and a patch sees its surroundings alone (see `patch_encoder`).

Shapes: B images or texts, P patches (row-major), T sub-words, W words, D the shared space, C a network's width.
"""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.patch_encoder import PatchEncoder
from lightning_modules.networks.ranks import distributed, gather_rows, world_size
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


class AlignmentNetwork(nn.Module):
    """Both encoders and the learnable temperature."""

    def __init__(self, config: AlignerConfig, *, vocabulary: int) -> None:
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
        )
        self.text = TextEncoder(config.text(vocabulary))
        self.text_out = nn.Linear(2 * config.text_width, config.dim)
        self.denial_out = nn.Linear(2 * config.text_width, 1)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.log_gain, self.offset = nn.Parameter(torch.tensor(10.0).log()), nn.Parameter(torch.tensor(-3.0))

    def patches(self, image: Tensor, *, phase: int | None = None) -> Tensor:
        """Unit vectors of the patches: float [B,1,H,W] → float32 [B,P,D]; `phase` as of `PatchEncoder`."""
        return self.image(image, phase=phase)

    def located_patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The patches, and their boxes (x0, y0, x1, y1) in fractions of the image, float32 [B,P,4]."""
        return self.image.located(image)

    def words(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Unit vectors float32 [B,W,D], and the logits float32 [B,W] that a word's sentence denies it.

        Rows beyond `tokens.word_mask` mean nothing.
        """
        read = read_words(self.text, tokens)
        return functional.normalize(self.text_out(read).float(), dim=-1), self.denial_out(read)[..., 0].float()

    def evidence(self, similarity: Tensor) -> Tensor:
        """How much an image shows of a word, as a logit: cosines float [...,P] → float32 [...].

        The smooth maximum (log-mean-exp) over the patches of gain · cosine, plus an offset: multiple-instance learning.
        """
        peak = torch.logsumexp(self.log_gain.exp() * similarity.float(), dim=-1)
        return peak - math.log(similarity.shape[-1]) + self.offset

    @property
    def scale(self) -> Tensor:
        """1 / temperature, kept in [1, 100] as CLIP does so that no logit overflows."""
        return self.log_scale.clamp(0.0, 4.6052).exp()


def encode_words(text: TextEncoder, out: nn.Linear, tokens: Tokens) -> Tensor:
    """Reports to one unit vector a word, float32 [B,W,D]."""
    return functional.normalize(out(read_words(text, tokens)).float(), dim=-1)


def read_words(text: TextEncoder, tokens: Tokens) -> Tensor:
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
    patches: Tensor, words: Tensor, word_mask: Tensor, *, budget: int = 1 << 24
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


def soft_targets(rows: Tensor, columns: Tensor, row_text: Tensor, column_text: Tensor, *, same_labels: float) -> Tensor:
    """How much each column deserves of each row's probability, so that interchangeable pairs do not repel each other.

    Args:
        rows: labels, float [I,14] of 1, 0 or NaN.
        columns: labels, float [J,14].
        row_text: int64 [I], equal where texts are equal.
        column_text: int64 [J].
        same_labels: the weight, in [0,1], of a pair whose known labels are the same; one with the same text weighs 1.

    Returns:
        float32 [I,J]; each row sums to 1, provided that its own text is among the columns.
    """
    same_text = row_text[:, None] == column_text[None, :]
    a, b = rows.nan_to_num(-2.0), columns.nan_to_num(-2.0)
    same = (a[:, None, :] == b[None, :, :]).all(dim=-1) & ~rows.isnan().all(dim=1)[:, None]
    weight = torch.where(same_text, 1.0, same.float() * same_labels)
    return weight / weight.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy of float [I,J] logits with targets whose rows sum to 1."""
    return -(targets * functional.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()


def contrastive_loss(
    patches: Tensor, words: Tensor, mask: Tensor, labels: Tensor, texts: Tensor, *, scale: Tensor, same_labels: float
) -> Tensor:
    """Symmetric cross-entropy over the union of all ranks' batches.

    Each rank scores its own images with all texts and its own texts with all images; features are gathered with their
    gradients, so that the mean over ranks, which DDP takes, is the loss and gradient of one rank with the union batch.

    Args:
        patches: unit vectors [B,P,D] of this rank.
        words: unit vectors [B,W,D].
        mask: bool [B,W].
        labels: float [B,14] of 1, 0 or NaN.
        texts: int64 [B], equal where reports are equal.
        scale: 1 / temperature.
        same_labels: see `soft_targets`.
    """
    if distributed():
        longest = torch.tensor(words.shape[1], device=words.device)
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        extra = int(longest) - words.shape[1]
        words, mask = functional.pad(words, (0, 0, 0, extra)), functional.pad(mask, (0, extra))
        all_patches, all_words, all_mask, all_labels, all_texts = (
            gather_rows(part) for part in (patches, words, mask, labels, texts)
        )
        to_text = late_interaction(patches, all_words, all_mask)[0]
        to_image = late_interaction(all_patches, words, mask)[1]
    else:
        all_labels, all_texts = labels, texts
        to_text, to_image = late_interaction(patches, words, mask)
    targets = soft_targets(labels, all_labels, texts, all_texts, same_labels=same_labels)
    # DDP takes the mean over ranks: a rank with one row more counts so much more.
    share = len(labels) * world_size() / len(all_labels)
    return (
        0.5 * share * (soft_cross_entropy(scale * to_text, targets) + soft_cross_entropy(scale * to_image.T, targets))
    )
