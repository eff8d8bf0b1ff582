"""A tiny stage, datamodule and extractor, on which the callbacks' tests run real Trainers."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.manifest import Manifest, make_manifest
from datamodules.reports.labels import FINDINGS, VIEWS
from lightning_modules.networks.quantizer import CodeUsage

SIZE = 16


class RandomProjection(nn.Module):
    """Extractor of fixed random projections; the logit of finding f is the mean brightness of a band of rows."""

    def __init__(self, *, num_features: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(SIZE * SIZE, num_features, generator=generator) / SIZE)
        self.name = "random projection"
        self.num_features = num_features
        self.digest = hashlib.sha256(self.weight.detach().numpy().tobytes()).hexdigest()

    def features(self, image: Tensor) -> Tensor:
        return torch.tanh(image.flatten(1) @ self.weight)

    def logits(self, image: Tensor) -> Tensor:
        return image[:, 0, : len(FINDINGS)].mean(-1)


class Images(Dataset):
    """`n` images; finding f brightens row f, and is unknown in every seventh image. Two images a patient."""

    def __init__(self, n: int, *, seed: int = 0, broken: int | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = (torch.rand(n, len(FINDINGS), generator=generator) < 0.4).float()
        self.image = torch.randn(n, 1, SIZE, SIZE, generator=generator) * 0.3
        self.image[:, 0, : len(FINDINGS)] += 0.15 * self.labels[:, :, None]
        self.image.clamp_(-1, 1)
        self.labels[::7] = torch.nan
        self.labels[:, 11] = 0.0  # "Pleural Other" has no positive
        if broken is not None:
            self.image[broken, 0, 2, 3] = torch.nan

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.image[index],
            "labels": self.labels[index],
            "report": f"Report {index}. No pneumothorax. The heart is of normal size, the lungs are clear.",
            "view": torch.tensor(VIEWS.index("PA")),
            "study_id": f"study-{index}",
            "image_id": f"image-{index}",
            "patient_id": f"patient-{index // 2}",
        }


class UnpaddedSampler(Sampler[int]):
    """Rank r takes r, r + world, ...; ranks may differ by one."""

    def __init__(self, n: int, *, rank: int, world: int) -> None:
        self.indices = range(rank, n, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class Pictures:
    """As CXRDataset: images that are read when they are asked for; counts the largest batch of them."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.largest = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: Sequence[int]) -> dict[str, Any]:
        self.largest = max(self.largest, len(chosen))
        return {"image": self.images[list(chosen)], "image_id": [f"training-{i}" for i in chosen]}


class TinyData(pl.LightningDataModule):
    def __init__(
        self, n: int = 37, *, batch_size: int = 5, reference: int | None = None, broken: int | None = None
    ) -> None:
        super().__init__()
        self.n, self.batch_size, self.reference, self.broken = n, batch_size, reference, broken
        self.broken_reference: int | None = None
        self.given: list[Pictures] = []  # of each time that it was asked for reference images

    @property
    def manifest(self) -> Manifest:
        rows = [
            {"image": f"{i}.png", "image_id": f"image-{i}", "patient_id": f"patient-{i // 2}", "split": "test"}
            for i in range(self.n)
        ]
        return make_manifest(rows, source="tiny")

    def images(self) -> Images:
        return Images(self.n, broken=self.broken)

    def _loader(self, *, spread: bool) -> DataLoader:
        data = self.images()
        sampler = None
        if spread and self.trainer is not None and self.trainer.world_size > 1:
            sampler = UnpaddedSampler(self.n, rank=self.trainer.global_rank, world=self.trainer.world_size)
        return DataLoader(data, batch_size=self.batch_size, sampler=sampler)

    def train_dataloader(self) -> DataLoader:
        return self._loader(spread=False)

    def val_dataloader(self) -> DataLoader:
        return self._loader(spread=False)

    def test_dataloader(self) -> DataLoader:
        return self._loader(spread=not self.trainer._accelerator_connector.use_distributed_sampler)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

    def reference_dataset(self, n: int, *, seed: int) -> "Pictures":
        images = self.reference_images(n if self.reference is None else self.reference, seed)
        if self.broken_reference is not None:
            images[self.broken_reference, 0, 1, 2] = torch.nan
        self.given.append(Pictures(images))
        return self.given[-1]

    def reference_images(self, n: int, seed: int) -> Tensor:
        return Images(n, seed=1000 + seed).image


class TinyStage(pl.LightningModule):
    """Returns smoothed images as `synthetic` and `reconstruction`; samples in validation on even epochs only."""

    def __init__(self, *, bad_output: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.9))
        self.bad_output = bad_output

    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, 3, stride=1, padding=1) * self.scale

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = (self(batch["image"]) - batch["image"]).square().mean()
        self.log("tiny/loss", loss, on_epoch=True, on_step=False, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"synthetic": self(batch["image"])} if self.current_epoch % 2 == 0 else {}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        made = self(batch["image"])
        if self.bad_output and "image-6" in batch["image_id"]:
            made[batch["image_id"].index("image-6"), 0, 0, 0] = torch.inf
        self.log("tiny/error", (made - batch["image"]).abs().mean(), batch_size=len(made), sync_dist=True)
        return {"synthetic": made, "reconstruction": made}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self(batch["image"])

    def decode_random(self, n: int, *, seed: int) -> Tensor:
        return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TinyQuantizer(nn.Module):
    """Six codes at equal steps from -1 to 1."""

    codes, cosine = 6, False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("restarted", torch.tensor(0), persistent=False)

    def lookup(self, codes: Tensor) -> Tensor:
        return (codes.float() / 2.5 - 1)[:, None]

    def encode(self, latent: Tensor) -> Tensor:
        return ((latent[:, 0] + 1) * 2.5).round().long()


class TinyScalarQuantizer(nn.Module):
    """The same codes of latents, whose vectors are of a space of their own, as those of FSQ are."""

    codes = 6

    def lookup(self, codes: Tensor) -> Tensor:
        return (100.0 + codes.float())[:, None].expand(-1, 3, -1, -1)

    encode = TinyQuantizer.encode


class TinyNetwork(nn.Module):
    """A code for each 4 × 4 pixels: their mean grey level."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(grid=4)
        self.quantizer = TinyQuantizer()

    def latent(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, 4)


class TinyCodebook(TinyStage):
    """A stage with codes; each training step "restarts" two of them."""

    def __init__(self, *, returns_codes: bool = False, vectors: bool = True) -> None:
        super().__init__()
        self.network = TinyNetwork()
        if not vectors:
            self.network.quantizer = TinyScalarQuantizer()
        self.train_codes = CodeUsage(6)
        self.returns_codes = returns_codes

    def encode(self, image: Tensor) -> Tensor:
        return self.network.quantizer.encode(self.network.latent(image))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.train_codes.update(self.encode(batch["image"]))
        self.network.quantizer.restarted += 2
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.train_codes.reset()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        codes = {"codes": self.encode(batch["image"])} if self.returns_codes else {}
        return super().test_step(batch, batch_idx) | codes


def trainer(folder: Path, callbacks: list[pl.Callback], **kwargs: Any) -> pl.Trainer:
    """A quiet CPU Trainer that leaves only what the callbacks write."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(callbacks=callbacks, **(defaults | kwargs))
