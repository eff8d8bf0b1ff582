"""A data module with both splits, a classifier that learns it in a hundred steps, and samples on disk."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from datamodules.manifest import Manifest, make_manifest
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import SIZE, Images, TinyData


class TrainingImages(Images):
    """Images of other patients; as 8-bit files would give them."""

    def __init__(self, n: int) -> None:
        super().__init__(n, seed=1)
        self.image = ((self.image + 1) * 127.5).round() / 127.5 - 1

    def __getitem__(self, index: int) -> dict:
        row = super().__getitem__(index)
        return row | {"image_id": f"train-{index}", "patient_id": f"of-training-{index // 2}"}


class Rows:
    """As CXRDataset: a batch of the rows that are asked for."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: list[int]) -> dict:
        return default_collate([self.images[row] for row in chosen])


class SplitData(TinyData):
    """`n` test and `train` training images."""

    def __init__(self, n: int = 60, *, train: int = 120) -> None:
        super().__init__(n)
        self.train = train

    @property
    def manifest(self) -> Manifest:
        rows = [
            {"image": f"{split}{i}.png", "image_id": f"{name}-{i}", "patient_id": f"{split}-{i // 2}", "split": split}
            for split, name, n in (("test", "image", self.n), ("train", "train", self.train))
            for i in range(n)
        ]
        return make_manifest(rows, source="tiny")

    def split_dataset(self, split: str) -> Rows:
        return Rows({"train": TrainingImages(self.train), "test": self.images()}[split])


class RowReader(nn.Module):
    """Reads the mean brightness of each row, which is where the findings are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE, len(FINDINGS))

    def forward(self, image: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.linear(10 * image[:, 0].mean(-1)))


def write_samples(folder: Path, images: Tensor, labels: Tensor, *, sources: list[str]) -> Path:
    """samples.csv and its pictures, as a generator's `predict` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, source in enumerate(sources):
        pixels = ((images[i, 0] + 1) * 127.5).round().to(torch.uint8).numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{source}.png")
        row = {"image": f"{source}.png", "report": "Text.", "view": "PA", "patient": f"synthetic-{source}", "seed": i}
        rows.append(row | {"source_image_id": source} | dict(zip(FINDINGS, labels[i].tolist(), strict=True)))
    pd.DataFrame(rows).to_csv(folder / "samples.csv", index=False)
    return folder / "samples.csv"


def copies(folder: Path, *, train: int = 120) -> Path:
    """Samples that are the training images themselves."""
    data = TrainingImages(train)
    return write_samples(folder, data.image, data.labels, sources=[f"train-{i}" for i in range(train)])
