"""SyntheticUtility in real Trainers: known answers, refusals, resuming, ranks."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from callbacks.metrics.auroc import multi_label_auroc
from callbacks.metrics.labelled import ImageBank
from callbacks.metrics.training import Recipe, trained_scores
from callbacks.metrics_file import MetricsFile
from callbacks.utility import SyntheticUtility
from datamodules.manifest import Batch
from tests.callbacks.chain import Images, TinyStage, trainer
from tests.callbacks.utility_case import RowReader, SplitData, TrainingImages, copies, write_samples

RECIPE = Recipe(steps=100, batch=16, lr=0.05, shift=0)


def callback(samples: Path, **kwargs: object) -> SyntheticUtility:
    given = {"real_shares": [0.0, 1.0], "synthetic_ratios": [0.0, 1.0], "seeds": 2, "recipe": RECIPE} | kwargs
    return SyntheticUtility(RowReader, str(samples), **given)  # type: ignore[arg-type]


def run(folder: Path, samples: Path, *, data: SplitData | None = None, **kwargs: object) -> dict[str, float]:
    t = trainer(folder, [callback(samples, **kwargs)])
    t.test(TinyStage(), data or SplitData(), verbose=False)
    return {k: float(v) for k, v in t.callback_metrics.items() if "utility" in k}


def test_copies_of_the_real_images_are_worth_as_much_as_these(tmp_path: Path):
    got = run(tmp_path, copies(tmp_path / "samples"), seeds=3)
    real, synthetic, both = (got[f"generator/utility_auroc/{cell}"] for cell in ("1/0", "0/1", "1/1"))
    assert real > 0.75
    assert synthetic == pytest.approx(real, abs=0.02)
    assert both == pytest.approx(real, abs=0.02)
    assert got["generator/utility_gain/1/1"] == pytest.approx(both - real, abs=1e-6)
    assert "generator/utility_gain/0/1" not in got  # nothing to compare with
    assert got["generator/utility_auroc/1/0_low"] < real < got["generator/utility_auroc/1/0_high"]


@pytest.mark.parametrize("kind", ["shuffled labels", "noise"])
def test_samples_that_say_nothing_of_their_labels_teach_nothing(tmp_path: Path, kind: str):
    data, generator = TrainingImages(120), torch.Generator().manual_seed(0)
    images, labels = data.image, data.labels
    if kind == "noise":
        images = torch.rand(images.shape, generator=generator) * 2 - 1
    else:
        labels = labels[torch.randperm(120, generator=generator)]
    samples = write_samples(tmp_path / "s", images, labels, sources=[f"train-{i}" for i in range(120)])
    got = run(tmp_path, samples, data=SplitData(200), real_shares=[0.0], synthetic_ratios=[1.0], seeds=3)
    assert got["generator/utility_auroc/0/1"] == pytest.approx(0.5, abs=0.06)


def test_a_cell_is_the_auroc_of_its_training_and_more_real_images_help(tmp_path: Path):
    samples = copies(tmp_path / "samples")
    got = run(tmp_path, samples, real_shares=[0.05, 1.0], synthetic_ratios=[0.0], seeds=1)
    test, train = ImageBank(), ImageBank()
    for bank, data, name in ((test, Images(60), "image"), (train, TrainingImages(120), "train")):
        rows = [data[i] for i in range(len(data))]
        ids = [f"{name}-{i}" for i in range(len(data))]
        bank.add(data.image, data.labels, ids=ids, patients=[row["patient_id"] for row in rows])
    real, held_out = train.alone(), test.alone()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    for share, count in (("0.05", 6), ("1", 120)):
        own = real._replace(pixels=real.pixels[order[:count]], labels=real.labels[order[:count]])
        scores = trained_scores(RowReader, own, held_out.pixels, recipe=RECIPE, seed=0, device=torch.device("cpu"))
        expected = multi_label_auroc(scores, held_out.labels, min_positives=5).macro
        assert got[f"generator/utility_auroc/{share}/0"] == pytest.approx(expected, abs=1e-6)
    assert got["generator/utility_auroc/1/0"] > got["generator/utility_auroc/0.05/0"] + 0.1
    assert math.isnan(got["generator/utility_auroc/1/0_low"])


def test_what_is_written_says_how_it_was_made(tmp_path: Path):
    one = callback(copies(tmp_path / "samples"))
    trainer(tmp_path, [one, MetricsFile()]).test(TinyStage(), SplitData(), verbose=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    stated = metrics["protocol"]["metrics"]["generator/utility_auroc"]
    assert stated["figures"] == sorted(key for key in metrics if "utility" in key)
    assert stated["classifier"]["name"] == "RowReader"
    assert stated["classifier"]["parameters"] == 16 * 14 + 14
    assert stated["recipe"] == {"steps": 100, "batch": 16, "lr": 0.05, "weight_decay": 0.05, "shift": 0}
    assert stated["seeds"] == [0, 1]
    assert {name: stated[name]["n"] for name in ("real", "synthetic", "test")} == {
        "real": 120, "synthetic": 120, "test": 60,
    }  # fmt: skip
    assert stated["samples"]["table"] == "samples.csv"
    assert stated["samples"]["generator"] == "unknown"  # there is no samples.json
    cells = json.loads((tmp_path / "utility.json").read_text())["cells"]
    assert [(c["share"], c["ratio"], c["real"], c["synthetic"]) for c in cells] == [
        (0, 1, 0, 120), (1, 0, 120, 0), (1, 1, 120, 120),
    ]  # fmt: skip
    for cell in cells:
        assert cell["auroc"]["mean"] == pytest.approx(sum(cell["auroc_of_seeds"]) / 2)
        assert cell["auroc_of_patients"]["low"] < cell["auroc"]["mean"] < cell["auroc_of_patients"]["high"]
    assert [cell["gain_of_patients"] for cell in cells[:2]] == [None, None]
    kept = {path.stem.split("-", 1)[1]: json.loads(path.read_text()) for path in (tmp_path / "utility").glob("*.json")}
    both, alone = (
        np.mean([kept[f"{cell}-{seed}"]["outcome"]["draws"] for seed in (0, 1)], axis=0) for cell in ("1-1", "1-0")
    )
    expected = np.quantile(both - alone, [0.025, 0.975])
    assert list(cells[2]["gain_of_patients"].values()) == pytest.approx(expected)
    assert list(cells[2]["gain_of_patients"]) == ["low", "high"]
    with Image.open(tmp_path / "pictures" / "utility.png") as picture:
        assert np.unique(np.asarray(picture).reshape(-1, 3), axis=0).shape[0] > 3


def test_too_few_positives_leave_undefined_figures_with_a_reason(tmp_path: Path):
    one = callback(copies(tmp_path / "samples"), min_positives=50, synthetic_ratios=[0.0], real_shares=[1.0])
    trainer(tmp_path, [one, MetricsFile()]).test(TinyStage(), SplitData(), verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["generator/utility_auroc/1/0"] is None
    reason = "no finding has 50 positives and negatives among the test images"
    assert written["protocol"]["undefined"]["generator/utility_auroc/1/0"] == reason


@pytest.mark.parametrize(("source", "what"), [("image-7", "is of the test split"), ("other", "is not in this data")])
def test_samples_of_prompts_outside_the_training_split_are_refused(tmp_path: Path, source: str, what: str):
    data = TrainingImages(3)
    samples = write_samples(tmp_path / "s", data.image, data.labels, sources=["train-0", source, "train-2"])
    with pytest.raises(
        ValueError, match=rf"{source}\.png was made from the report of image {source}, which {what}.*1 of 3"
    ):
        run(tmp_path, samples)


class Drawing(TinyStage):
    """A generator, as far as callbacks know one."""

    def sampling_protocol(self) -> dict[str, int]:
        return {"steps": 3}


def write_origin(samples: Path, checkpoint: Path | None, **changes: object) -> dict[str, object]:
    """samples.json as `predict` writes it; what of it a protocol states."""
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest() if checkpoint else None
    origin: dict[str, object] = {"checkpoint": {"name": "a.ckpt", "sha256": digest}, "sampling": {"steps": 3}}
    table = hashlib.sha256(samples.read_bytes()).hexdigest()
    written = {"schema": 1, **origin, "table_sha256": table} | changes
    samples.with_name("samples.json").write_text(json.dumps(written))
    return origin


def test_a_generator_is_only_tested_with_samples_of_its_own(tmp_path: Path):
    samples = copies(tmp_path / "samples")
    checkpoints = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for epochs, checkpoint in enumerate(checkpoints):
        t = trainer(tmp_path, [], max_epochs=epochs + 1)
        t.fit(Drawing(), SplitData())
        t.save_checkpoint(checkpoint)
    origin = write_origin(samples, checkpoints[0])

    def stated(stage: TinyStage, checkpoint: Path | None) -> object:
        one = callback(samples, seeds=1, real_shares=[0.0], synthetic_ratios=[1.0])
        trainer(tmp_path, [one]).test(stage, SplitData(), ckpt_path=checkpoint, verbose=False, weights_only=True)
        return one.protocol()["generator/utility_auroc"]["samples"]["generator"]

    assert stated(Drawing(), checkpoints[0]) == origin
    assert stated(TinyStage(), checkpoints[1]) == origin  # another stage is tested beside them
    assert stated(Drawing(), None) == origin  # weights of no file
    made, tested = (hashlib.sha256(checkpoint.read_bytes()).hexdigest() for checkpoint in checkpoints)
    expected = rf"sha256 {made}, .* has {tested}; .*`python main\.py predict .* --ckpt_path=\S+/b\.ckpt`"
    with pytest.raises(ValueError, match=expected):
        stated(Drawing(), checkpoints[1])
    write_origin(samples, None)
    assert stated(Drawing(), checkpoints[1]) == {"checkpoint": {"name": "a.ckpt", "sha256": None}} | {
        "sampling": {"steps": 3}
    }


def test_a_samples_json_of_another_table_or_schema_is_refused(tmp_path: Path):
    samples = copies(tmp_path / "samples", train=3)
    write_origin(samples, None, table_sha256="0" * 64)
    with pytest.raises(
        ValueError, match=r"samples\.json describes a table of sha256 0{64}, the samples\.csv beside it"
    ):
        run(tmp_path, samples)
    write_origin(samples, None, schema=2)
    with pytest.raises(ValueError, match=r"samples\.json: schema 2, expected 1; let `python main\.py predict"):
        run(tmp_path, samples)
    samples.with_name("samples.json").write_text("{")
    with pytest.raises(ValueError, match=r"samples\.json: no valid JSON"):
        run(tmp_path, samples)


def test_too_few_samples_a_broken_picture_and_another_size_are_named(tmp_path: Path):
    samples = copies(tmp_path / "s", train=30)
    with pytest.raises(ValueError, match=r"1 asks for 120 synthetic images .* there are 30; .* ratios up to 0\.25"):
        run(tmp_path, samples)
    Image.fromarray(np.zeros((8, 16), dtype=np.uint8)).save(tmp_path / "s" / "train-11.png")
    with pytest.raises(ValueError, match=r"train-11\.png: \(8, 16\) pixels, the others \(16, 16\)"):
        run(tmp_path, samples)
    (tmp_path / "s" / "train-11.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"train-11\.png: cannot be read"):
        run(tmp_path, samples)
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist; `python main.py predict"):
        run(tmp_path, tmp_path / "none.csv")
    table = pd.read_csv(samples)
    table["Edema"] = table["Edema"].astype(object)
    table.loc[4, "Edema"] = "-1"
    table.to_csv(samples, index=False)
    with pytest.raises(ValueError, match=r"samples\.csv: row 6: Edema is '-1'; expected 1, 0 or empty"):
        run(tmp_path, samples)


def test_finished_trainings_are_kept_until_something_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    samples = copies(tmp_path / "samples")
    first = run(tmp_path, samples)
    files = sorted((tmp_path / "utility").glob("*.json"))
    assert len(files) == 6
    files[0].unlink()  # as if it had been interrupted
    capsys.readouterr()
    again = run(tmp_path, samples)
    assert capsys.readouterr().out.count("kept from before") == 5
    assert again == first
    run(tmp_path, samples, recipe=Recipe(steps=101, batch=16, lr=0.05, shift=0))
    assert "kept from before" not in capsys.readouterr().out


def test_the_process_s_generators_are_left_alone(tmp_path: Path):
    one = callback(copies(tmp_path / "samples"), seeds=1)
    seen: list[torch.Tensor] = []

    class Watched(TinyStage):
        def test_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:  # type: ignore[override]
            made = super().test_step(batch, batch_idx)  # type: ignore[arg-type]
            seen[:] = [torch.random.get_rng_state()]
            return made

        def on_test_end(self) -> None:
            seen.append(torch.random.get_rng_state())

    trainer(tmp_path, [one]).test(Watched(), SplitData(), verbose=False)
    assert torch.equal(*seen)


@pytest.mark.slow
def test_two_and_three_ranks_equal_one(tmp_path: Path):
    samples = copies(tmp_path / "samples")

    def measure(ranks: int) -> dict:
        folder = tmp_path / str(ranks)
        strategy = {"devices": ranks, "strategy": "ddp_spawn", "use_distributed_sampler": False} if ranks > 1 else {}
        t = trainer(folder, [callback(samples, seeds=2), MetricsFile()], **strategy)
        t.test(TinyStage(), SplitData(37), verbose=False)
        return json.loads((folder / "metrics.json").read_text()) | {
            "cells": json.loads((folder / "utility.json").read_text())["cells"]
        }

    one = measure(1)
    for ranks in (2, 3):
        other = measure(ranks)
        assert other.pop("protocol")["world_size"] == ranks
        for key, value in one.items():
            if key not in ("tiny/error", "protocol"):
                assert other[key] == value, key
