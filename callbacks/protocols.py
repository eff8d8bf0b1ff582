"""What the callbacks ask of objects that are built elsewhere: structural types, checked when a test begins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.manifest import Batch, Manifest

FEATURE_ATTRIBUTES = ("name", "digest", "num_features", "features")
EXTRACTOR_ATTRIBUTES = (*FEATURE_ATTRIBUTES, "logits")
ALIGNER_ATTRIBUTES = ("name", "digest", "log_likelihood", "flipped")


@runtime_checkable
class FeatureExtractor(Protocol):
    """A frozen network that a metric looks through. It is part of the protocol of each number measured with it.

    Attributes:
        name: what it is, for people.
        digest: sha256 of its weights, 64 hexadecimal digits.
        num_features: D, the width of `features`.
    """

    name: str
    digest: str
    num_features: int

    def features(self, image: Tensor) -> Tensor:
        """Float32 [B,1,H,W] in [-1,1] → float32 [B,D]."""


@runtime_checkable
class Extractor(FeatureExtractor, Protocol):
    """One that also tells findings."""

    def logits(self, image: Tensor) -> Tensor:
        """Float32 [B,1,H,W] in [-1,1] → float32 [B,14], in the order of `FINDINGS`."""


class ReadsReports(Protocol):
    """A frozen network that tells how well images fit reports.

    Attributes:
        name: what it is, for people.
        digest: sha256 of its weights.
    """

    name: str
    digest: str

    def log_likelihood(self, image: Tensor, report: Sequence[str]) -> Tensor:
        """Float [B,1,H,W] in [-1,1] and B texts → float32 [B], mean over a text's statements; NaN where it has none."""

    def flipped(self, image: Tensor, report: Sequence[str]) -> Tensor:
        """Float32 [B,3,2] for stated, denied, side: how many statements have a flipped twin and how many beat it."""


@runtime_checkable
class DecodesRandom(Protocol):
    """A module that can decode uniformly random tokens: what its decoder draws without any order of tokens."""

    def decode_random(self, n: int, *, seed: int) -> Tensor:
        """Float [n,1,H,W] in [-1,1], the same for the same n and seed."""


@runtime_checkable
class Redraws(Protocol):
    """A module that can draw an image only as well as its decoder can."""

    def redraw(self, image: Tensor) -> Tensor:
        """Float32 [B,1,H,W] in [-1,1] → the same images encoded and decoded."""


class Quantizer(Protocol):
    """What gives latents their codes.

    Attributes:
        codes: K, how many there are.
    """

    codes: int

    def encode(self, latent: Tensor) -> Tensor:
        """Float [B,D,h,w] → int64 [B,h,w]."""

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 [B,h,w] → float32 [B,D,h,w]."""


class CodebookSizes(Protocol):
    """Sizes of an autoencoder."""

    @property
    def grid(self) -> int:
        """Cells a row: h = w."""


class CodebookNetwork(Protocol):
    """An autoencoder with a quantiser in its middle."""

    config: CodebookSizes
    quantizer: Quantizer

    def latent(self, image: Tensor) -> Tensor:
        """Float32 [B,1,H,W] in [-1,1] → float [B,D,h,w], before quantisation."""


@runtime_checkable
class HasCodebook(Protocol):
    """A module that gives images codes.

    Attributes:
        network: see `CodebookNetwork`.
        train_codes: counts the codes of the training epoch on all ranks; `compute()["usage"]` is the share that occurs.
    """

    network: CodebookNetwork
    train_codes: Metric


class WordMap(Protocol):
    """Where an image shows one mention of its report.

    Attributes:
        word: its canonical name.
        kind: "anatomy" or "pathology".
        status: what the report says of it, "present", "uncertain" or "absent".
        side: "left", "right", "bilateral" or None.
        label: its CheXpert name, or None.
        span: (start, end) of its characters in the report.
        heat: float32 [H,W], cosines with each place of the image.
        peak: (x, y) of the highest pixel's centre, in fractions of the image.
        cosine: at the peak.
        evidence: the logit that the image shows it, whatever the report says.
    """

    word: str
    kind: str
    status: str
    side: str | None
    label: str | None
    span: tuple[int, int]
    heat: Tensor
    peak: tuple[float, float]
    cosine: float
    evidence: float


class ClueOrigin(Protocol):
    """One key patch that a report fetched.

    Attributes:
        word: the report's word that fetched it.
        score: cosine of the two.
        entry: its row in the key-patch file.
        entry_word: the word that it was kept for.
        side: the patient's side that it was kept for, or None.
        image_id: of the training image that it was cut from, or None where that is not known.
        box: (x0, y0, x1, y1) in fractions of that image.
        positions: cells (row * grid + column) of the codes that it gave.
        codes: the codes.
        grid: cells a side.
    """

    word: str
    score: float
    entry: int
    entry_word: str
    side: str | None
    image_id: str | None
    box: tuple[float, float, float, float]
    positions: tuple[int, ...]
    codes: tuple[int, ...]
    grid: int


@runtime_checkable
class ExplainsWords(Protocol):
    """A module that shows where images show what their reports say.

    Attributes:
        key_patches: the file that `explain_clues` fetches from; None where there is none.
    """

    key_patches: str | None

    def word_maps(self, image: Tensor, report: Sequence[str], *, anatomy: bool = False) -> Sequence[Sequence[WordMap]]:
        """Maps of B images [B,1,H,W] in [-1,1] and B texts, those of stated findings first."""

    def explain_clues(
        self, report: Sequence[str], *, exclude_patients: Sequence[str] | None = None
    ) -> Sequence[Sequence[ClueOrigin]]:
        """The key patches that B texts fetch, best first, but for those of these patients."""


class SplitDataset(Protocol):
    """The images of one split, in a fixed order, read when they are asked for; the same on every rank."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, chosen: Sequence[int]) -> Batch:
        """The batch of these rows, in the order in which they are named."""


