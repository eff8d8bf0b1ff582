"""`FidelityMetrics`: how near generated or reconstructed test images come to real ones, seen by several extractors.

All sets of one test have the same number N of images and go once through each extractor at the same resolution, so
these figures can be compared with one another; figures of another N, extractor or image size cannot.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.downstream import slug
from callbacks.extraction import CHUNK, check_images, describe, extract, images_of
from callbacks.feature_cache import FeatureCache, pixel_keys
from callbacks.logged import log_equal
from callbacks.metrics.bank import RowBank, Rows, id_hash
from callbacks.metrics.fidelity import FidelityOptions, fidelity
from callbacks.metrics.ranks import from_all_ranks
from callbacks.protocols import (
    DecodesRandom,
    FeatureExtractor,
    HasCacheFolder,
    HasReferenceImages,
    as_feature_extractor,
)
from callbacks.reading import read_images
from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS, VIEWS

KINDS = ("real", "fake", "blur", "random_tokens", "reference")
KEPT = ("real", "blur", "reference")  # of real images: the same in every test of the data


class FidelityMetrics(Callback):
    """Logs distances and shares at the end of a test.

    With `<p>` = `<prefix>/<name>`; of one of the `more` extractors `<prefix>/<its key>/<name>`, and so on for all.

    - `<p>`: test images against `output`; `<p>_low`, `<p>_high`: ± 1.96 jackknife errors over patients. The interval is
      that of the figure at this N, which is biased upwards by about 1/N; it is no interval of FID at infinite N.
    - `<p>_infinity`: where the figure tends with N, see `jackknife`.
    - `<p>_floor`: test images against N training images, about what a perfect generator would score. It holds the
      sampling error and whatever else sets the two splits apart; an extractor that was fitted to the training images
      sets them apart further, so a generator can score below it. It does not bound an rFID:
      reconstructions are compared with their own originals, without the sampling error.
    - `<p>_n`: N.
    - `<p>_blur`: test images against themselves, blurred. As with reconstructions there is no sampling error in it,
      so to score below it is harder than to score below blurred images of other patients.
    - `<p>_random_tokens`: test images against decoded random tokens, where the module offers `decode_random(n, seed)`.
    - KID, `<prefix>/kid` and `<prefix>/kid_floor` (`rkid` where `name` is "rfid").
    - `<prefix>/precision`, `recall`, `density`, `coverage`, and the same with `_floor`: what as many training images
      score, which a perfect generator cannot exceed by more than chance.
    - `<p>/<finding>`, `<prefix>/kid/<finding>`, and the same with `view_<view>`: of the images that show a finding or
      have a view, where there are enough, if `parts`; the first extractor's alone. Their floors are higher than that of
      the whole.

    Args:
        extractor: a `FeatureExtractor` (callbacks/protocols.py), kept here, outside of the module and its checkpoints.
        more: further ones by the key that they have in the figures' names.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        name: "rfid" says that `output` are reconstructions.
        floor: ask `trainer.datamodule.reference_dataset(n, seed)` for real training images.
        controls: measure `_blur` and `_random_tokens`.
        blur_factor: down by this factor and up again, bilinear with antialiasing.
        parts: also of each finding and view.
        options: of the figures.
        cache: keep the features of real images beside the datamodule's own caches.

    Raises:
        ValueError: for images or features that are not finite, naming the image; for fewer than 2 images.
    """

    def __init__(
        self,
        extractor: nn.Module,
        *,
        more: Mapping[str, nn.Module] | None = None,
        output: str = "synthetic",
        prefix: str = "generator",
        name: Literal["fid", "rfid"] = "fid",
        floor: bool = True,
        controls: bool = True,
        blur_factor: int = 2,
        parts: bool = False,
        options: FidelityOptions = FidelityOptions(),  # noqa: B008 - frozen
        cache: bool = True,
    ) -> None:
        if blur_factor < 2:
            raise ValueError(f"blur_factor {blur_factor} does not blur; expected 2 or more")
        self.modules = {prefix: extractor} | {f"{prefix}/{key}": module for key, module in (more or {}).items()}
        self.output, self.prefix, self.name = output, prefix, name
        self.floor, self.controls, self.blur_factor = floor, controls, blur_factor
        self.by_part, self.options, self.cache = parts, options, cache
        self.extractors: dict[str, FeatureExtractor] = {}
        self.banks: dict[tuple[str, str], RowBank] = {}  # by the extractor's prefix and the kind
        self.caches: dict[tuple[str, str], FeatureCache] = {}
        self.pixels: dict[str, dict[int, int]] = {}  # of each kind that is kept, the ids' hashes and their pixels' keys
        self.parts = RowBank(len(FINDINGS) + 1)  # labels and view
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the extractors, move them to the module's device, and begin with empty banks."""
        self._protocol, self.caches, self.pixels = {}, {}, {kind: {} for kind in KEPT}
        self.extractors = {prefix: as_feature_extractor(module) for prefix, module in self.modules.items()}
        self.parts = RowBank(len(FINDINGS) + 1).to(pl_module.device)
        for prefix, extractor in self.extractors.items():
            self.modules[prefix].to(pl_module.device)
            for kind in KINDS:
                self.banks[prefix, kind] = RowBank(extractor.num_features).to(pl_module.device)
        for bank in (self.parts, *self.banks.values()):
            bank.start()  # on the device, so that a rank without images gathers a tensor that its backend can send
        if self.floor and not isinstance(getattr(trainer, "datamodule", None), HasReferenceImages):
            raise ValueError(
                f"{self.prefix}/{self.name}_floor: the datamodule has no reference_dataset(n, seed); "
                "use CXRDataModule, or leave the floor out with floor: false"
            )

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the features of the batch's real images and of the step's images."""
        ids, patients = batch["image_id"], batch["patient_id"]
        real = check_images(batch["image"], what="real", ids=ids)
        fake = images_of(outputs, key=self.output, like=real, ids=ids)
        if not self.caches:
            self._open_caches(trainer, real)
        self._add("real", real, ids, patients)
        self._add("fake", fake, ids, patients)
        if self.controls:
            self._add("blur", blur(real, factor=self.blur_factor), ids, patients)
        parts = torch.cat([batch["labels"].float(), batch["view"][:, None].float()], dim=1)
        self.parts.update(parts.to(real.device), ids, patients)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather, compare and log; every rank takes part and logs the same."""
        n = len(self.banks[self.prefix, "real"].compute().values)
        if n < 2:
            raise ValueError(f"{self.prefix}/{self.name}: {n} test images; it needs at least 2")
        if self.controls and isinstance(pl_module, DecodesRandom):
            self._decode_random(trainer, pl_module, n)
        if self.floor:
            self._refer(trainer, n)
        parts = parts_of(self.parts.compute().values) if self.by_part else {}
        # Of each kind, what all ranks' images are known by.
        told = from_all_ranks(self.pixels)
        known = {kind: {name: key for one in told for name, key in one[kind].items()} for kind in KEPT}
        for prefix, extractor in self.extractors.items():
            rows = {kind: self.banks[prefix, kind].compute() for kind in KINDS}
            if n > 2 and bool((rows["real"].values == rows["real"].values[0]).all()):
                raise ValueError(
                    f"extractor {extractor.name} gives the same features for all {n} real images: "
                    "wrong weights, or a pixel range that it was not made for"
                )
            self._measure(pl_module, prefix, rows, parts if prefix == self.prefix else {})
            if trainer.is_global_zero:
                for kind, pixels in known.items():
                    ids = rows[kind].keys.tolist()
                    # A rank without test images has opened no cache and does not know its references' pixels.
                    if (prefix, kind) in self.caches and pixels.keys() >= set(ids):
                        self.caches[prefix, kind].write(rows[kind].values, [pixels[name] for name in ids])
        self.banks, self.caches, self.pixels = {}, {}, {}

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return self._protocol

    def _add(self, kind: str, images: Tensor, ids: Sequence[str], groups: Sequence[str]) -> None:
        if not len(ids):
            return
        keys = pixel_keys(images) if kind in KEPT and self.caches else []
        if keys:
            self.pixels[kind].update(zip(map(id_hash, ids), keys, strict=True))
        for prefix, extractor in self.extractors.items():
            cache = self.caches.get((prefix, kind))
            found = cache.find(keys) if cache is not None else None
            rows = extract(extractor, images, method="features", what=kind, ids=ids) if found is None else found
            bank = self.banks[prefix, kind]
            bank.update(rows.to(bank.device), ids, groups)

    def _open_caches(self, trainer: Trainer, real: Tensor) -> None:
        data = getattr(trainer, "datamodule", None)
        if not self.cache or not isinstance(data, HasCacheFolder):
            return
        shared = {"size": list(real.shape[-2:]), "device": real.device.type}
        for prefix, extractor in self.extractors.items():
            for kind in KEPT:
                depends = {"kind": kind, "extractor": describe(extractor), **shared}
                self.caches[prefix, kind] = FeatureCache(data.cache_dir, depends)

    def _decode_random(self, trainer: Trainer, module: DecodesRandom, n: int) -> None:
        # Chunks have their own seeds and go round the ranks: the same images whatever the number of ranks.
        for chunk in range(trainer.global_rank, math.ceil(n / CHUNK), trainer.world_size):
            start = chunk * CHUNK
            size = min(CHUNK, n - start)
            with torch.no_grad():
                images = module.decode_random(size, seed=self.options.seed + chunk)
            ids = [f"random-{start + i}" for i in range(size)]
            self._add("random_tokens", check_images(images, what="random-token", ids=ids), ids, ids)

    def _refer(self, trainer: Trainer, n: int) -> None:
        data: HasReferenceImages = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.reference_dataset(n, seed=self.options.seed)
        if len(dataset) != n:
            raise ValueError(
                f"{self.prefix}/{self.name}_floor: {len(dataset)} training images were given for {n} test images; the "
                "floor holds only at equal N: test on fewer images (trainer.limit_test_batches), or floor: false"
            )
        own, device = range(trainer.global_rank, n, trainer.world_size), self.parts.device
        for images, _, places in read_images(dataset, own, device=device, what="reference"):
            ids = [f"reference-{place}" for place in places]
            self._add("reference", images, ids, ids)

    def _measure(
        self, pl_module: LightningModule, prefix: str, rows: Mapping[str, Rows], parts: Mapping[str, Tensor]
    ) -> None:
        names = {"blur": "blur", "random_tokens": "random_tokens", "floor": "reference"}
        others = {name: rows[kind] for name, kind in names.items() if len(rows[kind].values)}
        found = fidelity(rows["real"], rows["fake"], others, name=self.name, options=self.options, parts=parts)
        log_equal(pl_module, {f"{prefix}/{key}": value for key, value in found.values.items()})
        undefined = {f"{prefix}/{key}": reason for key, reason in found.protocol["undefined"].items()}
        self._protocol[f"{prefix}/{self.name}"] = {
            **found.protocol,
            "figures": sorted(f"{prefix}/{key}" for key in found.values),
            "extractor": describe(self.extractors[prefix]),
            "output": self.output,
            "blur_factor": self.blur_factor if self.controls else None,
            "paired": "compared with their own originals; the floor is no lower bound" if self.name == "rfid" else None,
            "undefined": undefined,
        }


def blur(images: Tensor, *, factor: int) -> Tensor:
    """Float [B,1,H,W] scaled down by `factor` and up again, see `through`: fine detail is lost."""
    return through(images, size=(max(1, images.shape[-2] // factor), max(1, images.shape[-1] // factor)))


def through(images: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Float [B,1,H,W] in [-1,1] brought to another size and back, bilinear with antialiasing."""
    small = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=images.shape[-2:], mode="bilinear", antialias=True).clamp(-1, 1)


def parts_of(rows: Tensor) -> dict[str, Tensor]:
    """Which of N images show each finding and have each view, bool [N] each, from float [N,15] of labels and view."""
    findings = {slug(name): rows[:, f] == 1 for f, name in enumerate(FINDINGS)}
    return findings | {f"view_{name.lower()}": rows[:, -1] == v for v, name in enumerate(VIEWS)}
