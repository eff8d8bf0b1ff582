"""CodeHealth in real Trainers: epochs of training, bits of the test split, ranks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from callbacks.codes import CodeHealth
from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks.vqgan import VQGANConfig
from tests.callbacks.chain import Images, TinyCodebook, TinyData, TinyStage, trainer


def test_dead_and_restarted_codes_are_those_of_the_epoch(tmp_path: Path):
    t = trainer(tmp_path, [CodeHealth()], max_epochs=3, limit_val_batches=0)
    stage = TinyCodebook()
    t.fit(stage, TinyData(10, batch_size=5))
    used = torch.unique(stage.encode(Images(10).image))
    assert 0 < len(used) < 6
    assert t.callback_metrics["train/dead"] == 6 - len(used)
    # Two steps an epoch with two restarts each, and not the twelve of all three epochs.
    assert t.callback_metrics["train/restarted"] == 4
    assert int(stage.network.quantizer.restarted) == 12


def test_a_quantiser_that_counts_no_restarts_logs_none(tmp_path: Path):
    class Plain(TinyCodebook):
        def __init__(self) -> None:
            super().__init__()
            del self.network.quantizer.restarted

        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            self.train_codes.update(self.encode(batch["image"]))
            return TinyStage.training_step(self, batch, batch_idx)

    t = trainer(tmp_path, [CodeHealth()], max_epochs=1, limit_val_batches=0)
    t.fit(Plain(), TinyData(10))
    assert "train/dead" in t.callback_metrics
    assert "train/restarted" not in t.callback_metrics


class Watch(Callback):
    """Counts the codes that each training batch leaves unused, and keeps what an epoch logged."""

    def __init__(self) -> None:
        self.unused: list[int] = []
        self.logged: list[dict[str, float]] = []

    def setup(self, trainer: Any, pl_module: ImageCodebook, stage: str) -> None:
        quantizer = pl_module.network.quantizer
        quantizer.register_forward_hook(
            lambda _, given, made: self.unused.append(quantizer.codes - len(torch.unique(made.codes)))
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: ImageCodebook) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_a_real_codebooks_restarts_are_logged_an_epoch(tmp_path: Path):
    """With decay 0 each code that a batch does not use is restarted: their numbers are counted from the outside."""
    torch.manual_seed(0)
    config = VQGANConfig(resolution=16, channels=(8, 16), code_dim=8, codes=16, decay=0.0, restart_below=0.01)
    module, watch = ImageCodebook(config, discriminator_width=8), Watch()
    module.network.quantizer.initialised.fill_(True)  # codes at random, which few latents are near to
    loader = DataLoader(Images(8), batch_size=4)
    trainer(tmp_path, [CodeHealth(), watch], max_epochs=3).fit(module, loader, loader)
    expected = [watch.unused[2 * epoch] + watch.unused[2 * epoch + 1] for epoch in range(3)]
    assert expected[0] > 0
    assert [logged["train/restarted"] for logged in watch.logged] == expected


@pytest.mark.parametrize("quantizer", ["fsq", "lfq"])
def test_quantisers_that_learn_no_codebook_log_no_restarts(tmp_path: Path, quantizer: Any):
    levels = (4, 4) if quantizer == "fsq" else ()
    config = VQGANConfig(resolution=16, channels=(8, 16), code_dim=8, codes=16, quantizer=quantizer, levels=levels)
    t = trainer(tmp_path, [CodeHealth()], max_epochs=1, limit_val_batches=0)
    loader = DataLoader(Images(8), batch_size=4)
    t.fit(ImageCodebook(config, discriminator_width=8), loader, loader)
    assert "train/dead" in t.callback_metrics
    assert "train/restarted" not in t.callback_metrics


@pytest.mark.parametrize("returns_codes", [False, True])
def test_bits_are_those_of_the_whole_split(tmp_path: Path, returns_codes: bool):
    callback = CodeHealth(prefix="tiny")
    t = trainer(tmp_path, [callback])
    stage = TinyCodebook(returns_codes=returns_codes)
    t.test(stage, TinyData(37), verbose=False)
    shares = torch.bincount(stage.encode(Images(37).image).flatten(), minlength=6) / (37 * 16)
    entropy = -sum(p * math.log2(p) for p in shares.tolist() if p)
    assert float(t.callback_metrics["tiny/bits"]) == pytest.approx(16 * entropy, rel=1e-6)
    assert float(t.callback_metrics["tiny/bits_nominal"]) == pytest.approx(16 * math.log2(6), rel=1e-6)
    assert t.callback_metrics["tiny/dead"] == int((shares == 0).sum())
    stated = callback.protocol()["tiny/bits"]
    assert (stated["n"], stated["codes"], stated["cells"]) == (37, 6, 16)


def test_a_module_without_codes_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="TinyStage has no codebook whose codes could be counted"):
        trainer(tmp_path, [CodeHealth()]).test(TinyStage(), TinyData(4), verbose=False)
