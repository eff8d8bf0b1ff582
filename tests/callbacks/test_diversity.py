"""SampleDiversity in real Trainers: values, known answers, refusals and ranks."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.diversity import SampleDiversity
from callbacks.metrics.bank import id_hash
from callbacks.metrics.similarity import ms_ssim
from callbacks.metrics_file import MetricsFile
from tests.callbacks.chain import SIZE, Images, TinyData, TinyStage, trainer


def noise(ids: list[str], seed: int) -> Tensor:
    """Images that depend on id and seed alone."""
    drawn = [
        torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(abs(id_hash(f"{seed}/{name}")) % 2**62))
        for name in ids
    ]
    return torch.stack(drawn) * 2 - 1 if drawn else torch.empty(0, 1, SIZE, SIZE)


class Sampler(TinyStage):
    """Draws noise; `mode`: "fresh" at each seed, "stuck" whatever the seed, "collapsed" for all prompts."""

    def __init__(self, mode: str = "fresh") -> None:
        super().__init__()
        self.mode = mode

    def draw(self, ids: list[str], seed: int) -> Tensor:
        if self.mode == "collapsed":
            return noise(["one"] * len(ids), seed)
        return noise(ids, 0 if self.mode == "stuck" else seed)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"synthetic": self.draw(batch["image_id"], 0)}

    def sample_again(self, batch: dict[str, Any], *, seed: int) -> Tensor:
        return self.draw(batch["image_id"], seed + 1)


def measure(folder: Path, stage: TinyStage, callback: SampleDiversity, data: TinyData | None = None) -> dict:
    t = trainer(folder, [callback])
    t.test(stage, data or TinyData(), verbose=False)
    return {key: float(value) for key, value in t.callback_metrics.items()}


def test_the_figures_are_those_of_the_pairs(tmp_path: Path):
    callback = SampleDiversity(prompts=6, samples=3, seed=4)
    got = measure(tmp_path, Sampler(), callback)
    # By hand: of each patient's two images the lower hash, of these the six lowest.
    order = {i: id_hash(f"image-{i}") for i in range(37)}
    best = [min((i for i in range(37) if i // 2 == patient), key=order.__getitem__) for patient in range(19)]
    chosen = sorted(best, key=order.__getitem__)[:6]
    ids = [f"image-{i}" for i in chosen]
    first, second, third = (noise(ids, seed) for seed in (0, 6, 7))
    same = (ms_ssim(first, second) + ms_ssim(first, third) + ms_ssim(second, third)) / 3
    assert got["generator/diversity_same_prompt"] == pytest.approx(float(same.mean()), abs=1e-6)
    other = ms_ssim(first[0::2], first[1::2])
    assert got["generator/diversity_other_prompt"] == pytest.approx(float(other.mean()), abs=1e-6)
    images = Images(37).image[chosen]
    real = ms_ssim(images[0::2], images[1::2])
    assert got["generator/diversity_real"] == pytest.approx(float(real.mean()), abs=1e-6)
    assert got["generator/diversity_excess"] == pytest.approx(float((other - real).mean()), abs=1e-6)
    error = 4.302653 * float((other - real).double().std()) / math.sqrt(3)
    assert got["generator/diversity_excess_high"] == pytest.approx(float((other - real).mean()) + error, abs=1e-6)
    assert got["generator/diversity_n"] == 6
    stated = callback.protocol()["generator/diversity"]
    assert (stated["n"], stated["pairs"], stated["samples"]) == (6, 3, 3)
    assert set(stated["figures"]) == set(got)


def test_a_seed_that_changes_nothing_gives_1_and_collapse_an_excess(tmp_path: Path):
    stuck = measure(tmp_path, Sampler("stuck"), SampleDiversity())
    assert stuck["generator/diversity_same_prompt"] == pytest.approx(1.0, abs=1e-6)
    assert stuck["generator/diversity_other_prompt"] < 0.5
    collapsed = measure(tmp_path, Sampler("collapsed"), SampleDiversity())
    assert collapsed["generator/diversity_other_prompt"] == pytest.approx(1.0, abs=1e-6)
    assert collapsed["generator/diversity_same_prompt"] < 0.5
    assert collapsed["generator/diversity_excess_low"] > 0


def test_a_module_that_cannot_draw_again_has_no_same_prompt(tmp_path: Path):
    callback = SampleDiversity()
    got = measure(tmp_path, TinyStage(), callback)
    assert "generator/diversity_same_prompt" not in got
    assert got["generator/diversity_n"] == 19
    assert "no sample_again" in callback.protocol()["generator/diversity"]["same_prompt"]


def test_one_patient_has_no_pair_but_a_reason(tmp_path: Path):
    callback = SampleDiversity()
    got = measure(tmp_path, Sampler(), callback, TinyData(2))
    assert math.isnan(got["generator/diversity_other_prompt"])
    reason = callback.protocol()["generator/diversity"]["undefined"]["generator/diversity_real"]
    assert reason == "1 prompts give 0 pairs of different patients and texts"


def test_bad_images_and_options_are_refused(tmp_path: Path):
    class Broken(Sampler):
        def sample_again(self, batch: dict[str, Any], *, seed: int) -> Tensor:
            return super().sample_again(batch, seed=seed) * torch.nan

    with pytest.raises(ValueError, match=r"sample-1 image image-\d+: 256 of 256 values are not finite"):
        measure(tmp_path, Broken(), SampleDiversity())
    with pytest.raises(ValueError, match="real image image-12: 1 of 256 values are not finite"):
        measure(tmp_path, Sampler(), SampleDiversity(), TinyData(broken=12))
    with pytest.raises(ValueError, match="1 prompts with 2 samples each; expected at least 2 of both"):
        SampleDiversity(prompts=1)


def test_the_training_random_numbers_are_not_touched(tmp_path: Path):
    def next_number(callbacks: list) -> Tensor:
        torch.manual_seed(5)
        trainer(tmp_path, callbacks).test(Sampler(), TinyData(), verbose=False)  # the loader itself draws a number
        return torch.rand(1)

    assert torch.equal(next_number([SampleDiversity()]), next_number([]))


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "padded"), [(2, False), (2, True), (3, False)])
def test_ranks_give_the_figures_of_one(tmp_path: Path, devices: int, padded: bool):
    def run(folder: Path, **kwargs: object) -> dict:
        t = trainer(folder, [SampleDiversity(prompts=7), MetricsFile()], **kwargs)
        t.test(Sampler(), TinyData(37), verbose=False)
        return json.loads((folder / "metrics.json").read_text())

    one = run(tmp_path / "one")
    many = run(tmp_path / "many", devices=devices, strategy="ddp_spawn", use_distributed_sampler=padded)
    part = "generator/diversity"
    assert many.pop("protocol")["metrics"][part] | {"repeated_left_out": 0} == one.pop("protocol")["metrics"][part]
    assert many == one
