"""PromptMemorisation in real Trainers: known answers, figures by hand, strangers, refusals and ranks."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

from callbacks.memorisation import PromptMemorisation
from callbacks.metrics.bank import id_hash
from callbacks.metrics_file import MetricsFile
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import SIZE, RandomProjection, TinyData, TinyStage, trainer

COUNTS = {"train": 130, "validate": 70}


def noise(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(abs(id_hash(name)) % 2**62)
    return torch.rand(1, SIZE, SIZE, generator=generator) * 2 - 1


class Split:
    """Noise that depends on the image's id; four kinds of labels and two views; two images a patient."""

    def __init__(self, split: str, *, broken: str | None = None) -> None:
        self.split, self.names = split, [f"{split}-{i}" for i in range(COUNTS[split])]
        self.image = torch.stack([noise(name) for name in self.names])
        if broken in self.names:
            self.image[self.names.index(broken), 0, 0, 0] = torch.nan
        generator = torch.Generator().manual_seed(len(split))
        self.labels = torch.full((len(self.names), len(FINDINGS)), torch.nan)
        self.labels[:, 2:4] = torch.randint(2, (len(self.names), 2), generator=generator).float()
        self.labels[::3, 5] = 0.0  # denied or not mentioned: the same
        self.view = torch.randint(2, (len(self.names),), generator=generator)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: list[int]) -> dict[str, Any]:
        names = [self.names[i] for i in chosen]
        return {
            "image": self.image[chosen], "labels": self.labels[chosen], "view": self.view[chosen], "image_id": names,
            "patient_id": [f"{self.split}-patient-{i // 2}" for i in chosen], "report": [f"Of {n}." for n in names],
            "study_id": names, "clues": torch.zeros(len(chosen), 1, 2),
        }  # fmt: skip


class SplitData(TinyData):
    def __init__(self, *, broken: str | None = None) -> None:
        super().__init__(11)
        self.broken_name = broken

    def split_dataset(self, split: str) -> Split:
        return Split(split, broken=self.broken_name)


class Sampler(TinyStage):
    """Samples are noise of the id and seed, or `near` the image that the prompt is of where `near` begins its id."""

    def __init__(self, *, near: tuple[str, ...] = (), spread: float = 0.05) -> None:
        super().__init__()
        self.near, self.spread = near, spread
        self.asked: list[dict[str, Any]] = []

    def sample_again(self, batch: dict[str, Any], *, seed: int) -> Tensor:
        self.asked.append(batch)
        made = []
        for name in batch["image_id"]:
            fresh = noise(f"{seed}/{name}")
            made.append((1 - self.spread) * noise(name) + self.spread * fresh if name.startswith(self.near) else fresh)
        return torch.stack(made) if made else torch.empty(0, 1, SIZE, SIZE)


NOBODY = ("nobody",)


def run(folder: Path, stage: TinyStage, data: TinyData | None = None, **kwargs: Any) -> tuple[dict, dict, dict]:
    callback = PromptMemorisation(RandomProjection(), **({"prompts": 20, "samples": 3} | kwargs))
    t = trainer(folder, [callback])
    t.test(stage, data or SplitData(), verbose=False)
    written = json.loads((folder / "memorisation.json").read_text())
    logged = {key: float(value) for key, value in t.callback_metrics.items() if "memorisation" in key}
    return logged, written, callback.protocol()["generator/memorisation"]


def test_memorised_prompts_stand_out_and_come_first(tmp_path: Path):
    got, written, protocol = run(tmp_path, Sampler(near=("train-",)))
    base = "generator/memorisation"
    assert got[f"{base}_n"] == protocol["n"] == 20
    assert got[f"{base}_training"] > 0.99
    assert got[f"{base}_repeated_training"] > 0.99
    assert abs(got[f"{base}_held_out"] - 0.5) < 0.12
    assert abs(got[f"{base}_repeated_held_out"] - 0.5) < 0.2
    difference = got[f"{base}_training"] - got[f"{base}_held_out"]
    assert got[f"{base}_difference"] == pytest.approx(difference, abs=1e-6)
    assert 0 < got[f"{base}_difference_low"] < difference < got[f"{base}_difference_high"]
    assert {one["split"] for one in written["prompts"][:10]} == {"train"}
    assert set(protocol["figures"]) == set(got)


def test_prompts_that_are_all_treated_alike_give_no_difference(tmp_path: Path):
    faithful, _, _ = run(tmp_path, Sampler(near=("train-", "validate-"), spread=0.3))
    assert faithful["generator/memorisation_held_out"] > 0.8
    assert abs(faithful["generator/memorisation_difference"]) < 0.1
    fresh, _, _ = run(tmp_path, Sampler(near=NOBODY))
    assert abs(fresh["generator/memorisation_training"] - 0.5) < 0.12


