"""The configs of 1,024 codes as `make codebook-phantom` and `make codebook-nih` run them, on few images."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.health import HealthAlarm
from datamodules.phantom import disk
from main import main
from tests.chain import ROOT, Chain

CONFIGS = {
    "demo": ("base.yaml", "codebook.yaml", "experiment/codebook-1024.yaml"),
    "nih": ("base.yaml", "codebook.yaml", "experiment/nih/codebook.yaml", "experiment/nih/codebook-1024.yaml"),
}
PANEL = "experiment/codebook-panel.yaml"
ALARM = 3  # its place in the list


def trainer(file: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs" / file).read_text())["trainer"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_callbacks_are_the_shipped_ones_with_an_alarm_in_proportion(name: str) -> None:
    """A list cannot be changed in part, so it stands there twice: this keeps both equal."""
    *before, last = CONFIGS[name]
    shipped: list[dict[str, Any]] = []
    for file in before:
        shipped = trainer(file).get("callbacks", shipped) + trainer(file).get("callbacks+", [])
    expected = copy.deepcopy(shipped)
    assert expected[ALARM]["class_path"] == "HealthAlarm"
    expected[ALARM]["init_args"]["min_perplexity"] *= 1024 / 512
    assert trainer(last)["callbacks"] == expected


@pytest.mark.filterwarnings("ignore:.*which it resizes")
@pytest.mark.parametrize("name", CONFIGS)
def test_they_train_and_are_tested_with_the_panel(
    name: str, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for role in ("classifier", "features"):  # where the configs expect them
        path = tmp_path / "runs" / name / role / "checkpoints/last.ckpt"
        path.parent.mkdir(parents=True)
        shutil.copy(chain.path("classifier"), path)
    few = ["--data.init_args.batch_size=8", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=2"]
    if name == "nih":
        disk.write("nih", tmp_path / "nih", studies=60, seed=1, size=128)
        monkeypatch.setenv("CXR_ROOT", str(tmp_path / "nih"))
    else:
        few.append("--data.init_args.layout_options.studies=60")
    files = [part for file in CONFIGS[name] for part in ("-c", str(ROOT / "configs" / file))]
    logger = json.dumps({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "."}})
    common = [*few, f"--trainer.logger={logger}", "--trainer.max_epochs=1"]

    cli = main(["fit", *files, *common])
    run = Path(cli.trainer.default_root_dir)
    assert run.parts[:2] == ("runs", "codebook-1024")
    config = cli.model.network.config
    assert (config.factor, config.codes) == (8, 1024)
    assert cli.datamodule.size == config.resolution == {"demo": 64, "nih": 128}[name]
    assert cli.datamodule.manifest.source == {"demo": "phantom", "nih": "nih"}[name]
    alarm = next(c for c in cli.trainer.callbacks if isinstance(c, HealthAlarm))
    assert (alarm.min_usage, alarm.min_perplexity) == (0.3, 64)
    assert 0 <= float(cli.trainer.callback_metrics["train/dead"]) < 1024

    main(["test", *files, "-c", str(ROOT / "configs" / PANEL), *common, f"--ckpt_path={run / 'checkpoints/last.ckpt'}"])
    written = json.loads((run / "metrics.json").read_text())
    cells = {"demo": 64, "nih": 256}[name]
    assert written["codebook/bits_nominal"] == cells * 10
    assert written["codebook/rfid"] > 0
    assert 0 < written["codebook/ms_ssim"] < 1
    assert "codebook/cnr_retained" in written
    assert (run / "pictures/atlas.png").is_file()
    if name == "demo":
        check_fresh_phantoms(files, common, checkpoint=run / "checkpoints/last.ckpt")


def check_fresh_phantoms(files: list[str], common: list[str], *, checkpoint: Path) -> None:
    arguments = [a for a in common if "layout_options" not in a]
    fresh = str(ROOT / "configs/experiment/codebook-fresh.yaml")
    cli = main(
        [
            "test",
            *files,
            "-c",
            fresh,
            *arguments,
            "--data.init_args.layout_options.studies=40",
            f"--ckpt_path={checkpoint}",
        ]
    )
    ids = cli.datamodule.manifest.frame["image_id"]
    assert [image_id.split("-")[1] for image_id in ids] == ["2"] * 40
    written = json.loads(Path("runs/codebook-1024/phantom-fresh/metrics.json").read_text())
    assert written["protocol"]["n"] == 40
    assert written["codebook/rfid"] > 0
    assert written["codebook/auroc_retained_low"] <= written["codebook/auroc_retained_high"]
