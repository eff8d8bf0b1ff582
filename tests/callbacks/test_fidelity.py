"""FidelityMetrics in real Trainers: values, floor, controls, parts, cache, refusals, ranks and checkpoints."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.downstream import DownstreamClassifier
from callbacks.feature_cache import FeatureCache, pixel_keys
from callbacks.fidelity import FidelityMetrics, blur
from callbacks.metrics.fidelity import FidelityOptions
from callbacks.metrics.frechet import frechet_distance, kid, moments
from callbacks.metrics.manifold import manifold
from callbacks.metrics_file import MetricsFile
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import SIZE, Images, RandomProjection, TinyData, TinyStage, trainer


def run_test(folder: Path, callback: FidelityMetrics, *, data: TinyData | None = None, **kwargs: object) -> dict:
    t = trainer(folder, [callback])
    t.test(TinyStage(**kwargs), data or TinyData(), verbose=False)
    return {key: float(value) for key, value in t.callback_metrics.items()}


def test_every_figure_is_that_of_the_pure_functions(tmp_path: Path):
    extractor = RandomProjection()
    got = run_test(tmp_path, FidelityMetrics(extractor, options=FidelityOptions(seed=7)))
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
    shares = manifold(features(real), features(made))._asdict()
    floors = manifold(features(real), features(reference))._asdict()
    for key, value in shares.items():
        assert got[f"generator/{key}"] == pytest.approx(value, rel=1e-5)
        assert got[f"generator/{key}_floor"] == pytest.approx(floors[key], rel=1e-5)


def test_parts_are_the_same_figures_of_their_images_alone(tmp_path: Path):
    extractor = RandomProjection()
    callback = FidelityMetrics(extractor, parts=True, options=FidelityOptions(least=10))
    got = run_test(tmp_path, callback)
    given = Images(37)
    made = F.avg_pool2d(given.image, 3, stride=1, padding=1) * 0.9
    for finding in (2, 10):
        chosen = given.labels[:, finding] == 1
        own, other = (extractor.features(images[chosen]).detach() for images in (given.image, made))
        name = FINDINGS[finding].lower().replace(" ", "_")
        assert callback.protocol()["generator/fid"]["parts"][name] == int(chosen.sum()) >= 10
        assert got[f"generator/fid/{name}"] == pytest.approx(frechet_distance(moments(own), moments(other)), rel=1e-5)
        assert got[f"generator/kid/{name}"] == pytest.approx(kid(own, other).mean, rel=1e-4, abs=1e-7)
    assert got["generator/fid/view_pa"] == pytest.approx(got["generator/fid"])
    assert "generator/fid/pleural_other" not in got  # nobody has it
    assert not any("view_ap" in key for key in got)


def test_every_extractor_has_its_own_figures_and_the_first_the_plain_names(tmp_path: Path):
    wide = RandomProjection(num_features=9)
    callback = FidelityMetrics(RandomProjection(), more={"wide": wide}, parts=True, options=FidelityOptions(least=30))
    got = run_test(tmp_path / "both", callback)
    alone = run_test(tmp_path / "wide", FidelityMetrics(wide, options=FidelityOptions(least=30)))
    plain = run_test(tmp_path / "plain", FidelityMetrics(RandomProjection(), options=FidelityOptions(least=30)))
    for key, value in alone.items():
        if key.startswith("generator/"):
            assert got[key.replace("generator/", "generator/wide/")] == pytest.approx(value, abs=1e-9)
    assert {key: got[key] for key in plain} == pytest.approx(plain, abs=1e-9)
    assert callback.protocol()["generator/wide/fid"]["extractor"]["num_features"] == 9
    assert "generator/fid/view_pa" in got
    assert "generator/wide/fid/view_pa" not in got


class Counting(RandomProjection):
    """Counts the images that it is asked for."""

    asked = 0

    def features(self, image: Tensor) -> Tensor:
        self.asked += len(image)
        return super().features(image)


class CachedData(TinyData):
    """Like CXRDataModule it says where caches lie."""

    def __init__(self, folder: Path, *, n: int = 37, brighter: float = 0.0, reference_seed: int = 0) -> None:
        super().__init__(n)
        self.cache_dir, self.brighter, self.reference_seed = folder / "cache", brighter, reference_seed

    def images(self) -> Images:
        """Under the same ids, as if pictures had been replaced on disk."""
        found = super().images()
        found.image = (found.image + self.brighter).clamp(-1, 1)
        return found

    def reference_images(self, n: int, seed: int) -> Tensor:
        """As if `limit` or the data's seed were others: other training images for the same n and seed."""
        return super().reference_images(n, seed + self.reference_seed)


