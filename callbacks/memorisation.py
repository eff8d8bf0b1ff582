"""`PromptMemorisation`: does the prompt of a training image bring this image back, more than a new prompt does its own?

Prompts of the training and of the validation split are paired by their findings and view. Each is sampled several
times, and the samples are compared with the prompt's own image and with other real images of its split that have the
same findings and view. P pairs of prompts, S samples of each, D features.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.diversity import SamplesPrompts, joined
from callbacks.extraction import CHUNK, check_images, describe, extract
from callbacks.logged import log_equal
from callbacks.metrics.bank import RowBank, id_hash
from callbacks.metrics.memorisation import exact_distances, matched_prompts, own_nearer, samples_nearer
from callbacks.metrics.pairs import mean_of
from callbacks.metrics.ranks import from_all_ranks
from callbacks.metrics_json import write_json
from callbacks.protocols import FeatureExtractor, HasSplits, SplitDataset, as_feature_extractor
from callbacks.reading import BLOCK, drawn
from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS

SPLITS = {"training": "train", "held_out": "validate"}  # name in the figures → split
SCHEMA = 1  # of memorisation.json


class Reals(NamedTuple):
    """Real images of a split, on the CPU, in the order of their ids' hashes."""

    features: Tensor  # float32 [N,D]
    labels: Tensor  # float32 [N,15], whether each finding is stated, and the view
    places: list[int]  # rows of the split
    patients: Tensor  # int64 [N]
    keys: Tensor  # int64 [N], the ids' hashes


