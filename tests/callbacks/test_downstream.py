"""DownstreamClassifier in real Trainers, against sklearn."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from callbacks.downstream import DownstreamClassifier, slug
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import Images, RandomProjection, TinyData, TinyStage, trainer


def test_macro_and_findings_equal_sklearn_on_both_sides(tmp_path: Path):
    callback = DownstreamClassifier(RandomProjection(), min_positives=5)
    t = trainer(tmp_path, [callback])
    t.test(TinyStage(), TinyData(60), verbose=False)
    got = {key: float(value) for key, value in t.callback_metrics.items()}

    data = Images(60)
    known = ~data.labels[:, 0].isnan()
    labels = data.labels[known]
    included = [f for f in range(14) if min((labels[:, f] == 1).sum(), (labels[:, f] == 0).sum()) >= 5]
    assert FINDINGS.index("Pleural Other") not in included
    assert len(included) >= 10

    def expected(images: Tensor) -> dict[int, float]:
        scores = RandomProjection().logits(images)[known]
        return {f: float(roc_auc_score(labels[:, f], scores[:, f])) for f in included}

    real = expected(data.image)
    made = expected(F.avg_pool2d(data.image, 3, stride=1, padding=1) * 0.9)
    for side, values in (("real", real), ("synthetic", made)):
        macro = sum(values.values()) / len(values)
        assert got[f"classifier/auroc_{side}"] == pytest.approx(macro, abs=1e-6)
        for f, value in values.items():
            assert got[f"classifier/auroc_{side}/{slug(FINDINGS[f])}"] == pytest.approx(value, abs=1e-6)
    assert got["classifier/auroc_ratio"] == pytest.approx(
        got["classifier/auroc_synthetic"] / got["classifier/auroc_real"], rel=1e-6
    )
    for f in included:
        ratio = made[f] / real[f]
        assert got[f"classifier/auroc_ratio/{slug(FINDINGS[f])}"] == pytest.approx(ratio, abs=1e-6)
    assert got["classifier/auroc_ratio_chance"] == pytest.approx(0.5 / got["classifier/auroc_real"], rel=1e-6)
    assert got["classifier/auroc_findings"] == len(included)
    assert "classifier/auroc_real/pleural_other" not in got
    # Smoothing lets neighbouring rows, other findings, into each: less is left to see.
    assert got["classifier/auroc_synthetic"] < got["classifier/auroc_real"]

    for name in ("real", "synthetic", "ratio"):
        key = f"classifier/auroc_{name}"
        assert got[f"{key}_low"] < got[key] < got[f"{key}_high"]

    stated = callback.protocol()["classifier/auroc_synthetic"]
    assert stated["interval"] == "95% of 1000 bootstrap draws of patients"
    assert set(stated["included"]) == {FINDINGS[f] for f in included}
    assert stated["left_out"]["Pleural Other"] == {"positives": 0, "negatives": 60}
    assert "undefined" not in stated


def test_reconstructions_are_called_retained(tmp_path: Path):
    t = trainer(
        tmp_path,
        [DownstreamClassifier(RandomProjection(), output="reconstruction", prefix="codebook", ratio="retained")],
    )
    t.test(TinyStage(), TinyData(40), verbose=False)
    assert {
        "codebook/auroc_real", "codebook/auroc_reconstruction", "codebook/auroc_retained",
        "codebook/auroc_retained/cardiomegaly",
    } <= set(t.callback_metrics)  # fmt: skip
    assert "codebook/auroc_retained/pleural_other" not in t.callback_metrics


def test_no_finding_with_enough_positives_is_nan_with_a_reason(tmp_path: Path):
    callback = DownstreamClassifier(RandomProjection(), min_positives=30)
    t = trainer(tmp_path, [callback])
    t.test(TinyStage(), TinyData(20), verbose=False)
    assert math.isnan(t.callback_metrics["classifier/auroc_synthetic"])
    assert t.callback_metrics["classifier/auroc_findings"] == 0
    undefined = callback.protocol()["classifier/auroc_synthetic"]["undefined"]
    assert undefined["classifier/auroc_ratio"] == "no finding has 30 positives and negatives among 20 images"


def test_a_ratio_to_nothing_is_nan_with_a_reason(tmp_path: Path):
    class Opposite(RandomProjection):
        def logits(self, image: Tensor) -> Tensor:
            return -super().logits(image)

    class Exact(TinyData):
        def images(self) -> Images:
            images = super().images()
            images.image[:, 0, : len(FINDINGS)] = 0.5 * images.labels.nan_to_num()[:, :, None]
            return images

    callback = DownstreamClassifier(Opposite(), min_positives=5)
    t = trainer(tmp_path, [callback])
    t.test(TinyStage(), Exact(40), verbose=False)
    assert t.callback_metrics["classifier/auroc_real"] == 0
    assert math.isnan(t.callback_metrics["classifier/auroc_ratio/cardiomegaly"])
    undefined = callback.protocol()["classifier/auroc_synthetic"]["undefined"]
    assert undefined["classifier/auroc_ratio/cardiomegaly"] == "the AUROC of the real images is 0"


def test_logits_that_are_not_finite_name_the_image(tmp_path: Path):
    class Broken(RandomProjection):
        def logits(self, image: Tensor) -> Tensor:
            return torch.full((len(image), 14), torch.nan)

    with pytest.raises(ValueError, match="logits of real image image-0: 14 of 14 values are not finite"):
        trainer(tmp_path, [DownstreamClassifier(Broken())]).test(TinyStage(), TinyData(10), verbose=False)
