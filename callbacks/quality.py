"""`NaturalQuality`: NIQE of generated images beside real test images, by a model of real training images.

callbacks/metrics/niqe.py says what the figure is, and what it cannot mean at 64 or 128 pixels.
"""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.extraction import CHUNK, check_images, images_of
from callbacks.fidelity import blur
from callbacks.logged import log_equal
from callbacks.metrics.bank import RowBank, Rows, id_hash
from callbacks.metrics.niqe import FEATURES, SHARP, NaturalModel, fit, niqe, patch_features, read_model, sharp
from callbacks.metrics.pairs import grouped_mean
from callbacks.protocols import HasReferenceImages
from callbacks.reading import read_images
from datamodules.manifest import Batch

SIDES = ("output", "real", "blur", "noise")


class NaturalQuality(Callback):
    """Logs mean NIQEs at the end of a test; lower is nearer to the model. With `<p>` = `<prefix>/niqe`.

    - `<p>`: of the step's images; `<p>_low`, `<p>_high`: Student's 95 % over patients. The model is taken as
      given.
    - `<p>_real`: of the test's real images, with the same interval: what good images score. Below it is not better.
    - `<p>_blur`, `<p>_noise`: of the real images, blurred by `blur_factor` and with Gaussian noise of deviation
      `noise`. Where they are not above `<p>_real`, NIQE tells nothing of these images.
    - `<p>_n`: how many images.

    Args:
        patch: pixels, even; at least two have to fit into a side.
        fit_images: real training images that the model is fitted to, by `trainer.datamodule.reference_dataset`.
        model: `modelparameters.mat` of NIQE's authors, a model of photographs, instead; needs `patch: 96`.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        controls: measure `_blur` and `_noise`.
        blur_factor: see `callbacks.fidelity.blur`.
        noise: on the scale of [-1,1].
        seed: of the training images and the noise.

    Raises:
        FileNotFoundError: `model` is not there.
        ValueError: for images that are not finite, naming the image; for images too small for `patch`.
    """

    def __init__(
        self,
        *,
        patch: int = 32,
        fit_images: int = 500,
        model: str | None = None,
        output: str = "synthetic",
        prefix: str = "generator",
        controls: bool = True,
        blur_factor: int = 2,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        if model is not None and patch != 96:
            raise ValueError(
                f"{model} describes patches of 96 pixels, patch is {patch}; give patch: 96, or model: null"
            )
        self.patch, self.fit_images, self.path = patch, fit_images, model
        self.output, self.prefix, self.seed = output, prefix, seed
        self.controls, self.blur_factor, self.noise = controls, blur_factor, noise
        self.model: NaturalModel
        self.bank: RowBank
        self._fitted: dict[str, Any] = {}
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read or fit the model, each rank describing its share of the training images; begin with an empty bank."""
        self._protocol = {}
        if self.path is not None:
            self.model, self._fitted = read_model(self.path), {"model": "the authors', of photographs"}
        else:
            self.model = self._fit(trainer, pl_module)
        self.bank = RowBank(len(SIDES)).to(pl_module.device)
        self.bank.start()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the batch's images."""
        ids = batch["image_id"]
        real = check_images(batch["image"], what="real", ids=ids)
        sides = [images_of(outputs, key=self.output, like=real, ids=ids), real]
        if self.controls:
            sides += [blur(real, factor=self.blur_factor), noisy(real, ids, deviation=self.noise, seed=self.seed)]
        values = [niqe(patch_features(images, patch=self.patch).features, self.model) for images in sides]
        values += [torch.zeros(len(ids))] * (len(SIDES) - len(values))
        self.bank.update(torch.stack(values, dim=1).float().to(pl_module.device), ids, batch["patient_id"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and log; every rank takes part and logs the same."""
        rows = self.bank.compute()
        self.bank.reset()
        if not len(rows.values):
            raise ValueError(f"{self.prefix}/niqe: no image was tested")
        log_equal(pl_module, self._measure(rows))

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/niqe": self._protocol} if self._protocol else {}

    def _fit(self, trainer: Trainer, module: LightningModule) -> NaturalModel:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, HasReferenceImages):
            raise ValueError(
                f"{self.prefix}/niqe: the datamodule has no reference_dataset(n, seed) to fit the model to; use "
                "CXRDataModule, or give the path of a model"
            )
        dataset = data.reference_dataset(self.fit_images, seed=self.seed)
        bank = RowBank(FEATURES + 1).to(module.device)
        bank.start()
        own = range(trainer.global_rank, len(dataset), trainer.world_size)
        for images, _, places in read_images(dataset, own, device=module.device, what="reference", block=CHUNK):
            patches = patch_features(images, patch=self.patch)
            kept = sharp(patches)
            rows = torch.cat([patches.features.nan_to_num(0.0), kept[..., None]], dim=-1).flatten(0, 1)
            owners = [f"reference-{place}/{at}" for place in places for at in range(kept.shape[1])]
            bank.update(rows.float().to(module.device), owners, owners)
        described = bank.compute().values
        model = fit(described[described[:, -1] == 1][:, :-1])
        self._fitted = {
            "model": "fitted to real training images",
            "fit_images": len(dataset),
            "fit_patches": int(described[:, -1].sum()),
            "fit_patches_not_sharp": int((described[:, -1] == 0).sum()),
            "sharper_than": SHARP,
        }
        return model

    def _measure(self, rows: Rows) -> dict[str, float]:
        base, n = f"{self.prefix}/niqe", len(rows.values)
        values, flat = {f"{base}_n": float(n)}, {}
        for at, side in enumerate(SIDES if self.controls else SIDES[:2]):
            key = base if side == "output" else f"{base}_{side}"
            # One image without a figure makes the mean undefined: to leave it out would flatter the others.
            mean = grouped_mean(rows.values[:, at], rows.groups)
            values |= {key: mean.value, f"{key}_low": mean.low, f"{key}_high": mean.high}
            flat[key] = int(rows.values[:, at].isnan().sum())
        self._protocol = {
            "figures": sorted(values),
            "output": self.output,
            "n": n,
            "patients": int(rows.groups.unique().numel()),
            "repeated_left_out": rows.repeated,
            "patch": self.patch,
            **self._fitted,
            "seed": self.seed,
            "blur_factor": self.blur_factor if self.controls else None,
            "noise": self.noise if self.controls else None,
            "interval": "Student's 95 % over patients; the model is taken as given",
            "packages": ["scipy"] if self.path is not None else [],
        }
        undefined = {}
        for key, count in flat.items():
            for name in (key, f"{key}_low", f"{key}_high"):
                if count:
                    undefined[name] = f"{count} of {n} images are flat in all but one patch or in all of them"
                elif math.isnan(values[name]):
                    undefined[name] = f"{n} images of one patient have no interval"
        if undefined:
            self._protocol["undefined"] = undefined
        return values


def noisy(images: Tensor, ids: list[str], *, deviation: float, seed: int) -> Tensor:
    """Float [B,1,H,W] in [-1,1] with Gaussian noise that depends on seed and image id alone."""
    noise = torch.zeros(images.shape)
    for row, name in zip(noise, ids, strict=True):
        row.normal_(generator=torch.Generator().manual_seed(id_hash(f"{seed}/{name}") % 2**63))
    return (images + deviation * noise.to(images.device)).clamp(-1, 1)