class PromptMemorisation(Callback):
    """Logs means over prompts at the end of a test. With `<p>` = `<prefix>/memorisation` and `<side>` = "training",
    "held_out".

    - `<p>_<side>`: of other real images with the same findings and view, the share that lies farther from a sample than
      the prompt's own image; 0.5 is chance, and a report says more than its findings. `<p>_difference`: training minus
      held-out, pair by pair; near 0 the images that the generator was trained on are treated as others are.
    - `<p>_repeated_<side>`, `<p>_repeated_difference`: the same of the share that lies farther from the own image than
      the prompt's samples lie from one another, see `samples_nearer`; 1 where they are all alike.
    - each with `_low` and `_high`, Student's 95 % interval over prompts or pairs, and `<p>_n`, the number of pairs.

    It writes `memorisation.json` with the prompts by their image ids, those whose samples are nearest to their own
    image first. The file names training images: keep it where they may lie.

    Args:
        extractor: a `FeatureExtractor`, kept here, outside of the module and its checkpoints.
        prefix: of the metric names.
        prompts: most pairs of prompts, each of a patient of its own.
        samples: of each prompt, at least 2.
        alike: least other real images of the prompt's findings and view.
        images: most images of each split that are compared with, drawn by seed; bounds memory.
        stranger: prompts come from somebody who knows the text alone: without the patient's id and cached clues, so
            that a module that looks for material of the patient finds it. False: as `test` asks.
        seed: of the draws and of the samples.

    Raises:
        TypeError: if the module cannot draw prompts again, or the datamodule does not tell its splits.
        ValueError: for images or features that are not finite, naming the image.
    """

    def __init__(
        self,
        extractor: nn.Module,
        *,
        prefix: str = "generator",
        prompts: int = 64,
        samples: int = 4,
        alike: int = 5,
        images: int = 5000,
        stranger: bool = True,
        seed: int = 0,
    ) -> None:
        if prompts < 2 or samples < 2 or alike < 1 or images < 2:
            raise ValueError(
                f"prompts {prompts}, samples {samples}, alike {alike}, images {images}; expected at least 2, 2, 1 and 2"
            )
        self.module, self.prefix = extractor, prefix
        self.prompts, self.samples, self.alike = prompts, samples, alike
        self.images, self.stranger, self.seed = images, stranger, seed
        self.extractor: FeatureExtractor
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse before the test takes its time what cannot be measured; freeze the extractor."""
        self.extractor, self._protocol = as_feature_extractor(self.module), {}
        self.module.to(pl_module.device)
        data = getattr(trainer, "datamodule", None)
        for thing, kind, verb in (
            (pl_module, SamplesPrompts, "sample_again(batch, seed)"),
            (data, HasSplits, "split_dataset(split)"),
        ):
            if not isinstance(thing, kind):
                raise TypeError(f"{self.prefix}/memorisation: {type(thing).__name__} has no {verb}")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the prompts, sample them, compare and log; every rank takes part and logs the same."""
        data: HasSplits = trainer.datamodule  # type: ignore[attr-defined]
        splits = {side: data.split_dataset(split) for side, split in SPLITS.items()}
        reals = {side: self._read(trainer, split, pl_module.device, side) for side, split in splits.items()}
        known = torch.cat([one.labels for one in reals.values()]).unique(dim=0, return_inverse=True)[1]
        numbers = dict(zip(reals, known.split([len(one.labels) for one in reals.values()]), strict=True))
        training, held_out = ((numbers[side], reals[side].patients) for side in SPLITS)
        pairs = matched_prompts(training, held_out, most=self.prompts, least=self.alike, seed=self.seed)
        values: dict[str, Tensor] = {}
        listed: list[dict[str, Any]] = []
        for at, side in enumerate(SPLITS):
            rows = torch.tensor([pair[at] for pair in pairs], dtype=torch.int64)
            samples, names = self._sample(trainer, pl_module, splits[side], reals[side], rows.tolist())
            real, number = reals[side], numbers[side]
            alike = (number[rows][:, None] == number) & (real.patients[rows][:, None] != real.patients)
            each = [one.repeat_interleave(self.samples, 0) for one in (rows, alike)]
            distances = exact_distances(samples.flatten(0, 1), real.features)
            nearer = own_nearer(distances, *each).view(-1, self.samples).mean(1)
            repeated = samples_nearer(samples, real.features[rows], real.features, alike)
            values |= {side: nearer, f"repeated_{side}": repeated}
            for name, near, again, count in zip(names, nearer.tolist(), repeated.tolist(), alike.sum(1), strict=True):
                described = {
                    "image_id": name,
                    "split": SPLITS[side],
                    "own_nearer": round(near, 6),
                    "samples_nearer": round(again, 6),
                }
                listed.append(described | {"compared_with": int(count)})
        for kind in ("", "repeated_"):
            values[f"{kind}difference"] = values[f"{kind}training"] - values[f"{kind}held_out"]
        log_equal(pl_module, self._state(values, {side: len(one.keys) for side, one in reals.items()}))
        if trainer.is_global_zero:
            listed.sort(key=lambda one: (-one["own_nearer"], -one["samples_nearer"], one["image_id"]))
            document = {"schema": SCHEMA, "protocol": self._protocol, "prompts": listed}
            write_json(Path(trainer.default_root_dir) / "memorisation.json", document)

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/memorisation": self._protocol} if self._protocol else {}

    def _read(self, trainer: Trainer, split: SplitDataset, device: torch.device, side: str) -> Reals:
        width = self.extractor.num_features
        bank = RowBank(width + len(FINDINGS) + 2).to(device)
        bank.start()  # on the device, so that a rank without images gathers a tensor that its backend can send
        own = drawn(len(split), self.images, seed=self.seed)[trainer.global_rank :: trainer.world_size]
        for start in range(0, len(own), BLOCK):
            places = own[start : start + BLOCK]
            batch = split[places]
            ids, what = batch["image_id"], side.replace("_", "-")
            images = check_images(batch["image"].to(device), what=what, ids=ids)
            features = extract(self.extractor, images, method="features", what=what, ids=ids)
            # Not stated counts as denied: nearly no two real reports deny the same.
            facts = [
                (batch["labels"] == 1).float(),
                batch["view"][:, None].float(),
                torch.tensor(places)[:, None].float(),
            ]
            bank.update(torch.cat([features, torch.cat(facts, dim=1).to(device)], dim=1), ids, batch["patient_id"])
        rows = bank.compute()
        features, labels, places = rows.values.split([width, len(FINDINGS) + 1, 1], dim=1)
        return Reals(features, labels, places[:, 0].long().tolist(), rows.groups, rows.keys)

    def _sample(
        self, trainer: Trainer, module: LightningModule, split: SplitDataset, reals: Reals, rows: list[int]
    ) -> tuple[Tensor, list[str]]:
        # Features [P,S,D] of the samples of these rows of `reals`, and their image ids; the ranks share the prompts.
        assert isinstance(module, SamplesPrompts)
        bank = RowBank(self.samples * self.extractor.num_features).to(module.device)
        bank.start()
        own, names = rows[trainer.global_rank :: trainer.world_size], dict[int, str]()
        for start in range(0, len(own), CHUNK):
            batch = split[[reals.places[row] for row in own[start : start + CHUNK]]]
            ids, patients = list(batch["image_id"]), list(batch["patient_id"])
            batch = joined([unknown(batch) if self.stranger else batch], device=module.device)
            features = []
            for number in range(self.samples):
                with torch.no_grad():
                    again = module.sample_again(batch, seed=self.seed + number)
                images = check_images(again, what=f"sample-{number}", ids=ids)
                features.append(extract(self.extractor, images, method="features", what=f"sample-{number}", ids=ids))
            bank.update(torch.cat(features, dim=1), ids, patients)
            names |= {id_hash(name): name for name in ids}
        found = bank.compute()
        known = {key: name for part in from_all_ranks(names) for key, name in part.items()}
        place = {key: at for at, key in enumerate(found.keys.tolist())}
        keys = [int(reals.keys[row]) for row in rows]
        samples = found.values[[place[key] for key in keys]].view(len(rows), self.samples, self.extractor.num_features)
        return samples, [known[key] for key in keys]

    def _state(self, values: dict[str, Tensor], images: dict[str, int]) -> dict[str, float]:
        base, n = f"{self.prefix}/memorisation", len(values["training"])
        figures = {f"{base}_n": float(n)}
        for name, each in values.items():
            for end, value in zip(("", "_low", "_high"), mean_of(each), strict=True):
                figures[f"{base}_{name}{end}"] = value
        self._protocol = {
            "figures": sorted(figures),
            "extractor": describe(self.extractor),
            "n": n,
            "prompts": f"at most {self.prompts} pairs of a training and a held-out one with equal findings and view",
            "samples": self.samples,
            "alike": self.alike,
            "images": {SPLITS[side]: count for side, count in images.items()},
            "stranger": self.stranger,
            "seed": self.seed,
            "interval": "Student's 95 % over prompts, or over pairs",
            "packages": [],
        }
        if undefined := [key for key, value in figures.items() if math.isnan(value)]:
            few = f"{n} pairs of prompts have {self.alike} other images each of their findings and view in their split"
            self._protocol["undefined"] = dict.fromkeys(undefined, few)
        return figures


def unknown(batch: Batch) -> Batch:
    """The batch as somebody asks who knows its texts and views alone."""
    kept = {key: value for key, value in batch.items() if key not in ("codes", "clues")}
    return kept | {"patient_id": [f"unknown-{name}" for name in batch["image_id"]]}  # type: ignore[return-value]
