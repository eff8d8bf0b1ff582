"""TrainingEvaluation in real Trainers: the training is untouched, the figures are a test's, ranks agree."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torchmetrics import MeanMetric

from callbacks.borrowed import borrowed
from callbacks.fidelity import FidelityMetrics
from callbacks.metrics_file import MetricsFile
from callbacks.privacy import PrivacyAlarm, PrivacyGate
from callbacks.training_evaluation import TrainingEvaluation
from tests.callbacks.all_callbacks import DoubledStage, EverySplit, Halved, Losses, RandomStage, every_callback
from tests.callbacks.chain import TinyData, TinyStage, trainer


def fidelity() -> FidelityMetrics:
    return FidelityMetrics(Halved(), floor=False, controls=False)


def trained(folder: Path, callbacks: list[Callback], *, data: TinyData | None = None, **kwargs: Any) -> Trainer:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    t = trainer(folder, callbacks, **({"max_epochs": 2} | kwargs))
    t.fit(RandomStage(), data or EverySplit())
    return t


def sizes(value: Any) -> Any:
    """Keys all the way down, and the shapes of the tensors that they lead to."""
    if isinstance(value, dict):
        return {key: sizes(part) for key, part in value.items()}
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def test_a_training_with_all_callbacks_is_the_training_without_them_bit_for_bit(tmp_path: Path) -> None:
    def run(name: str, callbacks: list[Callback]) -> dict[str, Any]:
        losses = Losses()
        t = trained(tmp_path / name, [losses, *callbacks])
        states = (torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
        files = []
        for moment in ("fit", "test"):
            files.append(tmp_path / name / f"{moment}.ckpt")
            t.save_checkpoint(files[-1])
            if moment == "fit":
                t.test(t.lightning_module, EverySplit(), verbose=False)
        saved = [torch.load(file, weights_only=True) for file in files]
        length = [file.stat().st_size for file in files]
        return {"losses": losses, "states": states, "saved": saved, "length": length}

    driven = every_callback(tmp_path / "samples")
    schedule = TrainingEvaluation(every_n_epochs=1, samples=40)
    with_them, without = run("with", [*driven, schedule, MetricsFile()]), run("without", [])
    assert (tmp_path / "with" / "in_training" / "epoch-1" / "figures.json").is_file()
    assert len(without["losses"].steps) == 16
    assert torch.equal(torch.stack(with_them["losses"].steps), torch.stack(without["losses"].steps))
    assert with_them["losses"].validated == without["losses"].validated
    assert len(without["losses"].validated) == 2
    assert torch.equal(with_them["states"][0], without["states"][0])
    assert with_them["states"][1:] == without["states"][1:]
    assert with_them["length"] == without["length"]
    for one, other in zip(with_them["saved"], without["saved"], strict=True):
        assert sizes(one) == sizes(other)
        for key, weight in one["state_dict"].items():
            assert torch.equal(weight, other["state_dict"][key]), key
        moments = (state["optimizer_states"][0]["state"] for state in (one, other))
        for mine, theirs in zip(*(part.values() for part in moments), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in ("exp_avg", "exp_avg_sq"))


def test_the_figures_are_those_of_a_test_on_the_same_images_and_weights(tmp_path: Path) -> None:
    t = trained(tmp_path, [*every_callback(tmp_path / "samples"), TrainingEvaluation(every_n_epochs=2, batch_size=5)])
    found = {key: float(value) for key, value in t.callback_metrics.items() if key.startswith("in_training/")}
    t.test(t.lightning_module, EverySplit(), verbose=False)
    tested = {f"in_training/{key}": float(value) for key, value in t.callback_metrics.items()}
    assert set(found) == set(tested)
    prefixes = ("fid", "kid", "auroc_real", "alignment_share", "diversity_excess", "niqe", "privacy_flagged", "utility")
    assert all(any(name in key for key in found) for name in prefixes)
    for key, value in tested.items():
        if "tiny" in key:  # Lightning adds them up in float32
            assert found[key] == pytest.approx(value, rel=1e-5), key
        else:
            assert found[key] == value or (math.isnan(found[key]) and math.isnan(value)), key
    # What a test writes is not mixed with it.
    assert not (tmp_path / "in_training" / "epoch-0").exists()
    assert {p.name for p in (tmp_path / "in_training" / "epoch-1").iterdir()} >= {"figures.json", "privacy.json"}
    written = json.loads((tmp_path / "in_training" / "epoch-1" / "figures.json").read_text())
    protocol = written.pop("protocol")
    assert (protocol["n"], protocol["split"], protocol["epoch"], protocol["step"]) == (60, "validate", 1, 16)
    assert protocol["metrics"]["generator/fid"]["n"] == 60
    assert {key: value for key, value in written.items() if value is not None} == {
        key: pytest.approx(value, rel=1e-6) for key, value in found.items() if not math.isnan(value)
    }


class Watching(Callback):
    """Keeps the images of each evaluation, and at each epoch's end what is known of them."""

    def __init__(self) -> None:
        self.images: list[list[str]] = []
        self.known: list[bool] = []
        self.least = 99

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images.append([])

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, at: int
    ) -> None:
        self.images[-1] += batch["image_id"]
        self.least = min(self.least, len(batch["image_id"]))
        assert not pl_module.training

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.known.append("in_training/generator/fid" in trainer.callback_metrics)
        assert pl_module.training