def test_real_images_are_asked_for_once(tmp_path: Path):
    def ask(data: TinyData, **options: object) -> tuple[int, dict]:
        extractor = Counting()
        got = run_test(tmp_path / "run", FidelityMetrics(extractor, **options), data=data)
        return extractor.asked, got

    # Real, made, blurred, random tokens and reference; then made and random tokens alone.
    first, fresh = ask(CachedData(tmp_path))
    second, kept = ask(CachedData(tmp_path))
    assert (first, second) == (5 * 37, 2 * 37)
    assert kept == fresh
    assert ask(CachedData(tmp_path), cache=False)[0] == 5 * 37
    # Other pixels, another seed of the reference, other training images, another blur: each is asked for again.
    assert ask(CachedData(tmp_path, brighter=0.1))[0] == 4 * 37
    assert ask(CachedData(tmp_path), options=FidelityOptions(seed=1))[0] == 3 * 37
    asked, got = ask(CachedData(tmp_path, reference_seed=5))
    assert asked == 3 * 37
    assert got["generator/fid_floor"] != fresh["generator/fid_floor"]
    assert got == run_test(
        tmp_path / "run", FidelityMetrics(Counting(), cache=False), data=CachedData(tmp_path, reference_seed=5)
    )
    assert ask(CachedData(tmp_path), blur_factor=4)[0] == 3 * 37
    assert ask(CachedData(tmp_path)) == (2 * 37, fresh)
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_a_file_of_other_features_is_not_taken(tmp_path: Path):
    cache = FeatureCache(tmp_path, {"kind": "real"})
    images = torch.rand(4, 1, 2, 2)
    keys = pixel_keys(images)
    assert pixel_keys(images.clone()) == keys
    assert len(set(keys)) == 4
    cache.write(torch.eye(3), keys[:3])
    again = FeatureCache(tmp_path, {"kind": "real"})
    found = again.find([keys[2], keys[0]])
    assert found is not None
    assert torch.equal(found, torch.eye(3)[[2, 0]])
    assert again.find([keys[0], keys[3]]) is None
    again.write(torch.full((2, 3), 0.5), [keys[3], keys[0]])  # what is known stays
    found = FeatureCache(tmp_path, {"kind": "real"}).find([keys[3], keys[0]])
    assert found is not None
    assert torch.equal(found, torch.stack([torch.full((3,), 0.5), torch.eye(3)[0]]))
    other = FeatureCache(tmp_path, {"kind": "blur"})
    assert other.path != again.path
    again.path.rename(other.path)  # as if two texts had one digest
    assert FeatureCache(tmp_path, {"kind": "blur"}).find(keys[:1]) is None


def test_reconstructions_are_called_rfid_and_controls_can_be_left_out(tmp_path: Path):
    callback = FidelityMetrics(
        RandomProjection(), output="reconstruction", prefix="codebook", name="rfid", floor=False, controls=False
    )
    got = run_test(tmp_path, callback)
    assert set(got) == {
        "codebook/rfid", "codebook/rfid_n", "codebook/rfid_low", "codebook/rfid_high", "codebook/rfid_infinity",
        "codebook/rkid", "codebook/precision", "codebook/recall", "codebook/density", "codebook/coverage", "tiny/error",
    }  # fmt: skip
    stated = callback.protocol()["codebook/rfid"]
    assert stated["n"] == 37
    assert stated["patients"] == 19
    assert stated["extractor"]["digest"] == RandomProjection().digest
    assert stated["paired"] is not None
    assert stated["rank_deficient"] is None


def test_fewer_images_than_features_is_said(tmp_path: Path):
    callback = FidelityMetrics(RandomProjection(num_features=40), floor=False)
    got = run_test(tmp_path, callback)
    assert math.isfinite(got["generator/fid"])
    assert "37 images for 40 features" in callback.protocol()["generator/fid"]["rank_deficient"]


