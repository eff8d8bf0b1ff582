"""What FidelityMetrics adds to its extractor's forward passes: `python -m tests.benchmarks.callback_cost`.

In a test of 320 images of 256 pixels with Inception at its real size (random weights; 299 pixels, 2,048 features), the
seconds in all hooks of the callback, floor and blurred images included, over those of the bare extractor on the images
that were made. The features of the real images are kept from an earlier test, as they are from the second test on.
Beside it, of 5,000 images: the figures at the end alone, from 5,000 random features, over as many forward passes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from callbacks.fidelity import FidelityMetrics
from callbacks.metrics.bank import RowBank
from callbacks.metrics.fidelity import FidelityOptions, fidelity
from callbacks.protocols import FeatureExtractor, as_feature_extractor
from datamodules.reports.labels import FINDINGS
from lightning_modules.feature_extractors import FrozenInception
from tests.benchmarks.record import in_tuned_process, write
from tests.lightning_modules.random_inception import write_random_inception

BATCH = 32
MANY = 5000


def textures(n: int, *, size: int, seed: int) -> Tensor:
    """Float32 [n,1,size,size] in [-1,1]: noise of several scales, another in each image."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(n, 1, size, size)
    for scale in (4, 16, 64):
        noise = torch.randn(n, 1, size // scale, size // scale, generator=generator)
        image += F.interpolate(noise, size=(size, size), mode="bilinear") / 3
    return image.clamp_(-1, 1)


class Pictures(Dataset):
    """Rows of a set of images, of two a patient."""

    def __init__(self, images: Tensor) -> None:
        self.image = images

    def __len__(self) -> int:
        return len(self.image)

    def __getitems__(self, chosen: list[int]) -> dict[str, Any]:
        return self[chosen]

    def __getitem__(self, chosen: list[int]) -> dict[str, Any]:
        return {
            "image": self.image[chosen],
            "made": self.image[chosen].roll(3, dims=-1),
            "image_id": [f"image-{row}" for row in chosen],
            "patient_id": [f"patient-{row // 2}" for row in chosen],
            "labels": torch.zeros(len(chosen), len(FINDINGS)),
            "view": torch.zeros(len(chosen), dtype=torch.long),
        }


class Data(pl.LightningDataModule):
    """Test and reference images, and a folder for what is kept of them."""

    def __init__(self, folder: Path, *, n: int, size: int) -> None:
        super().__init__()
        self.cache_dir = folder
        self.real, self.reference = (Pictures(textures(n, size=size, seed=seed)) for seed in (0, 1))

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.real, batch_size=BATCH, collate_fn=lambda batch: batch)

    def reference_dataset(self, n: int, *, seed: int) -> Pictures:
        return self.reference


class Stage(pl.LightningModule):
    """Its images are there already."""

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"synthetic": batch["made"]}


class Timed(FidelityMetrics):
    """Adds up the seconds in its hooks; `clock` reads them."""

    seconds = 0.0
    clock: Callable[[], float] = staticmethod(time.process_time)

    def on_test_epoch_start(self, *arguments: Any) -> None:
        self._timed(super().on_test_epoch_start, *arguments)

    def on_test_batch_end(self, *arguments: Any) -> None:
        self._timed(super().on_test_batch_end, *arguments)

    def on_test_epoch_end(self, *arguments: Any) -> None:
        self._timed(super().on_test_epoch_end, *arguments)

    def _timed(self, hook: Callable[..., None], *arguments: Any) -> None:
        began = self.clock()
        hook(*arguments)
        self.seconds += self.clock() - began


def run_test(extractor: nn.Module, data: Data) -> float:
    """CPU seconds in the callback's hooks over one test."""
    callback = Timed(extractor)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=data.cache_dir, callbacks=[callback],
    )  # fmt: skip
    trainer.test(Stage(), datamodule=data, verbose=False)
    assert set(callback.protocol()["generator/fid"]["figures"]) >= {"generator/fid_blur", "generator/fid_floor"}
    return callback.seconds


def bare(extractor: FeatureExtractor, data: Data) -> float:
    """CPU seconds of the extractor on the images that were made, in the test's batches."""
    made = data.real[list(range(len(data.real)))]["made"]
    began = time.process_time()
    with torch.inference_mode():
        for images in made.split(BATCH):
            extractor.features(images)
    return time.process_time() - began


def end_of(n: int, width: int) -> float:
    """CPU seconds of the figures of n images of `width` features."""
    sets = []
    for seed in range(4):
        bank = RowBank(width)
        rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
        bank.update(rows, [str(i) for i in range(n)], [str(i // 2) for i in range(n)])
        sets.append(bank.compute())
    began = time.process_time()
    fidelity(*sets[:2], {"blur": sets[2], "floor": sets[3]}, name="fid", options=FidelityOptions(), parts={})
    return time.process_time() - began


def measure(*, n: int = 320, size: int = 256, rounds: int = 3, many: int = MANY) -> dict[str, Any]:
    """Medians of alternating rounds on one thread, and their ratios."""
    arguments = ("--n", str(n), "--size", str(size), "--rounds", str(rounds), "--many", str(many))
    if (figures := in_tuned_process("callback_cost", *arguments)) is not None:
        return figures
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        extractor = as_feature_extractor(FrozenInception(str(write_random_inception(Path(folder) / "inception.pth"))))
        data = Data(Path(folder), n=n, size=size)
        first = run_test(extractor, data)  # type: ignore[arg-type]
        pairs = [(run_test(extractor, data), bare(extractor, data)) for _ in range(rounds)]  # type: ignore[arg-type]
    callback, forward = (statistics.median(side) for side in zip(*pairs, strict=True))
    end = end_of(many, extractor.num_features)
    return write(
        "callback_cost",
        {
            "extractor": extractor.name,
            "images": n,
            "size": size,
            "threads": 1,
            "rounds": rounds,
            "first_test_s": first,
            "callback_s": callback,
            "forward_s": forward,
            "ratio": statistics.median(one / other for one, other in pairs),
            "added_ms_an_image": 1000 * (callback - forward) / n,
            "end_images": many,
            "end_s": end,
            "end_ratio": end / (forward / n * many),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("n", 320), ("size", 256), ("rounds", 3), ("many", MANY)):
        parser.add_argument(f"--{option}", type=int, default=default)
    measure(**vars(parser.parse_args()))
