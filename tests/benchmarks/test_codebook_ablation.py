"""The ablation's runs at the smallest size: what is changed reaches the model, and a finished run is not repeated."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.benchmarks import codebook_ablation, record
from tests.chain import COMMON, ROOT, SMALL, Chain


def judged_by(chain: Chain, folder: Path) -> Path:
    """A config with the shipped callbacks, whose judge is the chain's."""
    callbacks = yaml.safe_load((ROOT / "configs/codebook.yaml").read_text())["trainer"]["callbacks+"]
    for callback in callbacks:
        if "extractor" in callback.get("init_args", {}):
            callback["init_args"]["extractor"]["init_args"]["ckpt"] = str(chain.path("classifier"))
    path = folder / "callbacks.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "MetricsFile"}, *callbacks]}}))
    return path


def test_each_variant_is_trained_tested_and_kept(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path / "benchmarks")
    common = [a for a in (*COMMON, *SMALL["codebook"], *chain.inputs("codebook")) if "trainer.callbacks" not in a]
    common += ["-c", str(judged_by(chain, tmp_path))]
    variants = ["FSQ"]
    figures = codebook_ablation.measure(tmp_path / "runs", seeds=2, epochs=1, variants=variants, common=common)
    for name in variants:
        first, second = figures["variants"][name]["runs"]
        assert first["psnr"] != second["psnr"]
        assert figures["variants"][name]["mean"]["psnr"] == pytest.approx((first["psnr"] + second["psnr"]) / 2)
        assert [first["protocol"]["seed"], second["protocol"]["seed"]] == [0, 1]
        assert first["protocol"]["data_digest"] == second["protocol"]["data_digest"]
        assert 0 < first["usage"] <= 1
    saved = torch.load(tmp_path / "runs/fsq-0/checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["network"]["quantizer"] == "fsq"
    assert (tmp_path / "benchmarks/codebook_ablation.json").is_file()

    def never(arguments: list[str]) -> None:
        raise AssertionError(f"run again: {arguments}")

    monkeypatch.setattr(codebook_ablation, "command_line", never)
    again = codebook_ablation.measure(tmp_path / "runs", seeds=2, epochs=1, variants=variants, common=common)
    assert again == figures