@runtime_checkable
class HasReferenceImages(Protocol):
    """A datamodule that can give real images of patients who are not in the test split."""

    def reference_dataset(self, n: int, *, seed: int) -> SplitDataset:
        """Of n different training images, the same for the same n and seed; of all where there are fewer."""


@runtime_checkable
class HasSplits(Protocol):
    """A datamodule whose splits can be read beside its loaders."""

    def split_dataset(self, split: str) -> SplitDataset:
        """That of "train", "validate" or "test"."""


@runtime_checkable
class HasTrainingSplit(HasSplits, Protocol):
    """A datamodule that tells the split of each image; the rows of a split are in the order of its manifest."""

    @property
    def manifest(self) -> Manifest:
        """Its rows."""


@runtime_checkable
class HasCacheFolder(Protocol):
    """A datamodule that keeps what it would otherwise compute again.

    Attributes:
        cache_dir: where.
    """

    cache_dir: Path


@runtime_checkable
class HasProtocol(Protocol):
    """A callback that states how its numbers were made."""

    def protocol(self) -> dict[str, Any]:
        """Plain data by metric name; JSON must be able to hold it."""


def as_feature_extractor(module: nn.Module) -> FeatureExtractor:
    """Freeze `module` and give it back as a FeatureExtractor.

    Raises:
        TypeError: naming the attributes that it lacks.
    """
    return cast(FeatureExtractor, _frozen(module, FEATURE_ATTRIBUTES))


def as_extractor(module: nn.Module) -> Extractor:
    """Freeze `module` and give it back as an Extractor.

    Raises:
        TypeError: naming the attributes that it lacks.
    """
    return cast(Extractor, _frozen(module, EXTRACTOR_ATTRIBUTES))


def as_aligner(module: nn.Module) -> ReadsReports:
    """Freeze `module` and give it back as one that reads reports.

    Raises:
        TypeError: naming the attributes that it lacks.
    """
    return cast(ReadsReports, _frozen(module, ALIGNER_ATTRIBUTES, what="aligner"))


def _frozen(module: nn.Module, attributes: tuple[str, ...], *, what: str = "extractor") -> nn.Module:
    lacking = [name for name in attributes if not hasattr(module, name)]
    if lacking:
        raise TypeError(
            f"{what} {type(module).__name__} lacks {lacking}; an {what} has {list(attributes)} "
            "(callbacks/protocols.py says what each is)"
        )
    module.eval()
    module.requires_grad_(False)
    return module
