"""PrivacyGate in real Trainers: planted copies are named, fresh images pass, ranks agree, broken images are refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.metrics.registration import placed_distance, sharp
from callbacks.metrics_file import MetricsFile
from callbacks.privacy import PrivacyAlarm, PrivacyGate
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import SIZE, Images, RandomProjection, TinyData, TinyStage, trainer
from tests.callbacks.metrics.test_registration import smooth_noise

COUNTS = {"train": 150, "validate": 120, "test": 37}
SEEDS = {"train": 1, "validate": 2, "test": 3}
COPIED = {"image-4": 7, "image-21": 100}  # test image → training row


def pictures(split: str) -> Tensor:
    return smooth_noise(COUNTS[split], seed=SEEDS[split], side=SIZE)


class Split:
    """As CXRDataset: rows are read when they are asked for."""

    def __init__(self, split: str, *, broken: int | None = None) -> None:
        self.split, self.image = split, pictures(split)
        if broken is not None:
            self.image[broken, 0, 1, 1] = torch.nan

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, chosen: list[int]) -> dict[str, Any]:
        names = [f"{self.split}-{i}" for i in chosen]
        return {
            "image": self.image[chosen], "image_id": names, "patient_id": names, "study_id": names,
            "report": [""] * len(chosen), "labels": torch.zeros(len(chosen), len(FINDINGS)),
        }  # fmt: skip


class SplitData(TinyData):
    def __init__(self, *, broken_split: tuple[str, int] | None = None, validate: int = 120) -> None:
        super().__init__(COUNTS["test"])
        self.broken_split, self.validate = broken_split, validate

    def images(self) -> Images:
        images = Images(self.n)
        images.image = pictures("test")
        return images

    def split_dataset(self, split: str) -> Split:
        broken = self.broken_split[1] if self.broken_split and self.broken_split[0] == split else None
        found = Split(split, broken=broken)
        if split == "validate":
            found.image = found.image[: self.validate]
        return found


class CopyingStage(TinyStage):
    """Returns the test images themselves, which are new, but for some training images with another contrast."""

    def __init__(self, *, copies: dict[str, int] | None = None, bad: str | None = None) -> None:
        super().__init__()
        self.copies, self.bad = copies or {}, bad

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        made = batch["image"].clone()
        training = pictures("train")
        for row, name in enumerate(batch["image_id"]):
            if name in self.copies:
                made[row] = training[self.copies[name]] * 0.9 + 0.05
            if name == self.bad:
                made[row, 0, 0, 0] = torch.nan
        return {"synthetic": made}


class CoarseDecoder(CopyingStage):
    """Its decoder draws blocks of 2 × 2 pixels, and its copies are what that makes of training images."""

    def redraw(self, image: Tensor) -> Tensor:
        blocks = torch.nn.functional.avg_pool2d(image, 2)
        return torch.nn.functional.interpolate(blocks, scale_factor=2, mode="nearest")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"synthetic": self.redraw(super().test_step(batch, batch_idx)["synthetic"])}


def gate(**kwargs: Any) -> PrivacyGate:
    return PrivacyGate([RandomProjection(), RandomProjection(num_features=9)], **kwargs)


def test_planted_copies_are_named_with_their_training_images(tmp_path: Path):
    callback = gate(fail=False)
    t = trainer(tmp_path, [MetricsFile(), callback])
    t.test(CopyingStage(copies=COPIED), SplitData(), verbose=False)
    logged = {key: float(value) for key, value in t.callback_metrics.items()}
    written = json.loads((tmp_path / "privacy.json").read_text())
    by_id = {one["image_id"]: one for one in written["flagged"]}
    assert set(COPIED) <= set(by_id)
    assert [one["image_id"] for one in written["flagged"][:2]] in (list(COPIED), list(COPIED)[::-1])
    for name, row in COPIED.items():
        pixel = by_id[name]["detectors"]["pixel"]
        assert pixel["flagged"]
        assert pixel["nearest_training_image"] == f"train-{row}"
        assert pixel["distance"] < 0.01 < pixel["threshold"]
        assert by_id[name]["detectors"]["patch"]["nearest_training_image"] == f"train-{row}"
    assert logged["generator/privacy_flagged"] == pytest.approx(len(by_id) / 37)
    assert logged["generator/privacy_copies"] == pytest.approx(2 / 37)
    assert logged["generator/privacy_false_alarms"] == 0  # the threshold is the most extreme of 120
    assert logged["generator/privacy_false_alarms_expected"] == pytest.approx(1 / 121)
    names = [key.rpartition("/")[2] for key in logged if key.startswith("generator/privacy_flagged/")]
    digest = RandomProjection(num_features=9).digest[:6]
    assert set(names) == {"pixel", "patch", "random projection", f"random projection-{digest}"}
    with (tmp_path / "privacy.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 * len(by_id)
    assert {row["image_id"] for row in table} == set(by_id)
    assert (tmp_path / "pictures" / "privacy.png").is_file()
    stated = json.loads((tmp_path / "metrics.json").read_text())["protocol"]["metrics"]["generator/privacy_flagged"]
    assert stated["held_out"] == {"split": "validate", "n": 120, "twins_of_training_images": []}
    assert stated["thresholds"].keys() == set(names)
    assert stated["thresholds"] == written["thresholds"]
    assert stated["fails_above"] == {"flagged": 2, "rate": 0.01, "confidence": 0.95}  # of 37 at 1 %: .69, .95, .994
    assert stated["figures"] == sorted(key for key in logged if "/privacy" in key)


def test_a_copy_is_compared_with_what_the_decoder_makes_of_its_training_image(tmp_path: Path):
    trainer(tmp_path, [MetricsFile(), gate(fail=False)]).test(CoarseDecoder(copies=COPIED), SplitData(), verbose=False)
    by_id = {one["image_id"]: one for one in json.loads((tmp_path / "privacy.json").read_text())["flagged"]}
    training = pictures("train")
    for name, row in COPIED.items():
        pixel = by_id[name]["detectors"]["pixel"]
        assert pixel["nearest_training_image"] == f"train-{row}"
        assert pixel["distance"] < 1e-3 < pixel["threshold"]
        drawn = CoarseDecoder().redraw(training[row : row + 1])
        as_it_is = placed_distance(sharp(drawn), sharp(training[row : row + 1]), torch.tensor([[1.0, 0.0, 0.0]]))
        assert float(as_it_is) > 0.01
    stated = json.loads((tmp_path / "metrics.json").read_text())["protocol"]["metrics"]["generator/privacy_flagged"]
    assert stated["pixel"]["redrawn"] is True


def test_one_copy_fails_the_test_after_its_figures_are_written(tmp_path: Path):
    with pytest.raises(PrivacyAlarm, match=r"generator/privacy: .* of 37 images .* image-4"):
        trainer(tmp_path, [MetricsFile(), gate(allowed=0.9)]).test(
            CopyingStage(copies={"image-4": 7}), SplitData(), verbose=False
        )
    assert json.loads((tmp_path / "metrics.json").read_text())["generator/privacy_copies"] == pytest.approx(1 / 37)
    assert (tmp_path / "privacy.csv").is_file()


def test_new_images_pass_and_are_no_nearer_than_held_out_ones(tmp_path: Path):
    t = trainer(tmp_path, [gate(allowed=0.06)])
    t.test(CopyingStage(), SplitData(), verbose=False)
    logged = {key: float(value) for key, value in t.callback_metrics.items()}
    assert logged["generator/privacy_copies"] == 0
    assert logged["generator/privacy_flagged"] <= 2 / 37
    for key, value in logged.items():
        if key.endswith("/random projection") and "membership" in key:
            assert abs(value - 0.5) < 0.12, key


def test_broken_images_and_wrong_settings_are_refused(tmp_path: Path):
    def refused(match: str, stage: CopyingStage | None = None, data: Any = None, **kwargs: Any) -> None:
        with pytest.raises(ValueError, match=match):
            trainer(tmp_path, [gate(**kwargs)]).test(stage or CopyingStage(), data or SplitData(), verbose=False)

    refused("synthetic image image-6: 1 of 256 values are not finite", CopyingStage(bad="image-6"))
    refused("training image train-149: 1 of 256 values", data=SplitData(broken_split=("train", 149)))
    refused("held-out image validate-3: 1 of 256 values", data=SplitData(broken_split=("validate", 3)))
    refused("50 held-out images cannot set an alarm with 0.01", data=SplitData(validate=50))
    refused("no split_dataset", data=TinyData())
    refused("no 'drawn' images", output="drawn")
    with pytest.raises(ValueError, match=r"false_alarms is 1\.5"):
        gate(false_alarms=1.5)


@pytest.mark.slow
def test_ranks_agree(tmp_path: Path):
    """37 test images, 120 held-out and 150 training images on 1, 2 and 3 ranks."""

    def measure(world: int) -> tuple[dict[str, Any], dict[str, Any]]:
        folder = tmp_path / str(world)
        more = {"devices": world, "strategy": "ddp_spawn", "use_distributed_sampler": False} if world > 1 else {}
        t = trainer(folder, [MetricsFile(), gate(fail=False)], **more)
        t.test(CopyingStage(copies=COPIED), SplitData(), verbose=False)
        files = [json.loads((folder / name).read_text()) for name in ("metrics.json", "privacy.json")]
        return files[0], files[1]

    alone, found = measure(1)
    for world in (2, 3):
        metrics, same = measure(world)
        for key, value in alone.items():
            if key != "protocol":
                assert metrics[key] == pytest.approx(value, rel=1e-5, abs=1e-6), (world, key)
        assert [one["image_id"] for one in same["flagged"]] == [one["image_id"] for one in found["flagged"]]
        for one, other in zip(same["flagged"], found["flagged"], strict=True):
            for name, detector in one["detectors"].items():
                expected = other["detectors"][name]
                assert detector["nearest_training_image"] == expected["nearest_training_image"]
                assert detector["distance"] == pytest.approx(expected["distance"], rel=1e-3, abs=1e-5)
