"""`MultiScaleSimilarity`: MS-SSIM of reconstructions with their originals, the mean over the images of a test."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.extraction import check_images, images_of
from callbacks.logged import log_equal
from callbacks.metrics.bank import RowBank
from callbacks.metrics.similarity import KERNEL, SIGMA, betas_for, ms_ssim
from datamodules.manifest import Batch


class MultiScaleSimilarity(Callback):
    """Logs `<prefix>/ms_ssim` at the end of a test; callbacks/metrics/similarity.py states the scales and exponents.

    Args:
        output: the key of the images in what `test_step` returns.
        prefix: of the metric's name.

    Raises:
        ValueError: for images below 16 pixels, or a test without images.
    """

    def __init__(self, *, output: str = "reconstruction", prefix: str = "codebook") -> None:
        self.output, self.prefix = output, prefix
        self.bank: RowBank
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with an empty bank on the module's device."""
        self._protocol = {}
        self.bank = RowBank(2).to(pl_module.device)
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
        made = images_of(outputs, key=self.output, like=real, ids=ids)
        values = ms_ssim(made, real)
        # The side goes along, so that a rank without images states the same protocol as the others.
        self.bank.update(torch.stack([values, torch.full_like(values, min(real.shape[-2:]))], dim=1), ids, ids)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and log; every rank takes part and logs the same."""
        rows = self.bank.compute()
        self.bank.reset()
        if not len(rows.values):
            raise ValueError(f"{self.prefix}/ms_ssim: no image was tested")
        value = rows.values[:, 0].double().mean()
        log_equal(pl_module, {f"{self.prefix}/ms_ssim": value.float()})
        betas = betas_for(int(rows.values[:, 1].min()))
        self._protocol = {
            "figures": [f"{self.prefix}/ms_ssim"],
            "output": self.output,
            "n": len(rows.values),
            "repeated_left_out": rows.repeated,
            "scales": len(betas),
            "betas": [round(beta, 6) for beta in betas],
            "window": {"gaussian": KERNEL, "sigma": SIGMA},
            "range": "[0, 1]",
        }

    def protocol(self) -> dict[str, Any]:
        """How the last test's figure was made."""
        return {f"{self.prefix}/ms_ssim": self._protocol} if self._protocol else {}
