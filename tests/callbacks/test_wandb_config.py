"""WandbConfigCallback through a real LightningCLI, with and without an offline W&B run."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from callbacks.wandb_config import WandbConfigCallback
from tests.callbacks.chain import TinyData, TinyStage


def run(folder: Path, subcommand: str, *args: str, **trainer: Any) -> LightningCLI:
    return LightningCLI(
        TinyStage,
        TinyData,
        save_config_callback=WandbConfigCallback,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=5,
        trainer_defaults={
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": folder,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "max_epochs": 1,
            **trainer,
        },
        args=[subcommand, *args],
    )


def test_config_is_in_the_run_folder_and_a_test_leaves_that_of_the_fit(tmp_path: Path):
    run(tmp_path, "fit", "--data.n=10", logger=False)
    run(tmp_path, "fit", "--data.n=12", logger=False)  # a requeued job finds its own file
    run(tmp_path, "test", "--data.n=14", logger=False)
    fit, test = (yaml.safe_load((tmp_path / f"config{part}.yaml").read_text()) for part in ("", "-test"))
    assert (fit["data"]["n"], test["data"]["n"]) == (12, 14)
    assert fit["seed_everything"] == 5
    assert fit["data"]["reference"] is None  # values that are None are part of a full config
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_an_offline_run_gets_the_full_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"save_dir": str(tmp_path), "offline": True, "project": "tiny"},
    }
    cli = run(tmp_path, "fit", "--data.n=10", logger=logger)
    config = dict(cli.trainer.logger.experiment.config)  # type: ignore[union-attr]
    cli.trainer.logger.experiment.finish()  # type: ignore[union-attr]
    assert config["data"]["n"] == 10
    assert config["trainer"]["max_epochs"] == 1
    assert config["seed_everything"] == 5
