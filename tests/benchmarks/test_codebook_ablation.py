"""The ablation's runs at the smallest size: what is changed reaches the model, and a finished run is not repeated."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import codebook_ablation, codebook_runs, record
from tests.benchmarks.codebook_runs import FIGURES, Setting
from tests.chain import COMMON, SMALL, Chain

CHANGED = {  # quantiser, gradient and codes
    "full": ("ema", "rotation", 32),
    "straight-through": ("ema", "straight-through", 32),
    "FSQ": ("fsq", "rotation", 1000),
}


def setting(chain: Chain, folder: Path) -> Setting:
    common = [a for a in (*COMMON, *SMALL["codebook"], *chain.inputs("codebook")) if "--trainer" not in a]
    judge = str(chain.path("classifier"))
    return Setting(codebook_ablation.CONFIGS, judge, minutes=0.01, folder=folder / "runs", more=tuple(common))


def test_each_variant_is_trained_tested_and_kept(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path / "benchmarks")
    shared = setting(chain, tmp_path)
    figures = codebook_ablation.measure(shared, seeds=2, variants=list(CHANGED))
    printed = capsys.readouterr().out
    for name, (quantizer, gradient, codes) in CHANGED.items():
        first, second = figures["variants"][name]["runs"]
        assert first.keys() >= {*FIGURES, "steps", "seconds", "cpu_seconds"}
        assert first["psnr"] != second["psnr"]
        assert figures["variants"][name]["mean"]["psnr"] == pytest.approx((first["psnr"] + second["psnr"]) / 2)
        assert [first["protocol"]["seed"], second["protocol"]["seed"]] == [0, 1]
        assert first["protocol"]["data_digest"] == second["protocol"]["data_digest"] == figures["data_digest"]
        assert 0 < first["usage"] <= 1
        saved = torch.load(tmp_path / f"runs/{name.lower()}-0/checkpoints/last.ckpt", weights_only=True)
        network = saved["hyper_parameters"]["network"]
        assert (network["quantizer"], network["gradient"], network["codes"]) == (quantizer, gradient, codes)
        assert any(line.startswith(name) and f"{first['psnr']:.4g}" in line for line in printed.splitlines())
    assert json.loads((tmp_path / "benchmarks/codebook_ablation.json").read_text())["variants"] == figures["variants"]

    # The last of the runs is missing, as after an interruption: it alone is made again.
    (tmp_path / "runs/fsq-1/result.json").unlink()
    made: list[Path] = []
    once = codebook_runs.trained

    def watched(*args: object, folder: Path, **kwargs: object) -> dict:
        made.append(folder)
        return once(*args, folder=folder, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(codebook_runs, "trained", watched)
    again = codebook_ablation.measure(shared, seeds=2, variants=list(CHANGED))
    assert made == [tmp_path / "runs/fsq-1"]
    assert again["variants"]["full"] == figures["variants"]["full"]

    # What was found under another time is no result of this one.
    made.clear()
    longer = dataclasses.replace(shared, minutes=0.015)
    codebook_ablation.measure(longer, seeds=1, variants=["full"])
    assert made == [tmp_path / "runs/full-0"]


def test_the_losses_of_a_variant_are_off(chain: Chain, tmp_path: Path) -> None:
    """Each variant's arguments reach the module that they are about."""
    keys = {"clinical off": "weights.clinical", "perceptual off": "weights.perceptual", "GAN off": "adversarial"}
    shared = setting(chain, tmp_path)
    shared = dataclasses.replace(shared, more=(*shared.more, *codebook_ablation.EARLY))
    full = codebook_runs.subject(shared).module
    assert (full.discriminator_start, full.discriminator_ramp) == (200, 100)
    for name, off in keys.items():
        module = codebook_runs.subject(
            dataclasses.replace(shared, more=(*shared.more, *codebook_ablation.VARIANTS[name]))
        ).module
        for key in keys.values():
            first, _, last = key.partition(".")
            found, before = (getattr(m, first)[last] if last else getattr(m, first) for m in (module, full))
            assert found == (0 if key == off else before), (name, key)
            assert before > 0
