"""The aligner's ablation at the smallest size: what is changed reaches the losses, and a finished run stays."""

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.networks.alignment_losses import LossWeights
from tests.benchmarks import aligner_ablation, record
from tests.chain import COMMON, SMALL, Chain

CHANGED = ["full", "global only", "adaptive patches"]


def test_each_variant_is_trained_tested_and_kept(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path / "benchmarks")
    more = [a for a in (*COMMON, *SMALL["aligner"], *chain.inputs("aligner")) if "--trainer" not in a]
    more = [a for a in more if "tokens" not in a]
    given = {"folder": tmp_path / "runs", "epochs": 1, "seeds": 1, "variants": CHANGED, "more": more}
    trained, weights = aligner_ablation.trained, []

    def watched(wished: dict, folder: Path) -> dict:
        weights.append((wished["changes"], folder.name))
        return trained(wished, folder)

    monkeypatch.setattr(aligner_ablation, "trained", watched)
    figures = aligner_ablation.measure(**given)
    assert [name for _, name in weights] == ["full-0", "global-only-0", "adaptive-patches-0"]
    printed = capsys.readouterr().out
    for name in CHANGED:
        (one,) = figures["variants"][name]["runs"]
        assert one.keys() >= {"recall_at_10", "zero_shot_auroc", "status_flipped", "cpu_seconds", "steps"}
        assert figures["variants"][name]["mean"]["recall_at_10"] == one["recall_at_10"]
        assert any(line.startswith(name) and f"{one['zero_shot_auroc']:.4g}" in line for line in printed.splitlines())
    saved = {
        name: torch.load(tmp_path / f"runs/{name}-0/checkpoints/last.ckpt", weights_only=True)
        for name in ("full", "global-only", "adaptive-patches")
    }
    assert "network.image.adaptive.box.weight" in saved["adaptive-patches"]["state_dict"]
    assert "network.image.adaptive.box.weight" not in saved["full"]["state_dict"]
    assert json.loads((tmp_path / "benchmarks/aligner_ablation.json").read_text())["variants"] == figures["variants"]

    weights.clear()
    (tmp_path / "runs/global-only-0/result.json").unlink()
    again = aligner_ablation.measure(**given)
    assert [name for _, name in weights] == ["global-only-0"]
    assert again["variants"]["full"] == figures["variants"]["full"]


def test_the_global_term_alone_trains_nothing_else() -> None:
    weights = dict(change.split("losses.")[1].split("=") for change in aligner_ablation.VARIANTS["global only"])
    assert LossWeights(**{name: float(value) for name, value in weights.items()}) == LossWeights(
        0.0, 0.5, 0.0, 0.0, 1.0
    )
