"""CodeHealth in real Trainers: epochs of training, bits of the test split, ranks."""

import math
from pathlib import Path

import pytest
import torch

from callbacks.codes import CodeHealth
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