def test_every_second_epoch_the_same_images_and_between_them_no_figures(tmp_path: Path) -> None:
    watching = Watching()
    evaluation = TrainingEvaluation(callbacks=[fidelity(), watching], every_n_epochs=2, samples=20, batch_size=6)
    key = "in_training/generator/fid"
    best = ModelCheckpoint(tmp_path / "best", monitor=key, every_n_epochs=2)
    stop = EarlyStopping(monitor=key, strict=False, patience=1, mode="max")
    kwargs = {"max_epochs": 7, "num_sanity_val_steps": 2, "enable_checkpointing": True}
    t = trained(tmp_path, [evaluation, watching, best, stop], **kwargs)
    scores = [
        json.loads((tmp_path / "in_training" / f"epoch-{epoch}" / "figures.json").read_text())[key]
        for epoch in range(t.current_epoch)
        if epoch % 2
    ]
    assert len(watching.images) == len(scores) >= 2
    assert watching.known == [bool(epoch % 2) for epoch in range(t.current_epoch)]
    assert float(best.best_model_score) == pytest.approx(min(scores))
    assert f"epoch={2 * scores.index(min(scores)) + 1}-" in best.best_model_path
    assert float(stop.best_score) == pytest.approx(max(scores))
    assert len(set(watching.images[0])) == len(watching.images[0]) == 20
    assert watching.images[0] == watching.images[1]
    assert watching.least == 5  # 20 images in four steps
    other = TrainingEvaluation(callbacks=[fidelity(), again := Watching()], every_n_epochs=1, samples=20, seed=1)
    trained(tmp_path, [other], max_epochs=1)
    assert again.images[0] != watching.images[0]


def test_what_cannot_be_evaluated_is_refused_before_the_training(tmp_path: Path) -> None:
    def fit(callback: TrainingEvaluation, data: TinyData | None = None) -> None:
        trainer(tmp_path, [callback], max_epochs=1).fit(TinyStage(), data or EverySplit())

    with pytest.raises(TypeError, match="validation images from CXRDataModule; found TinyData"):
        fit(TrainingEvaluation(callbacks=[fidelity()]), TinyData())
    for seldom in ({"check_val_every_n_epoch": 3}, {"val_check_interval": 0.5}):
        with pytest.raises(ValueError, match=r"every 2 epochs, but validation every [13], with val_check_interval"):
            trainer(
                tmp_path, [TrainingEvaluation(callbacks=[fidelity()], every_n_epochs=2)], max_epochs=1, **seldom
            ).fit(TinyStage(), EverySplit())
    with pytest.raises(ValueError, match="no callback measures a test"):
        fit(TrainingEvaluation())
    with pytest.raises(ValueError, match="1 validation images for 1 ranks"):
        fit(TrainingEvaluation(callbacks=[fidelity()]), EverySplit(1))
    with pytest.raises(ValueError, match="every_n_epochs 0, samples 256, batch_size 32; expected at least 1, 2 and 1"):
        TrainingEvaluation(every_n_epochs=0)
    with pytest.raises(ValueError, match="MetricsFile describes a test"):
        TrainingEvaluation(callbacks=[MetricsFile()])