def test_too_few_patients_give_no_interval_but_a_reason(tmp_path: Path):
    callback = FidelityMetrics(RandomProjection(), floor=False)
    got = run_test(tmp_path, callback, data=TinyData(4))
    assert math.isnan(got["generator/fid_low"])
    assert math.isnan(got["generator/fid_high"])
    assert math.isnan(got["generator/fid_infinity"])
    shares = {"generator/precision", "generator/recall", "generator/density", "generator/coverage"}
    assert all(math.isnan(got[key]) for key in shares)
    undefined = callback.protocol()["generator/fid"]["undefined"]
    assert set(undefined) == {"generator/fid_low", "generator/fid_high", "generator/fid_infinity"} | shares
    assert undefined["generator/recall"] == "4 images for 5 neighbours"


class Constant(RandomProjection):
    def features(self, image: Tensor) -> Tensor:
        return torch.ones(len(image), self.num_features)


class Nan(RandomProjection):
    def features(self, image: Tensor) -> Tensor:
        return super().features(image).masked_fill(image.amax((1, 2, 3))[:, None] >= 0.999, torch.nan)


def test_bad_input_never_becomes_a_number(tmp_path: Path):
    def refused(match: str, callback: FidelityMetrics | None = None, **kwargs: object) -> None:
        with pytest.raises(ValueError, match=match):
            run_test(tmp_path, callback or FidelityMetrics(RandomProjection()), **kwargs)

    refused("real image image-12: 1 of 256 values are not finite", data=TinyData(broken=12))
    refused("synthetic image image-6: 1 of 256 values are not finite", bad_output=True)
    refused("no 'drawn' images; it returned", FidelityMetrics(RandomProjection(), output="drawn"))
    refused("same features for all 37 real images", FidelityMetrics(Constant()))
    refused("20 training images were given for 37 test images", data=TinyData(reference=20))
    refused("1 test images; it needs at least 2", data=TinyData(1))
    first = next(f"image-{i}" for i, image in enumerate(Images(37).image) if image.max() >= 0.999)
    refused(f"features of real image {first}: 6 of 6 values are not finite", FidelityMetrics(Nan()))
    with pytest.raises(TypeError, match=r"Linear lacks \['name', 'digest', 'num_features', 'features'\]"):
        run_test(tmp_path, FidelityMetrics(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="blur_factor 1 does not blur"):
        FidelityMetrics(RandomProjection(), blur_factor=1)


def test_the_extractor_is_frozen_and_sees_float32_without_autocast(tmp_path: Path):
    class Watching(RandomProjection):
        seen: tuple = ()

        def features(self, image: Tensor) -> Tensor:
            result = super().features(image)
            type(self).seen = (*self.seen, (image.dtype, result.dtype, result.requires_grad, self.training))
            return result

    extractor = Watching().train()
    t = trainer(tmp_path, [FidelityMetrics(extractor)], precision="bf16-mixed")
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
    with_callbacks = keys([FidelityMetrics(extractor), DownstreamClassifier(extractor), MetricsFile()])
    assert with_callbacks == keys([]) == ({"scale"}, set(), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "padded"), [(2, False), (2, True), (3, False), (3, True)])
def test_ranks_equal_one(tmp_path: Path, ranks: int, padded: bool):
    """Ranks of 19 and 18, or 13, 12 and 12 images, or some twice by Lightning's padding sampler."""

    def measure(folder: Path, **kwargs: object) -> dict:
        fidelity = FidelityMetrics(RandomProjection(), parts=True, options=FidelityOptions(least=12))
        callbacks = [fidelity, DownstreamClassifier(RandomProjection(), min_positives=1)]
        t = trainer(folder, [*callbacks, MetricsFile()], **kwargs)
        t.test(TinyStage(), TinyData(37), verbose=False)
        return json.loads((folder / "metrics.json").read_text())

    one = measure(tmp_path / "one")
    two = measure(tmp_path / "more", devices=ranks, strategy="ddp_spawn", use_distributed_sampler=padded)
    repeated = -37 % ranks if padded else 0
    protocol = two.pop("protocol")
    assert one.pop("protocol")["world_size"] == 1
    assert (protocol["world_size"], protocol["n"], protocol["repeated"]) == (ranks, 37, repeated)
    assert protocol["metrics"]["generator/fid"]["repeated_left_out"] == repeated
    assert set(one) == set(two)
    for key, value in one.items():
        if key != "tiny/error":  # Lightning averages it over batches, whose sizes differ
            assert two[key] == pytest.approx(value, rel=1e-6, abs=1e-7), key  # figures are logged as float32
            if "auroc" in key:
                assert two[key] == value
