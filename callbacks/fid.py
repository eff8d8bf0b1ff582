"""`FrechetDistance`: FID and KID of generated or reconstructed test images, with their floor, interval and controls.

All sets of one test have the same number N of images and go through the same extractor at the same resolution, so these
figures can be compared with one another; figures of another N, extractor or image size cannot.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.extraction import CHUNK, check_images, describe, extract, images_of
from callbacks.metrics.bank import RowBank, Rows
from callbacks.metrics.frechet import KernelDistance, frechet_distance, jackknife, kid, moments
from callbacks.protocols import DecodesRandom, FeatureExtractor, HasReferenceImages, as_feature_extractor
from datamodules.manifest import Batch


class FrechetDistance(Callback):
    """Logs distances at the end of a test. With `<p>` = `<prefix>/<name>`.

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
    - the same for KID, `<prefix>/kid` and `<prefix>/kid_floor` (`rkid` where `name` is "rfid").

    Args:
        extractor: a `FeatureExtractor` (callbacks/protocols.py), kept here, outside of the module and its checkpoints.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        name: "rfid" says that `output` are reconstructions.
        floor: ask `trainer.datamodule.reference_images(n, seed)` for real training images.
        controls: measure `_blur` and `_random_tokens`.
        blur_factor: down by this factor and up again, bilinear with antialiasing.
        folds: parts of the jackknife.
        kid_subset: images a KID subset; all of them where N is smaller.
        seed: of reference images, random tokens and KID subsets.

    Raises:
        ValueError: for images or features that are not finite, naming the image; for fewer than 2 images.
    """

    def __init__(
        self,
        extractor: nn.Module,
        *,
        output: str = "synthetic",
        prefix: str = "generator",
        name: Literal["fid", "rfid"] = "fid",
        floor: bool = True,
        controls: bool = True,
        blur_factor: int = 2,
        folds: int = 20,
        kid_subset: int = 1000,
        seed: int = 0,
    ) -> None:
        if blur_factor < 2:
            raise ValueError(f"blur_factor {blur_factor} does not blur; expected 2 or more")
        self.module = extractor
        self.output, self.prefix, self.name = output, prefix, name
        self.floor, self.controls, self.blur_factor = floor, controls, blur_factor
        self.folds, self.kid_subset, self.seed = folds, kid_subset, seed
        self.extractor: FeatureExtractor
        self.banks: dict[str, RowBank] = {}
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the extractor, move it to the module's device, and begin with empty banks."""
        self.extractor = as_feature_extractor(self.module)
        self.module.to(pl_module.device)
        self._protocol = {}
        kinds = ("real", "fake", "blur", "random_tokens", "reference")
        self.banks = {kind: RowBank(self.extractor.num_features).to(pl_module.device) for kind in kinds}
        for bank in self.banks.values():
            bank.start()  # on the device, so that a rank without images gathers a tensor that its backend can send
        if self.floor and not isinstance(getattr(trainer, "datamodule", None), HasReferenceImages):
            raise ValueError(
                f"{self.prefix}/{self.name}_floor: the datamodule has no reference_images(n, seed); "
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
        ids = batch["image_id"]
        real = check_images(batch["image"], what="real", ids=ids)
        fake = images_of(outputs, key=self.output, like=real, ids=ids)
        self._add("real", real, ids, batch["patient_id"])
        self._add("fake", fake, ids, batch["patient_id"])
        if self.controls:
            self._add("blur", blur(real, factor=self.blur_factor), ids, batch["patient_id"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather, compare and log; every rank takes part and logs the same."""
        real, fake = self.banks["real"].compute(), self.banks["fake"].compute()
        n = len(real.values)
        if n < 2:
            raise ValueError(f"{self.prefix}/{self.name}: {n} test images; it needs at least 2")
        if n > 2 and bool((real.values == real.values[0]).all()):
            raise ValueError(
                f"extractor {self.extractor.name} gives the same features for all {n} real images: "
                "wrong weights, or a pixel range that it was not made for"
            )
        others: dict[str, Rows] = {}
        if self.controls:
            others["blur"] = self.banks["blur"].compute()
            if isinstance(pl_module, DecodesRandom):
                self._decode_random(trainer, pl_module, n)
                others["random_tokens"] = self.banks["random_tokens"].compute()
        if self.floor:
            self._refer(trainer, n)
            others["floor"] = self.banks["reference"].compute()
        values = self._measure(real, fake, others)
        for key, value in values.items():
            # Equal on all ranks, so the mean over ranks changes nothing; it also silences Lightning's advice.
            pl_module.log(key, torch.tensor(value, device=pl_module.device), sync_dist=True, batch_size=1)
        self.banks = {}

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/{self.name}": self._protocol} if self._protocol else {}

    def _add(self, bank: str, images: Tensor, ids: Sequence[str], groups: Sequence[str]) -> None:
        if len(ids):
            rows = extract(self.extractor, images, method="features", what=bank, ids=ids)
            self.banks[bank].update(rows, ids, groups)

    def _decode_random(self, trainer: Trainer, module: DecodesRandom, n: int) -> None:
        # Chunks have their own seeds and go round the ranks: the same images whatever the number of ranks.
        for chunk in range(trainer.global_rank, math.ceil(n / CHUNK), trainer.world_size):
            start = chunk * CHUNK
            size = min(CHUNK, n - start)
            with torch.no_grad():
                images = module.decode_random(size, seed=self.seed + chunk)
            ids = [f"random-{start + i}" for i in range(size)]
            self._add("random_tokens", check_images(images, what="random-token", ids=ids), ids, ids)

    def _refer(self, trainer: Trainer, n: int) -> None:
        images = trainer.datamodule.reference_images(n, seed=self.seed)  # type: ignore[attr-defined]
        if len(images) != n:
            raise ValueError(
                f"{self.prefix}/{self.name}_floor: {len(images)} training images were given for {n} test images; the "
                "floor holds only at equal N: test on fewer images (trainer.limit_test_batches), or floor: false"
            )
        ids = [f"reference-{i}" for i in range(n)][trainer.global_rank :: trainer.world_size]
        own = images[trainer.global_rank :: trainer.world_size]
        self._add("reference", check_images(own, what="reference", ids=ids), ids, ids)

    def _measure(self, real: Rows, fake: Rows, others: dict[str, Rows]) -> dict[str, float]:
        base, n = f"{self.prefix}/{self.name}", len(real.values)
        kernel = f"{self.prefix}/{self.name.replace('fid', 'kid')}"
        at_real = moments(real.values)
        fid = frechet_distance(at_real, moments(fake.values))
        error, infinity = jackknife(real.values, fake.values, real.groups, folds=self.folds)
        distance = self._kid(real, fake)
        values = {base: fid, f"{base}_n": float(n), f"{base}_low": max(0.0, fid - 1.96 * error), kernel: distance.mean}
        values |= {f"{base}_high": fid + 1.96 * error, f"{base}_infinity": infinity}
        if math.isnan(error):
            values[f"{base}_low"] = math.nan
        for kind, rows in others.items():
            values[f"{base}_{kind}"] = frechet_distance(at_real, moments(rows.values))
        if "floor" in others:
            values[f"{kernel}_floor"] = self._kid(real, others["floor"]).mean
        self._protocol = {
            "extractor": describe(self.extractor),
            "output": self.output,
            "n": n,
            "patients": int(real.groups.unique().numel()),
            "repeated_left_out": real.repeated,
            "seed": self.seed,
            "interval": f"fid ± 1.96 jackknife errors, patients in {self.folds} parts; of the biased figure at this N",
            "kid": {"subset_size": distance.subset_size, "subsets": distance.subsets},
            "blur_factor": self.blur_factor if self.controls else None,
            "paired": "compared with their own originals; the floor is no lower bound" if self.name == "rfid" else None,
            "rank_deficient": _rank_warning(n, int(self.extractor.num_features)),
        }
        if math.isnan(error):
            reason = f"{n} images of too few patients for a jackknife"
            self._protocol["undefined"] = dict.fromkeys((f"{base}_low", f"{base}_high", f"{base}_infinity"), reason)
        return values

    def _kid(self, x: Rows, y: Rows) -> KernelDistance:
        return kid(x.values, y.values, subset_size=self.kid_subset, seed=self.seed)


def _rank_warning(n: int, width: int) -> str | None:
    if n > width:
        return None
    return (
        f"{n} images for {width} features: the covariance is singular and the bias of the Fréchet distance large; "
        "rely on KID, and on differences from the floor"
    )


def blur(images: Tensor, *, factor: int) -> Tensor:
    """Float [B,1,H,W] scaled down by `factor` and up again, bilinear with antialiasing: fine detail is lost."""
    height, width = images.shape[-2:]
    small = (max(1, height // factor), max(1, width // factor))
    low = F.interpolate(images, size=small, mode="bilinear", antialias=True)
    return F.interpolate(low, size=(height, width), mode="bilinear", antialias=True).clamp(-1, 1)
