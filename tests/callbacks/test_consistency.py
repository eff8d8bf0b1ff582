"""ReportConsistency in real Trainers: against sklearn, known answers, what is left out, refusals and ranks."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import Dataset

from callbacks.consistency import NOT_OWN, ReportConsistency
from callbacks.metrics.probes import completed_halves
from callbacks.metrics_file import MetricsFile
from datamodules.manifest import Manifest, make_manifest
from datamodules.prompts import MATCHED, WRITTEN
from datamodules.reports.labels import FINDINGS, VIEWS
from tests.callbacks.chain import SIZE, TinyData, TinyStage, trainer
from tests.callbacks.utility_case import Rows

BANDS = {"pleural effusion": slice(11, 15), "pneumothorax": slice(2, 6)}
COUNTS = {"train": 170, "test": 61}
SWAPPED = {"left": "right", "right": "left"}


class RowMeans(nn.Module):
    """Features: the mean of each row, which say nothing of left and right."""

    name, digest, num_features = "row means", "7" * 64, SIZE

    def features(self, image: Tensor) -> Tensor:
        return image[:, 0].mean(-1)


class Stated(Dataset):
    """Each image has a small or large effusion, every second a pneumothorax; every ninth is a lateral view."""

    def __init__(self, split: str, *, plain: bool = False, broken: int | None = None) -> None:
        self.split, n = split, COUNTS[split]
        generator = torch.Generator().manual_seed(len(split))
        self.image = 0.25 * torch.randn(n, 1, SIZE, SIZE, generator=generator)
        self.reports: list[str] = []
        for i in range(n):
            said = []
            for word, rows in list(BANDS.items())[: 1 + i % 2]:
                side, size = ("left", "right")[int(torch.rand(1, generator=generator) < 0.5)], i // 2 % 3
                degree = ("Small", "Moderate", "Large")[size]
                columns = slice(SIZE // 2, SIZE) if side == "left" else slice(0, SIZE // 2)
                self.image[i, 0, rows, columns] += 0.05 + 0.04 * size
                said.append(f"There is a pleural abnormality, {word}." if plain else f"{degree} {side} {word}.")
            self.reports.append(" ".join(said))
        self.image.clamp_(-1, 1)
        self.views = ["LATERAL" if i % 9 == 4 else "AP" if i % 2 else "PA" for i in range(n)]
        if broken is not None:
            self.image[broken, 0, 1, 1] = torch.nan

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.image[index], "labels": torch.zeros(len(FINDINGS)), "report": self.reports[index],
            "view": torch.tensor(VIEWS.index(self.views[index])), "study_id": f"{self.split}-{index}",
            "image_id": f"{self.split}-{index}", "patient_id": f"{self.split}-{index // 2}",
        }  # fmt: skip


class StatedData(TinyData):
    """`written`: test images whose reports stand for texts of the prompter."""

    def __init__(self, *, plain: bool = False, broken: tuple[str, int] | None = None, written: int = 0) -> None:
        super().__init__(COUNTS["test"])
        self.plain, self.broken_in, self.written = plain, broken, written

    def read(self, split: str) -> Stated:
        broken = self.broken_in[1] if self.broken_in and self.broken_in[0] == split else None
        return Stated(split, plain=self.plain and split == "test", broken=broken)

    @property
    def manifest(self) -> Manifest:
        rows = []
        for split in COUNTS:
            found = Stated(split)
            for i, (report, view) in enumerate(zip(found.reports, found.views, strict=True)):
                own = split == "train" or i >= self.written
                name = f"{split}-{i}"
                rows.append(
                    {
                        "image": f"{name}.png", "image_id": name, "study_id": name, "patient_id": f"{split}-{i // 2}",
                        "view": view, "split": split, "report": report,
                        "report_source": "findings" if own else f"{WRITTEN}ab12",
                    }
                )  # fmt: skip
        return make_manifest(rows, source="tiny")

    def images(self) -> Stated:  # type: ignore[override]
        return self.read("test")

    def split_dataset(self, split: str) -> Rows:
        return Rows(self.read(split))  # type: ignore[arg-type]


class Drawn(TinyStage):
    """Gives the real images back, or mirrors them, or draws nothing, or smooths them."""

    def __init__(self, mode: str = "same") -> None:
        super().__init__()
        self.mode = mode

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"]
        made = {"same": image, "mirrored": image.flip(-1), "blank": torch.zeros_like(image), "smooth": self(image)}
        return {"synthetic": made[self.mode]}


def run(folder: Path, mode: str = "same", *, data: TinyData | None = None, **kwargs: Any) -> tuple[dict, dict]:
    callback = ReportConsistency(RowMeans(), **kwargs)
    t = trainer(folder, [callback])
    t.test(Drawn(mode), data or StatedData(), verbose=False)
    return {key: float(value) for key, value in t.callback_metrics.items()}, callback.protocol()


def seen(images: Tensor, question: str) -> Tensor:
    if question == "severity":
        return RowMeans().features(images).double()
    first, second = completed_halves(images)
    return (RowMeans().features(first) - RowMeans().features(second)).double()


def by_hand(question: str, made: Tensor) -> tuple[float, dict[str, float]]:
    """The answers are read from the words of the reports here; sklearn fits and measures."""
    train, test = Stated("train"), Stated("test")
    names = {"side": {"left": 1, "right": 0}, "severity": {"Large": 1, "Small": 0}}[question]
    ordered, pairs, each = 0.0, 0, {}
    for word in BANDS:
        cases = {}
        for data in (train, test):
            cases[data.split] = [
                (i, names[name])
                for i, (report, view) in enumerate(zip(data.reports, data.views, strict=True))
                for name in [next((n for n in names for s in report.split(".") if word in s and n in s), "")]
                if view != "LATERAL" and name
            ]
        rows, truth = zip(*cases["train"], strict=True)
        features = seen(train.image[list(rows)], question)
        middle = torch.zeros(SIZE) if question == "side" else features.mean(0)
        scale = (features - middle).square().mean(0).sqrt()
        model = LogisticRegression(
            C=1 / (0.03 * len(rows)), solver="newton-cholesky", fit_intercept=question != "side", tol=1e-12
        )
        model.fit(((features - middle) / scale).numpy(), truth)
        rows, truth = zip(*cases["test"], strict=True)
        scores = model.decision_function(((seen(made[list(rows)], question) - middle) / scale).numpy())
        each[word] = roc_auc_score(truth, scores)
        count = sum(truth) * (len(truth) - sum(truth))
        ordered, pairs = ordered + count * each[word], pairs + count
    return ordered / pairs, each


def test_every_figure_is_that_of_sklearn_s_probes(tmp_path: Path):
    got, protocol = run(tmp_path, "smooth")
    real = Stated("test").image
    for question in ("side", "severity"):
        base = f"generator/consistency_{question}"
        pooled = {}
        for name, images in (("real", real), ("synthetic", Drawn()(real).detach())):
            pooled[name], each = by_hand(question, images)
            assert got[f"{base}_{name}"] == pytest.approx(pooled[name], abs=1e-6)
            assert got[f"{base}_{name}_low"] < pooled[name] < got[f"{base}_{name}_high"]
            assert got[f"{base}_{name}/pleural_effusion"] == pytest.approx(each["pleural effusion"], abs=1e-6)
        assert 0.7 < pooled["real"] < 1
        assert got[f"{base}_ratio"] == pytest.approx(pooled["synthetic"] / pooled["real"], abs=1e-6)
        assert got[f"{base}_ratio_chance"] == pytest.approx(0.5 / pooled["real"], abs=1e-6)
        stated = protocol[base]
        assert sum(n for case in stated["cases"].values() for n in case.values()) == got[f"{base}_cases"]
        assert set(stated["training"]["probes"]) == {"Pleural Effusion", "Pneumothorax"}
        assert len(stated["training"]["left_out"]) == 12
    assert {key for part in protocol.values() for key in part["figures"]} == set(got) - {"tiny/error"}


def test_a_mirrored_image_shows_the_other_side_and_the_same_degree(tmp_path: Path):
    same, _ = run(tmp_path / "a")
    mirrored, _ = run(tmp_path / "b", "mirrored")
    blank, _ = run(tmp_path / "c", "blank")
    side, severity = "generator/consistency_side", "generator/consistency_severity"
    assert same[f"{side}_synthetic"] == same[f"{side}_real"] == mirrored[f"{side}_real"]
    assert mirrored[f"{side}_synthetic"] == pytest.approx(1 - same[f"{side}_real"], abs=1e-6)
    assert mirrored[f"{severity}_synthetic"] == pytest.approx(same[f"{severity}_real"], abs=1e-3)
    for base in (side, severity):
        assert same[f"{base}_ratio"] == same[f"{base}_ratio_low"] == 1
        assert blank[f"{base}_synthetic"] == 0.5
        assert blank[f"{base}_ratio"] == blank[f"{base}_ratio_chance"]


def test_findings_with_few_cases_are_left_out_with_their_counts(tmp_path: Path):
    got, protocol = run(tmp_path, min_training=50)
    part = protocol["generator/consistency_side"]
    assert set(part["training"]["probes"]) == set(part["cases"]) == {"Pleural Effusion"}
    assert 20 <= min(part["training"]["left_out"]["Pneumothorax"].values()) < 50
    assert got["generator/consistency_side_real"] == got["generator/consistency_side_real/pleural_effusion"]
    got, protocol = run(tmp_path, min_training=1000)
    assert math.isnan(got["generator/consistency_side_synthetic"])
    reasons = protocol["generator/consistency_side"]["undefined"]
    assert reasons["generator/consistency_side_ratio"] == "no finding has 1000 training cases of each answer"


def test_reports_without_sides_give_no_figure_but_a_reason(tmp_path: Path):
    got, protocol = run(tmp_path, data=StatedData(plain=True))
    base = "generator/consistency_severity"
    assert got[f"{base}_cases"] == 0
    assert math.isnan(got[f"{base}_real"])
    assert protocol[base]["undefined"][f"{base}_real"].startswith("of 0 images no finding with a probe has cases")


def test_probes_that_are_blind_give_no_ratio(tmp_path: Path):
    class Dim(RowMeans):
        def features(self, image: Tensor) -> Tensor:
            return torch.rand(len(image), SIZE, generator=torch.Generator().manual_seed(0))

    callback = ReportConsistency(Dim())
    t = trainer(tmp_path, [callback])
    t.test(Drawn(), StatedData(), verbose=False)
    base = "generator/consistency_side"
    assert 0.2 < float(t.callback_metrics[f"{base}_real"]) < 0.8
    assert math.isnan(float(t.callback_metrics[f"{base}_ratio"]))
    assert "no better than chance" in callback.protocol()[base]["undefined"][f"{base}_ratio"]


def test_texts_of_the_prompter_are_not_asked_of_the_real_images(tmp_path: Path):
    assert NOT_OWN == (WRITTEN, MATCHED)
    own, _ = run(tmp_path, "mirrored")
    got, _ = run(tmp_path, "mirrored", data=StatedData(written=30))
    key = "generator/consistency_side"
    assert got[f"{key}_synthetic"] == own[f"{key}_synthetic"]
    assert got[f"{key}_cases"] == own[f"{key}_cases"]
    assert got[f"{key}_real"] != own[f"{key}_real"]


def test_what_is_broken_or_lacking_is_refused(tmp_path: Path):
    def refused(match: str, error: type[Exception] = ValueError, **kwargs: Any) -> None:
        with pytest.raises(error, match=match):
            run(tmp_path, **kwargs)

    refused("real training image train-12: 1 of 256 values", data=StatedData(broken=("train", 12)))
    refused("real image test-5: 1 of 256 values", data=StatedData(broken=("test", 5)))
    refused("no 'drawn' images", output="drawn")
    refused("takes real training images from CXRDataModule; found TinyData", TypeError, data=TinyData())
    refused("expected at least 1 of each, and a strength above 0", strength=0.0)


def test_the_training_random_numbers_are_not_touched(tmp_path: Path):
    def next_number(callbacks: list) -> Tensor:
        torch.manual_seed(5)
        trainer(tmp_path, callbacks).test(Drawn(), StatedData(), verbose=False)
        return torch.rand(1)

    assert torch.equal(next_number([ReportConsistency(RowMeans())]), next_number([]))


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "padded"), [(2, False), (2, True), (3, False)])
def test_ranks_give_the_figures_of_one(tmp_path: Path, devices: int, padded: bool):
    def measure(folder: Path, **kwargs: Any) -> dict:
        t = trainer(folder, [ReportConsistency(RowMeans()), MetricsFile()], **kwargs)
        t.test(Drawn("smooth"), StatedData(), verbose=False)
        return json.loads((folder / "metrics.json").read_text())

    one = measure(tmp_path / "one")
    many = measure(tmp_path / "many", devices=devices, strategy="ddp_spawn", use_distributed_sampler=padded)
    for name, part in one.pop("protocol")["metrics"].items():
        assert many["protocol"]["metrics"][name] | {"repeated_left_out": 0} == part
    many.pop("protocol")
    assert many == one
