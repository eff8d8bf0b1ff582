"""Stages across processes: two gloo ranks against one, resuming, testing after the former stages are gone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from main import main
from tests.chain import ROOT, SMALL, Chain
from tests.processes import run_python

STAGES = tuple(SMALL)
TWO_RANKS = (
    "--trainer.devices=2",
    "--trainer.strategy=ddp",
    "--data.init_args.batch_size=8",
)
EXACT = ("--trainer.precision=32-true",)
# Adam divides by the gradient's size, which turns rounding noise of tiny gradients into whole steps; SGD does not.
SGD = ("--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.lr=0.05")
# Dropout draws from each process's own generator, so a comparison of ranks needs it off.
NO_DROPOUT = {
    "classifier": ("--model.init_args.network.dropout=0",),
    "prompter": ("--model.init_args.network.dropout=0",),
    "aligner": ("--model.init_args.network.dropout=0",),
    "generator": ("--model.init_args.network.dropout=0",),
}
# The shipped config of the classifier's test has no masks, and so no pointing game.
MASKS = {"classifier": ("--data.init_args.masks=true",)}


class StopAfterFirstEpoch(Callback):
    """Ends the run as an interruption between two epochs does."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def process(arguments: list[str]) -> None:
    """Run main.py as a process of its own, as a user does; several ranks need that."""
    result = run_python(["main.py", *arguments], timeout=240)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]


def without(arguments: list[str], *names: str) -> list[str]:
    return [a for a in arguments if not any(a.startswith(f"--{name}") for name in names)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return {k: v.float() for k, v in checkpoint["state_dict"].items() if torch.is_tensor(v)}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_the_same_weights_as_one(chain: Chain, stage: str, tmp_path: Path) -> None:
    """Half the batch on each rank is the whole batch on one, to 1e-4 of a weight (sums in another order)."""
    for name, extra in (("one", ()), ("two", TWO_RANKS)):
        arguments = chain.arguments(
            "fit", stage, *EXACT, *NO_DROPOUT.get(stage, ()), *SGD, "--trainer.limit_train_batches=3"
        )
        if extra:
            arguments = without(arguments, "data.init_args.batch_size")
        process([*arguments, *extra, f"--run_dir={tmp_path / name}"])
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=1e-4, rtol=1e-4), (key, (value - two[key]).abs().max())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_measure_what_one_measures(chain: Chain, stage: str, tmp_path: Path) -> None:
    """All test metrics of one checkpoint agree to 1e-4, although the test split does not divide by the ranks."""
    found = []
    for name, extra in (("one", ()), ("two", TWO_RANKS)):
        arguments = without(chain.arguments("test", stage, *EXACT, *MASKS.get(stage, ())), "trainer.callbacks")
        if extra:
            arguments = without(arguments, "data.init_args.batch_size")
        callbacks = tmp_path / "callbacks.yaml"
        callbacks.write_text(evaluation(stage, chain))
        configs = max(i for i, a in enumerate(arguments) if a == "-c") + 2
        arguments = [*arguments[:configs], "-c", str(callbacks), *arguments[configs:]]
        process([*arguments, *extra, f"--run_dir={tmp_path / name}"])
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert metrics.pop("protocol")["world_size"] == (2 if extra else 1)
        found.append(metrics)
    one, two = found
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == (None if value is None else pytest.approx(value, abs=1e-4, rel=1e-4)), key


def evaluation(stage: str, chain: Chain) -> str:
    """A config with the evaluation callbacks of a stage, its classifier taken from the chain."""
    config = yaml.safe_load((ROOT / f"configs/{stage}.yaml").read_text())
    callbacks = [{"class_path": "MetricsFile"}, *config["trainer"].get("callbacks+", [])]
    for callback in callbacks:
        if "extractor" in callback.get("init_args", {}):
            callback["init_args"]["extractor"]["init_args"]["ckpt"] = str(chain.path("classifier"))
    return yaml.safe_dump({"trainer": {"callbacks": callbacks}})


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_goes_on_to_the_same_weights(chain: Chain, stage: str, tmp_path: Path) -> None:
    """Two epochs at once, and one epoch, then `--ckpt_path=last` for the second."""
    fixed = [*without(chain.arguments("fit", stage, *EXACT, *NO_DROPOUT.get(stage, ())), "trainer.max_epochs")]
    fixed = [*fixed, "--trainer.limit_train_batches=2", "--trainer.max_epochs=2"]
    main([*fixed, f"--run_dir={tmp_path / 'whole'}"])
    # Stopped after the first epoch of two, as a kill between epochs would: the schedule is that of two epochs.
    half = tmp_path / "half"
    stopper = "--trainer.callbacks=tests.test_pipeline.StopAfterFirstEpoch"
    main([*without(fixed, "trainer.callbacks"), stopper, f"--run_dir={half}"])
    before = weights(half)
    resumed = main([*fixed, f"--run_dir={half}", "--ckpt_path=last"])
    assert resumed.trainer.current_epoch == 2
    whole, after = weights(tmp_path / "whole"), weights(half)
    assert any(not torch.equal(before[key], after[key]) for key in after)
    for key, value in whole.items():
        assert torch.allclose(value, after[key], atol=1e-5), (key, (value - after[key]).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "removed"),
    [
        ("codebook", ["classifier"]),
        ("aligner", ["codebook/checkpoints"]),
        ("generator", ["codebook/checkpoints", "aligner/checkpoints", "aligner/key_patches.safetensors", "classifier"]),
    ],
)
def test_a_stage_is_tested_after_the_former_ones_are_gone(
    chain: Chain, stage: str, removed: list[str], tmp_path: Path
) -> None:
    expected = chain.run("test", stage)
    moved = Chain(tmp_path / "moved")
    shutil.copytree(chain.folder, moved.folder)
    for name in removed:
        path = moved.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = moved.run("test", stage)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-5, nan_ok=True), key
