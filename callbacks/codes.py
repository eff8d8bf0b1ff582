"""`CodeHealth`: dead and restarted codes of every training epoch, and the bits that the codes of a test image hold."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.logged import log_equal
from callbacks.metrics.bank import RowBank
from callbacks.metrics.rate import code_rate
from callbacks.protocols import HasCodebook
from datamodules.manifest import Batch


class CodeHealth(Callback):
    """Logs how the codes of a codebook are used, over all ranks.

    After a training epoch, but for one that was resumed in its middle:
    - `train/dead`: codes that no cell of the epoch was given;
    - `train/restarted`: how often a code was moved to where vectors are; for quantisers that count it (an integer
      tensor `restarted`, equal on all ranks, that only grows). A code that is moved twice counts twice.

    After a test:
    - `<prefix>/dead`: codes that no cell of the test images was given;
    - `<prefix>/bits`: bits an image by the entropy of the codes of the test split; `<prefix>/bits_nominal`: cells times
      log2 of the number of codes.

    Args:
        prefix: of the test's metric names.

    Raises:
        TypeError: if the module has no codebook.
    """

    def __init__(self, *, prefix: str = "codebook") -> None:
        self.prefix = prefix
        self.bank: RowBank
        self._restarted: int | None = None  # before the epoch; None where its beginning was not seen
        self._protocol: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without a codebook."""
        if not isinstance(pl_module, HasCodebook):
            raise TypeError(
                f"{type(pl_module).__name__} has no codebook whose codes could be counted; CodeHealth belongs into the "
                "callbacks of ImageCodebook (callbacks/protocols.py, HasCodebook, says what it asks)"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember how many restarts there were before."""
        self._restarted = restarts(pl_module) or 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's figures; Lightning calls this before the module's own hook empties its counts."""
        assert isinstance(pl_module, HasCodebook)
        before, self._restarted = self._restarted, None
        if before is None:
            return  # resumed in the middle: the counts of the first part are gone
        codes = pl_module.network.quantizer.codes
        usage = float(pl_module.train_codes.compute()["usage"])
        values = {"train/dead": float(round((1 - usage) * codes))}
        now = restarts(pl_module)
        if now is not None:
            values["train/restarted"] = float(now - before)
        log_equal(pl_module, values)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with an empty bank on the module's device."""
        assert isinstance(pl_module, HasCodebook)
        self._protocol = {}
        self.bank = RowBank(pl_module.network.config.grid**2).to(pl_module.device)
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
        """Keep the codes of the batch: those that the step returned as "codes", or else made again."""
        if isinstance(outputs, Mapping) and "codes" in outputs:
            codes = outputs["codes"]
        else:
            codes, _ = encoded(batch["image"], trainer, pl_module)
        # Float32 holds every integer up to 2^24, more codes than any codebook has.
        self.bank.update(codes.flatten(1).float(), batch["image_id"], batch["patient_id"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and log; every rank takes part and logs the same."""
        assert isinstance(pl_module, HasCodebook)
        rows = self.bank.compute()
        self.bank.reset()
        total = pl_module.network.quantizer.codes
        rate = code_rate(rows.values.long(), total=total)
        values = {"dead": float(rate.dead), "bits": rate.bits, "bits_nominal": rate.nominal}
        log_equal(pl_module, {f"{self.prefix}/{name}": value for name, value in values.items()})
        self._protocol = {
            "figures": sorted(f"{self.prefix}/{name}" for name in values),
            "n": len(rows.values),
            "repeated_left_out": rows.repeated,
            "codes": total,
            "cells": rate.cells,
            "entropy": "of single codes over the whole test split, plug-in estimate",
        }

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/bits": self._protocol} if self._protocol else {}


def restarts(module: LightningModule) -> int | None:
    """How many restarts the module's quantiser has made so far; None where it does not count them."""
    assert isinstance(module, HasCodebook)
    counted = getattr(module.network.quantizer, "restarted", None)
    return None if counted is None else int(counted)


def encoded(images: Tensor, trainer: Trainer, module: LightningModule) -> tuple[Tensor, Tensor]:
    """Codes int64 [B,h,w] and latents float32 [B,D,h,w] of float32 images [B,1,H,W], in the precision of the test."""
    assert isinstance(module, HasCodebook)
    network = module.network
    with torch.no_grad(), trainer.precision_plugin.test_step_context():
        latent = network.latent(images.to(module.device))
        return network.quantizer.encode(latent), latent.float()
