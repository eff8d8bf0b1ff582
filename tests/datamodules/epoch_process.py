"""Trains on nothing but writes down which rows each rank sees: `python -m tests.datamodules.epoch_process ...`."""

import argparse
import json
import os
import signal
import zlib
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.cxr import CXRDataModule


class Recorder(LightningModule):
    """Appends (epoch, step, image ids) to a file of its rank; dies at the start of a step where it is told to.

    With `pixels`, each image id is followed by a checksum of the image as it reached the step.
    """

    def __init__(self, folder: Path, *, die_at: int, save_first: bool, pixels: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder, self.die_at, self.save_first, self.pixels = folder, die_at, save_first, pixels

    def training_step(self, batch, step):
        if self.global_step == self.die_at:
            if self.save_first:
                # In the middle of a step, as Slurm's signal does it.
                self.trainer.save_checkpoint(self.folder / "last.ckpt")
            os.kill(os.getpid(), signal.SIGKILL)
        seen = batch["image_id"]
        if self.pixels:
            sums = [zlib.crc32(image.numpy().tobytes()) for image in batch["image"]]
            seen = [f"{image_id} {value:08x}" for image_id, value in zip(seen, sums, strict=True)]
        with (self.folder / f"seen-{self.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([self.current_epoch, step, seen]) + "\n")
        return (batch["image"].mean() - self.weight) ** 2

    def configure_optimizers(self):
        # What the project's stages do: it makes the loader before the loops have their state back.
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--save-first", action="store_true")
    parser.add_argument("--balance", type=float, default=0.0)
    parser.add_argument("--augment", type=float, default=0.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = CXRDataModule(
        layout="table",
        root=given.root,
        size=8,
        batch_size=given.batch_size,
        num_workers=given.workers,
        cache_dir=str(given.out / "cache"),
        balance=given.balance,
        augment=given.augment,
    )
    checkpoint = ModelCheckpoint(given.out, save_last=True, every_n_train_steps=1, save_top_k=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=given.devices,
        strategy="ddp" if given.devices > 1 else "auto",
        max_epochs=2,
        limit_val_batches=0,
        logger=False,
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=given.out,
    )
    model = Recorder(given.out, die_at=given.die_at, save_first=given.save_first, pixels=given.augment > 0)
    last = given.out / "last.ckpt"
    trainer.fit(model, datamodule=data, ckpt_path=last if last.exists() else None)