def test_a_broken_image_and_a_copied_one_stop_the_training(tmp_path: Path) -> None:
    broken = EverySplit()
    broken.broken = 12
    evaluation = TrainingEvaluation(callbacks=[fidelity()], every_n_epochs=1)
    with pytest.raises(ValueError, match="real image image-12: 4 of 1024 values are not finite"):
        trainer(tmp_path, [evaluation], max_epochs=1).fit(TinyStage(), broken)

    class Copying(RandomStage):
        def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
            training = self.trainer.datamodule.split_dataset("train")[[3]]["image"]  # type: ignore[attr-defined]
            return {"synthetic": training.expand_as(batch["image"])}

    gate = TrainingEvaluation(callbacks=[PrivacyGate([Halved()], false_alarms=0.2)], every_n_epochs=1)
    with pytest.raises(PrivacyAlarm, match="60 of 60 images"):
        trainer(tmp_path / "gate", [gate], max_epochs=1).fit(Copying(), EverySplit())
    assert (tmp_path / "gate" / "in_training" / "epoch-0" / "privacy.csv").is_file()


def test_what_is_logged_is_reduced_as_lightning_does_it_and_all_is_given_back() -> None:
    stage = RandomStage()
    stage.brightness.update(5.0)
    before = torch.random.get_rng_state()
    with borrowed(stage, seed=4) as collector:
        first = torch.rand(2)
        stage.eval()
        collector.batch_size = 3
        stage.log("mean", torch.tensor(1.0))
        stage.log("mean", 5.0, batch_size=1)
        stage.log_dict({"sum": 2.0}, reduce_fx="sum")
        stage.log("sum", 3.0, reduce_fx=torch.sum)
        stage.log("least", 2.0, reduce_fx="min")
        stage.log("least", math.nan, reduce_fx="min")
        stage.log("most", 2.0, prog_bar=True, reduce_fx="max", sync_dist=True)
        stage.log("most", 7.0, prog_bar=True, reduce_fx="max", sync_dist=True)
        stage.brightness.update(2.0)
        stage.log("brightness", stage.brightness)
        stage.brightness.update(3.0)
        with pytest.raises(ValueError, match=r"x is logged with reduce_fx=.*expected mean, sum, min or max"):
            stage.log("x", 1.0, reduce_fx=torch.median)
        figures = collector.figures()
    assert math.isnan(figures.pop("least"))
    assert figures == {"mean": 2.0, "sum": 5.0, "most": 7.0, "brightness": 2.5}
    assert stage.training
    assert stage.body[1].training
    assert float(stage.brightness.compute()) == 5.0
    assert "log" not in vars(stage)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(torch.rand(2), first)


def test_lists_that_a_metric_holds_are_given_back() -> None:
    class Stage(TinyStage):
        def __init__(self) -> None:
            super().__init__()
            self.bank = MeanMetric()
            self.bank.add_state("seen", default=[], dist_reduce_fx="cat")

    stage = Stage()
    stage.bank.seen.append(torch.ones(1))
    with borrowed(stage, seed=0):
        assert stage.bank.seen == []
        stage.bank.seen.append(torch.zeros(1))
    assert [float(value) for value in stage.bank.seen] == [1.0]


class Same(EverySplit):
    def train_dataloader(self) -> Any:
        return self._loader(spread=False)


class Sure(DoubledStage):
    """Trains on what is the same on every rank."""

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ranks_agree(tmp_path: Path) -> None:
    """31 validation images on 1, 2 and 3 ranks; every rank trains on the same images, so weights are equal too."""

    def measure(ranks: int) -> tuple[dict[str, Any], Tensor]:
        folder = tmp_path / str(ranks)
        more = {"devices": ranks, "strategy": "ddp_spawn", "use_distributed_sampler": False} if ranks > 1 else {}
        torch.manual_seed(0)
        t = trainer(folder, [evaluation], max_epochs=1, **more)
        t.fit(stage := Sure(), Same(45))
        path = folder / "in_training" / "epoch-0" / "figures.json"
        return json.loads(path.read_text()), stage.scale.detach()

    evaluation = TrainingEvaluation(callbacks=every_callback(tmp_path / "samples"), every_n_epochs=1, samples=31)
    one, weight = measure(1)
    assert one["protocol"]["n"] == 31
    for ranks in (2, 3):
        many, same = measure(ranks)
        torch.testing.assert_close(same, weight, rtol=1e-6, atol=0)
        assert many["protocol"]["ids_digest"] == one["protocol"]["ids_digest"]
        assert set(many) == set(one)
        for key, value in one.items():
            if value is None or "auroc" in key:
                assert many[key] == value, key
            elif key != "protocol":
                rel = 1e-6 if "/fid" in key else 1e-5
                assert many[key] == pytest.approx(value, rel=rel, abs=1e-7), key
