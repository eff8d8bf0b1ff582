"""NaturalQuality in real Trainers: values, controls, flat images, refusals and ranks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from callbacks.fidelity import blur
from callbacks.metrics.niqe import fit, niqe, patch_features, sharp
from callbacks.metrics_file import MetricsFile
from callbacks.quality import NaturalQuality, noisy
from tests.callbacks.chain import Images, TinyData, TinyStage, trainer

SIDE = 64


def textures(n: int, seed: int) -> Tensor:
    drawn = np.random.default_rng(seed).normal(size=(n, SIDE, SIDE))
    return torch.from_numpy(np.stack([gaussian_filter(x, 0.8) for x in drawn])).float().clamp(-1, 1)[:, None]


class Textured(Images):
    def __init__(self, n: int, *, broken: int | None = None, flat: int | None = None) -> None:
        super().__init__(n)
        self.image = textures(n, 0)
        if broken is not None:
            self.image[broken, 0, 2, 3] = torch.nan
        if flat is not None:
            self.image[flat] = 0.5


class TexturedData(TinyData):
    flat: int | None = None

    def images(self) -> Images:
        return Textured(self.n, broken=self.broken, flat=self.flat)

    def reference_images(self, n: int, seed: int) -> Tensor:
        return textures(n, 1000 + seed)


def measure(folder: Path, callback: NaturalQuality, data: TinyData | None = None) -> dict:
    t = trainer(folder, [callback])
    t.test(TinyStage(), data or TexturedData(23), verbose=False)
    return {key: float(value) for key, value in t.callback_metrics.items()}


def test_the_figures_are_those_of_the_pure_functions(tmp_path: Path):
    callback = NaturalQuality(fit_images=70, seed=3)
    got = measure(tmp_path, callback)
    patches = patch_features(textures(70, 1003), patch=32)
    model = fit(patches.features[sharp(patches)])

    def value(images: Tensor) -> float:
        return float(niqe(patch_features(images, patch=32).features, model).mean())

    real = Textured(23).image
    made = torch.nn.functional.avg_pool2d(real, 3, stride=1, padding=1) * 0.9
    ids = [f"image-{i}" for i in range(23)]
    assert got["generator/niqe"] == pytest.approx(value(made), rel=1e-4)
    assert got["generator/niqe_real"] == pytest.approx(value(real), rel=1e-4)
    assert got["generator/niqe_blur"] == pytest.approx(value(blur(real, factor=2)), rel=1e-4)
    assert got["generator/niqe_noise"] == pytest.approx(value(noisy(real, ids, deviation=0.1, seed=3)), rel=1e-4)
    assert got["generator/niqe_low"] < got["generator/niqe"] < got["generator/niqe_high"]
    assert got["generator/niqe_real"] < got["generator/niqe_blur"]
    stated = callback.protocol()["generator/niqe"]
    assert (stated["n"], stated["patients"], stated["fit_images"], stated["patch"]) == (23, 12, 70, 32)
    assert stated["fit_patches"] == int(sharp(patches).sum())
    assert set(stated["figures"]) == {key for key in got if "niqe" in key}


def test_noise_depends_on_seed_and_id_alone():
    images = torch.zeros(3, 1, 8, 8)
    whole = noisy(images, ["a", "b", "c"], deviation=0.1, seed=0)
    assert torch.equal(noisy(images[:1], ["b"], deviation=0.1, seed=0)[0], whole[1])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(noisy(images, ["a", "b", "c"], deviation=0.1, seed=1), whole)


def test_a_flat_image_makes_the_mean_undefined_with_a_reason(tmp_path: Path):
    data = TexturedData(23)
    data.flat = 4
    callback = NaturalQuality(fit_images=70, controls=False)
    got = measure(tmp_path, callback, data)
    assert set(got) >= {"generator/niqe", "generator/niqe_real"}
    assert "generator/niqe_blur" not in got
    assert math.isnan(got["generator/niqe_real"])
    reason = callback.protocol()["generator/niqe"]["undefined"]["generator/niqe_real"]
    assert reason.startswith("1 of 23 images are flat")


def test_what_cannot_be_measured_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="real image image-12: 1 of 4096 values are not finite"):
        measure(tmp_path, NaturalQuality(fit_images=70), TexturedData(23, broken=12))
    with pytest.raises(ValueError, match=r"needs images of at least 64 a side, found \[16, 16\]"):
        measure(tmp_path, NaturalQuality(fit_images=70), TinyData(23))
    with pytest.raises(ValueError, match=r"more than 36 sharp patches, found \d+; fit more images"):
        measure(tmp_path, NaturalQuality(fit_images=5))
    with pytest.raises(ValueError, match="describes patches of 96 pixels, patch is 32"):
        NaturalQuality(model="x.mat")
    with pytest.raises(FileNotFoundError, match=r"x\.mat: NIQE's model of photographs is not there"):
        measure(tmp_path, NaturalQuality(model=str(tmp_path / "x.mat"), patch=96))


def test_a_model_from_a_file_needs_no_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "modelparameters.mat"
    scipy.io.savemat(path, {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    monkeypatch.setattr("tests.callbacks.test_quality.SIDE", 192)
    callback = NaturalQuality(model=str(path), patch=96, controls=False)
    got = measure(tmp_path, callback, TexturedData(4))
    assert got["generator/niqe_real"] > 0
    assert callback.protocol()["generator/niqe"]["model"] == "the authors', of photographs"


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "padded"), [(2, False), (2, True), (3, False)])
def test_ranks_give_the_figures_of_one(tmp_path: Path, devices: int, padded: bool):
    def run(folder: Path, **kwargs: Any) -> dict:
        t = trainer(folder, [NaturalQuality(fit_images=150), MetricsFile()], **kwargs)
        t.test(TinyStage(), TexturedData(13), verbose=False)
        return json.loads((folder / "metrics.json").read_text())

    one = run(tmp_path / "one")
    many = run(tmp_path / "many", devices=devices, strategy="ddp_spawn", use_distributed_sampler=padded)
    stated, alone = (x.pop("protocol")["metrics"]["generator/niqe"] for x in (many, one))
    assert stated | {"repeated_left_out": 0} == alone
    for key in stated["figures"]:
        assert many[key] == pytest.approx(one[key], rel=1e-6), key
