"""All callbacks that measure a test, and a stage and data that each of them can be run on.

NIQE needs 32 pixels a side: the images are those of tests/callbacks/chain.py in twice the size.
"""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from callbacks.alignment import ReportAlignment
from callbacks.diversity import SampleDiversity
from callbacks.downstream import DownstreamClassifier
from callbacks.fidelity import FidelityMetrics
from callbacks.metrics.training import Recipe
from callbacks.privacy import PrivacyGate
from callbacks.quality import NaturalQuality
from callbacks.utility import SyntheticUtility
from tests.callbacks.chain import Images, RandomProjection, TinyStage
from tests.callbacks.test_alignment import Brightness
from tests.callbacks.utility_case import RowReader, Rows, SplitData, TrainingImages, write_samples

TRAINING = 120


class Halved(RandomProjection):
    """The projection of images in half the size."""

    def features(self, image: Tensor) -> Tensor:
        return super().features(F.avg_pool2d(image, 2))

    def logits(self, image: Tensor) -> Tensor:
        return super().logits(F.avg_pool2d(image, 2))


class HalvedReader(RowReader):
    """Reads images in half the size."""

    def forward(self, image: Tensor) -> SimpleNamespace:
        return super().forward(F.avg_pool2d(image, 2))


def doubled(images: Images) -> Images:
    images.image = images.image.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    return images


def every_callback(folder: Path) -> list[Callback]:
    """One of each; the samples of the utility callback are written to `folder`."""
    data, samples = doubled(TrainingImages(TRAINING)), folder / "samples.csv"
    if not samples.is_file():
        write_samples(folder, data.image, data.labels, sources=[f"train-{i}" for i in range(TRAINING)])
    recipe = Recipe(steps=5, batch=16, lr=0.05, shift=0)
    return [
        FidelityMetrics(Halved()),
        DownstreamClassifier(Halved(), min_positives=1),
        ReportAlignment(Brightness()),
        SampleDiversity(prompts=8),
        NaturalQuality(patch=16, fit_images=100),
        PrivacyGate([Halved()], fail=False, false_alarms=0.2),
        SyntheticUtility(HalvedReader, str(samples), seeds=1, recipe=recipe),
    ]


class EverySplit(SplitData):
    """Training images in random order; validation images that are the test's."""

    def images(self) -> Images:
        return doubled(super().images())

    def train_dataloader(self) -> DataLoader:
        return DataLoader(doubled(TrainingImages(TRAINING)), batch_size=16, shuffle=True)

    def split_dataset(self, split: str) -> Rows:
        return Rows(doubled(TrainingImages(TRAINING)) if split == "train" else self.images())

    def reference_images(self, n: int, seed: int) -> Tensor:
        return doubled(Images(n, seed=1000 + seed)).image


class DoubledStage(TinyStage):
    """Does all that the callbacks ask of a module, with images of twice the size."""

    def decode_random(self, n: int, *, seed: int) -> Tensor:
        return super().decode_random(n, seed=seed).repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

    def sample_again(self, batch: dict[str, Any], *, seed: int) -> Tensor:
        return (self(batch["image"]) + 0.01 * seed).clamp(-1, 1)


class RandomStage(DoubledStage):
    """Draws from every generator of the process when it trains, and has buffers, and a metric that both loops use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Conv2d(4, 1, 1))
        self.brightness = MeanMetric()

    def forward(self, image: Tensor) -> Tensor:
        return (super().forward(image) + 0.1 * self.body(image)).clamp(-1, 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        return super().training_step(batch, batch_idx) * (1 + 0.1 * noise)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        self.brightness.update(batch["image"].mean() + self.scale, weight=len(batch["image"]))
        self.log("validate/brightness", self.brightness, batch_size=len(batch["image"]))
        return {}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        self.brightness.update(batch["image"].mean() - 1, weight=len(batch["image"]))
        self.log("tiny/brightness", self.brightness, batch_size=len(batch["image"]))
        torch.rand(3), random.random(), np.random.rand()  # a sampler that draws
        return super().test_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Losses(Callback):
    """Keeps the loss of every step, and the validation's figure of every epoch."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.validated: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(outputs["loss"].detach().clone())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated += [float(v) for key, v in trainer.callback_metrics.items() if key.startswith("validate/")]
