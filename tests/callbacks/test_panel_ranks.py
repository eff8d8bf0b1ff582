"""The codebook's callbacks together: two ranks write the figures and the atlas of one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.atlas import CodeAtlas
from callbacks.codes import CodeHealth
from callbacks.contrast import FindingContrast
from callbacks.metrics_file import MetricsFile
from callbacks.similarity import MultiScaleSimilarity
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import SIZE, Images, TinyCodebook, TinyData, trainer


class Marked(Images):
    """Findings 0 to 3 are where the labels say, in a corner each."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.masks = torch.zeros(n, len(FINDINGS), SIZE, SIZE, dtype=torch.bool)
        for finding in range(4):
            top, left = 9 * (finding // 2) + 1, 9 * (finding % 2) + 1
            self.masks[self.labels[:, finding] == 1, finding, top : top + 4, left : left + 4] = True

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"masks": self.masks[index]}


class MarkedData(TinyData):
    def images(self) -> Images:
        return Marked(self.n)


class OneColour(TinyCodebook):
    """Trains on black images on rank 0 and on white ones on the others."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        image = torch.full_like(batch["image"], 1.0 if self.global_rank else -1.0)
        return super().training_step({**batch, "image": image}, batch_idx)


class Written(Callback):
    """Keeps what was logged, as the processes of the ranks are gone afterwards."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "last.json").write_text(json.dumps(logged))


def callbacks() -> list:
    return [
        MultiScaleSimilarity(), CodeHealth(), FindingContrast(min_cases=2), CodeAtlas(images=41, codes=2, patches=4),
        MetricsFile(),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_two_ranks_equal_one(tmp_path: Path, padded: bool):
    """Ranks of 19 and 18 images, or one image twice by Lightning's padding sampler and a codebook without vectors."""

    def measure(folder: Path, **kwargs: object) -> tuple[dict, bytes]:
        t = trainer(folder, callbacks(), **kwargs)
        t.test(TinyCodebook(vectors=not padded), MarkedData(37), verbose=False)
        written = json.loads((folder / "metrics.json").read_text())
        return written, (folder / "pictures" / "atlas.png").read_bytes()

    one, atlas = measure(tmp_path / "one")
    two, same_atlas = measure(tmp_path / "two", devices=2, strategy="ddp_spawn", use_distributed_sampler=padded)
    stated, alone = two.pop("protocol"), one.pop("protocol")
    assert (stated["world_size"], stated["n"], stated["repeated"]) == (2, 37, int(padded))
    for name in ("codebook/ms_ssim", "codebook/bits", "codebook/cnr_retained"):
        ignored = {"repeated_left_out": None}
        assert stated["metrics"][name] | ignored == alone["metrics"][name] | ignored
    assert {"codebook/ms_ssim", "codebook/bits", "codebook/bits_nominal", "codebook/dead"} < set(one)
    assert sum(key.startswith("codebook/cnr_retained/") for key in one) == 4
    assert set(one) == set(two)
    for key, value in one.items():
        if key != "tiny/error":  # Lightning averages it over batches, whose sizes differ
            assert two[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
    assert same_atlas == atlas


@pytest.mark.slow
def test_dead_codes_are_those_that_no_rank_used(tmp_path: Path):
    """Rank 0 trains on black images, rank 1 on white ones: two of six codes are alive, though each rank has one."""
    t = trainer(tmp_path, [CodeHealth(), Written()], max_epochs=1, limit_val_batches=0, devices=2, strategy="ddp_spawn")
    t.fit(OneColour(), TinyData(8, batch_size=2))
    assert json.loads((tmp_path / "last.json").read_text()) == {"train/dead": 4.0, "train/restarted": 4.0}