def test_every_figure_is_the_mean_over_the_listed_prompts(tmp_path: Path):
    got, written, protocol = run(tmp_path, Sampler(near=("train-",), spread=0.6), seed=5)
    assert written["protocol"] == protocol
    extractor = RandomProjection()
    each: dict[str, list[float]] = {"train": [], "validate": []}
    kinds: dict[str, list[tuple]] = {"train": [], "validate": []}
    splits = {name: Split(name) for name in COUNTS}
    for one in written["prompts"]:
        split = splits[one["split"]]
        own = split.names.index(one["image_id"])
        stated = (split.labels == 1).tolist()
        others = [
            i for i in range(len(split))
            if i // 2 != own // 2 and stated[i] == stated[own] and split.view[i] == split.view[own]
        ]  # fmt: skip
        assert one["compared_with"] == len(others) >= 5
        real = extractor.features(split.image).detach()
        samples = []
        for seed in (5, 6, 7):
            fresh, name = noise(f"{seed}/{one['image_id']}"), one["image_id"]
            samples.append(0.4 * noise(name) + 0.6 * fresh if name.startswith("train") else fresh)
        made = extractor.features(torch.stack(samples)).detach()
        nearer = [float((a - real[i]).norm() > (a - real[own]).norm()) for a in made for i in others]
        assert one["own_nearer"] == pytest.approx(sum(nearer) / len(nearer), abs=1e-5)
        apart = sum((made[a] - made[b]).norm() for a, b in ((0, 1), (0, 2), (1, 2))) / 3
        repeated = sum(float((real[i] - real[own]).norm() > apart) for i in others) / len(others)
        assert one["samples_nearer"] == pytest.approx(repeated, abs=1e-5)
        each[one["split"]].append(one["own_nearer"])
        kinds[one["split"]].append((*stated[own], int(split.view[own])))
    assert sorted(kinds["train"]) == sorted(kinds["validate"])
    for side, split in (("training", "train"), ("held_out", "validate")):
        values = torch.tensor(each[split]).double()
        mean, error = values.mean().item(), student.ppf(0.975, len(values) - 1) * values.std().item()
        error /= math.sqrt(len(values))
        assert got[f"generator/memorisation_{side}"] == pytest.approx(mean, abs=1e-5)
        assert got[f"generator/memorisation_{side}_high"] == pytest.approx(mean + error, abs=1e-5)


def test_a_stranger_brings_neither_patient_nor_clues(tmp_path: Path):
    stage = Sampler(near=NOBODY)
    run(tmp_path, stage)
    assert not any("clues" in batch for batch in stage.asked)
    assert all(name.startswith("unknown-") for batch in stage.asked for name in batch["patient_id"])
    stage = Sampler(near=NOBODY)
    run(tmp_path, stage, stranger=False)
    assert all("clues" in batch for batch in stage.asked)
    assert stage.asked[0]["patient_id"][0].startswith("train-patient-")


def test_without_companions_there_is_no_figure_but_a_reason(tmp_path: Path):
    got, written, protocol = run(tmp_path, Sampler(near=NOBODY), alike=60)
    assert got["generator/memorisation_n"] == 0
    assert math.isnan(got["generator/memorisation_training"])
    assert written["prompts"] == []
    reason = protocol["undefined"]["generator/memorisation_difference_low"]
    assert reason.startswith("0 pairs of prompts have 60 other images")


def test_what_is_broken_or_lacking_is_refused(tmp_path: Path):
    class Broken(Sampler):
        def sample_again(self, batch: dict[str, Any], *, seed: int) -> Tensor:
            return super().sample_again(batch, seed=seed) * torch.nan

    def refused(
        match: str, stage: TinyStage, data: TinyData | None = None, error: type[Exception] = ValueError
    ) -> None:
        with pytest.raises(error, match=match):
            run(tmp_path, stage, data)

    refused(r"sample-0 image train-\d+: 256 of 256 values are not finite", Broken(near=NOBODY))
    refused("training image train-3: 1 of 256 values", Sampler(near=NOBODY), SplitData(broken="train-3"))
    refused("held-out image validate-3: 1 of 256 values", Sampler(near=NOBODY), SplitData(broken="validate-3"))
    refused("TinyStage has no sample_again", TinyStage(), error=TypeError)
    refused("TinyData has no split_dataset", Sampler(), TinyData(), error=TypeError)
    with pytest.raises(ValueError, match="prompts 1, samples 4, alike 5, images 5000; expected at least 2, 2, 1 and 2"):
        PromptMemorisation(RandomProjection(), prompts=1)


def test_the_training_random_numbers_are_not_touched(tmp_path: Path):
    def next_number(callbacks: list) -> Tensor:
        torch.manual_seed(5)
        trainer(tmp_path, callbacks).test(Sampler(near=NOBODY), SplitData(), verbose=False)
        return torch.rand(1)

    assert torch.equal(next_number([PromptMemorisation(RandomProjection(), prompts=4)]), next_number([]))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_ranks_give_the_figures_of_one(tmp_path: Path, devices: int):
    def measure(folder: Path, **kwargs: Any) -> tuple[dict, dict]:
        callback = PromptMemorisation(RandomProjection(), prompts=7, samples=2)
        t = trainer(folder, [callback, MetricsFile()], **kwargs)
        t.test(Sampler(near=("train-",), spread=0.5), SplitData(), verbose=False)
        files = [json.loads((folder / name).read_text()) for name in ("metrics.json", "memorisation.json")]
        return files[0], files[1]

    one, listed = measure(tmp_path / "one")
    many, same = measure(tmp_path / "many", devices=devices, strategy="ddp_spawn", use_distributed_sampler=False)
    assert same == listed
    part = "generator/memorisation"
    assert many.pop("protocol")["metrics"][part] == one.pop("protocol")["metrics"][part]
    assert {k: v for k, v in many.items() if "tiny" not in k} == {k: v for k, v in one.items() if "tiny" not in k}
