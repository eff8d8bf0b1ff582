"""FrechetDistance in real Trainers: values, floor, controls, refusals, ranks and checkpoints."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.downstream import DownstreamClassifier
from callbacks.fid import FrechetDistance, blur
from callbacks.metrics.frechet import frechet_distance, kid, moments
from callbacks.metrics_file import MetricsFile
from tests.callbacks.chain import SIZE, Images, RandomProjection, TinyData, TinyStage, trainer


def run_test(folder: Path, callback: FrechetDistance, *, data: TinyData | None = None, **kwargs: object) -> dict:
    t = trainer(folder, [callback])
    t.test(TinyStage(**kwargs), data or TinyData(), verbose=False)
    return {key: float(value) for key, value in t.callback_metrics.items()}


def test_every_figure_is_that_of_the_pure_functions(tmp_path: Path):
    extractor = RandomProjection()
    got = run_test(tmp_path, FrechetDistance(extractor, seed=7))
    real = Images(37).image
    made = F.avg_pool2d(real, 3, stride=1, padding=1) * 0.9
    noise = torch.rand(37, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(7)) * 2 - 1

    def features(images: Tensor) -> Tensor:
        return extractor.features(images).detach()

    def fid(images: Tensor) -> float:
        return frechet_distance(moments(features(real)), moments(features(images)))

    reference = Images(37, seed=1007).image
    assert got["generator/fid"] == pytest.approx(fid(made), rel=1e-5)
    assert got["generator/fid_floor"] == pytest.approx(fid(reference), rel=1e-5)
    assert got["generator/fid_blur"] == pytest.approx(fid(blur(real, factor=2)), rel=1e-5)
    assert got["generator/fid_random_tokens"] == pytest.approx(fid(noise), rel=1e-5)
    assert got["generator/kid"] == pytest.approx(kid(features(real), features(made)).mean, rel=1e-5, abs=1e-7)
    assert got["generator/kid_floor"] == pytest.approx(
        kid(features(real), features(reference)).mean, rel=1e-4, abs=1e-7
    )
    assert got["generator/fid_n"] == 37
    assert got["generator/fid_low"] < got["generator/fid"] < got["generator/fid_high"]


def test_reconstructions_are_called_rfid_and_controls_can_be_left_out(tmp_path: Path):
    callback = FrechetDistance(
        RandomProjection(), output="reconstruction", prefix="codebook", name="rfid", floor=False, controls=False
    )
    got = run_test(tmp_path, callback)
    assert set(got) == {
        "codebook/rfid", "codebook/rfid_n", "codebook/rfid_low", "codebook/rfid_high", "codebook/rfid_infinity",
        "codebook/rkid", "tiny/error",
    }  # fmt: skip
    stated = callback.protocol()["codebook/rfid"]
    assert stated["n"] == 37
    assert stated["patients"] == 19
    assert stated["extractor"]["digest"] == RandomProjection().digest
    assert stated["paired"] is not None
    assert stated["rank_deficient"] is None


def test_fewer_images_than_features_is_said(tmp_path: Path):
    callback = FrechetDistance(RandomProjection(num_features=40), floor=False)
    got = run_test(tmp_path, callback)
    assert math.isfinite(got["generator/fid"])
    assert "37 images for 40 features" in callback.protocol()["generator/fid"]["rank_deficient"]


def test_too_few_patients_give_no_interval_but_a_reason(tmp_path: Path):
    callback = FrechetDistance(RandomProjection(), floor=False)
    got = run_test(tmp_path, callback, data=TinyData(4))
    assert math.isnan(got["generator/fid_low"])
    assert math.isnan(got["generator/fid_high"])
    assert math.isnan(got["generator/fid_infinity"])
    undefined = callback.protocol()["generator/fid"]["undefined"]
    assert set(undefined) == {"generator/fid_low", "generator/fid_high", "generator/fid_infinity"}


class Constant(RandomProjection):
    def features(self, image: Tensor) -> Tensor:
        return torch.ones(len(image), self.num_features)


class Nan(RandomProjection):
    def features(self, image: Tensor) -> Tensor:
        return super().features(image).masked_fill(image.amax((1, 2, 3))[:, None] >= 0.999, torch.nan)


def test_bad_input_never_becomes_a_number(tmp_path: Path):
    def refused(match: str, callback: FrechetDistance | None = None, **kwargs: object) -> None:
        with pytest.raises(ValueError, match=match):
            run_test(tmp_path, callback or FrechetDistance(RandomProjection()), **kwargs)

    refused("real image image-12: 1 of 256 values are not finite", data=TinyData(broken=12))
    refused("synthetic image image-6: 1 of 256 values are not finite", bad_output=True)
    refused("no 'drawn' images; it returned", FrechetDistance(RandomProjection(), output="drawn"))
    refused("same features for all 37 real images", FrechetDistance(Constant()))
    refused("20 training images were given for 37 test images", data=TinyData(reference=20))
    refused("1 test images; it needs at least 2", data=TinyData(1))
    first = next(f"image-{i}" for i, image in enumerate(Images(37).image) if image.max() >= 0.999)
    refused(f"features of real image {first}: 6 of 6 values are not finite", FrechetDistance(Nan()))
    with pytest.raises(TypeError, match=r"Linear lacks \['name', 'digest', 'num_features', 'features'\]"):
        run_test(tmp_path, FrechetDistance(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="blur_factor 1 does not blur"):
        FrechetDistance(RandomProjection(), blur_factor=1)


def test_the_extractor_is_frozen_and_sees_float32_without_autocast(tmp_path: Path):
    class Watching(RandomProjection):
        seen: tuple = ()

        def features(self, image: Tensor) -> Tensor:
            result = super().features(image)
            type(self).seen = (*self.seen, (image.dtype, result.dtype, result.requires_grad, self.training))
            return result

    extractor = Watching().train()
    t = trainer(tmp_path, [FrechetDistance(extractor)], precision="bf16-mixed")
    t.test(TinyStage(), TinyData(), verbose=False)
    assert set(Watching.seen) == {(torch.float32, torch.float32, False, False)}
    assert not extractor.weight.requires_grad


def test_checkpoints_hold_nothing_of_the_callbacks(tmp_path: Path):
    def keys(callbacks: list) -> tuple[set, set, int]:
        t = trainer(tmp_path, callbacks, max_epochs=1)
        stage = TinyStage()
        t.fit(stage, TinyData(10))
        t.test(stage, TinyData(10), verbose=False)
        t.save_checkpoint(tmp_path / "x.ckpt")
        saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
        return set(saved["state_dict"]), set(saved["callbacks"]), len(saved["optimizer_states"])

    extractor = RandomProjection()
    with_callbacks = keys([FrechetDistance(extractor), DownstreamClassifier(extractor), MetricsFile()])
    assert with_callbacks == keys([]) == ({"scale"}, set(), 1)


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_two_ranks_equal_one(tmp_path: Path, padded: bool):
    """Ranks of 19 and 18 images, or one image twice by Lightning's padding sampler; tolerance 1e-5 (float32 logs)."""

    def measure(folder: Path, **kwargs: object) -> dict:
        callbacks = [FrechetDistance(RandomProjection()), DownstreamClassifier(RandomProjection(), min_positives=1)]
        t = trainer(folder, [*callbacks, MetricsFile()], **kwargs)
        t.test(TinyStage(), TinyData(37), verbose=False)
        return json.loads((folder / "metrics.json").read_text())

    one = measure(tmp_path / "one")
    two = measure(tmp_path / "two", devices=2, strategy="ddp_spawn", use_distributed_sampler=padded)
    protocol = two.pop("protocol")
    assert one.pop("protocol")["world_size"] == 1
    assert (protocol["world_size"], protocol["n"], protocol["repeated"]) == (2, 37, int(padded))
    assert protocol["metrics"]["generator/fid"]["repeated_left_out"] == int(padded)
    assert set(one) == set(two)
    for key, value in one.items():
        if key != "tiny/error":  # Lightning averages it over batches, whose sizes differ
            assert two[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
