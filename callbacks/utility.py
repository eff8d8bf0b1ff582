"""`SyntheticUtility`: are synthetic images worth anything for training a classifier that is used on real ones?

Small classifiers are trained on real images only, on synthetic only, and on both, by one recipe, and each is tested on
the real test split. What `predict` wrote for training prompts are the synthetic images.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from callbacks.extraction import check_images
from callbacks.grids import publish_picture
from callbacks.logged import log_equal
from callbacks.metrics.auroc import in_macro, multi_label_auroc
from callbacks.metrics.auroc_interval import LEVEL, RESAMPLES, interval, resampled_macros
from callbacks.metrics.bank import id_hash
from callbacks.metrics.labelled import ImageBank, LabelledImages
from callbacks.metrics.ranks import from_all_ranks
from callbacks.metrics.training import Recipe, build, trained_scores, weights_digest
from callbacks.metrics.utility import (
    Cell,
    Estimate,
    counts,
    dealt,
    gain_draws,
    gains,
    grid,
    mean_draws,
    over_seeds,
    training_set,
)
from callbacks.metrics_file import SamplesImages
from callbacks.metrics_json import write_json
from callbacks.protocols import HasTrainingSplit
from callbacks.samples import CHUNK, Samples, read_pictures, read_samples, refuse_leaks, refuse_other_generator
from callbacks.utility_picture import draw_curves
from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS

SCHEMA = 1  # of the files of finished trainings


class Job(NamedTuple):
    """One training."""

    cell: Cell
    seed: int


class Outcome(NamedTuple):
    """What the real test images say of one training."""

    auroc: float  # macro, NaN where no finding is in it
    draws: list[float]  # macros of RESAMPLES draws of patients

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"auroc": _or_none(self.auroc), "draws": [_or_none(value) for value in self.draws]}

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> "Outcome":
        """The inverse of `plain`."""
        auroc, *draws = (math.nan if value is None else value for value in (plain["auroc"], *plain["draws"]))
        return Outcome(auroc, draws)


class SyntheticUtility(Callback):
    """Logs at the end of a test, for each `<cell>` = `<real share>/<synthetic ratio>` of the grid.

    - `<prefix>/utility_auroc/<cell>`: macro AUROC on the real test images, over the findings with at least
      `min_positives` positives and negatives; mean over seeds. `..._low`, `..._high`: Student's 95 % interval of that
      mean. A seed decides the first weights, the order of the images, and which real and synthetic ones are taken.
    - `<prefix>/utility_gain/<cell>`, `..._low`, `..._high`: what the synthetic images add to the same real images, seed
      by seed.

    A generator has seen the whole training split: synthetic images beside 1 % of the real ones say what they would add
    for somebody who is given that 1 % and the generator, not what one learnt from 1 % would be worth.

    Every training has the same number of steps. Those to be done go round the ranks. Each that is finished is kept as
    `<default_root_dir>/utility/*.json`, so that an interrupted test goes on with the others; a change of data, samples,
    classifier or recipe begins anew. `pictures/utility.png` shows the curves, `utility.json` every cell with its
    trainings and where its figure and its gain lie in 95 % of draws of test patients, which are the same for all.

    Args:
        classifier: makes a fresh classifier, see `trained_scores`: a class_path with init_args.
        samples: samples.csv of `predict`, made from training prompts, with its samples.json; every rank reads them.
        real_shares: of the real training images; 0 trains on synthetic images alone.
        synthetic_ratios: synthetic images for each image of the whole real training split; 0 trains on real ones alone.
        seeds: trainings of each cell.
        recipe: of each training.
        prefix: of the metric names.
        min_positives: see above.
        most_real: real training images that are taken at most, and a share of 1 means; bounds memory.

    Raises:
        ValueError: for samples of prompts that are not of the training split, naming one; for images of another size;
            for too few of them; for those of another checkpoint than that of the generator which is tested.
        TypeError: if the datamodule does not tell its splits.
    """

    def __init__(
        self,
        classifier: Callable[[], nn.Module],
        samples: str,
        *,
        real_shares: Sequence[float] = (0.0, 0.01, 0.1, 1.0),
        synthetic_ratios: Sequence[float] = (0.0, 1.0),
        seeds: int = 3,
        recipe: Recipe = Recipe(),  # noqa: B008 - frozen
        prefix: str = "generator",
        min_positives: int = 5,
        most_real: int = 20_000,
    ) -> None:
        if seeds < 1 or most_real < 1:
            raise ValueError(f"seeds {seeds}, most_real {most_real}; expected at least 1")
        self.cells = grid(real_shares, synthetic_ratios)
        self.classifier, self.samples, self.seeds, self.recipe = classifier, samples, seeds, recipe
        self.prefix, self.min_positives, self.most_real = prefix, min_positives, most_real
        self.bank = ImageBank()
        self._table: Samples | None = None
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse samples that leak or are another generator's before the test takes its time; begin with no images."""
        self._protocol, self.bank = {}, ImageBank()
        frame = self._data(trainer).manifest.frame
        self._table = read_samples(self.samples)
        refuse_leaks(self._table, dict(zip(frame["image_id"], frame["split"], strict=True)))
        # While a generator is trained, the trainer's checkpoint is the one that it went on from.
        if isinstance(pl_module, SamplesImages) and trainer.ckpt_path and trainer.state.fn == TrainerFn.TESTING:
            refuse_other_generator(self._table, trainer.ckpt_path)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's real images."""
        images = check_images(batch["image"], what="real", ids=batch["image_id"])
        self.bank.add(images, batch["labels"], ids=batch["image_id"], patients=batch["patient_id"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train, test and log; every rank takes part and logs the same."""
        assert self._table is not None
        sets = {"real": self._training_split(trainer), "synthetic": read_pictures(self._table)}
        sets["test"] = self.bank.gathered()
        self.bank = ImageBank()
        sizes = {name: list(images.pixels.shape[1:]) for name, images in sets.items()}
        if sizes["synthetic"] != sizes["real"] or sizes["test"] != sizes["real"]:
            raise ValueError(
                f"{self.samples}: images of the sizes {sizes}; `predict` and `test` take the same data size"
            )
        for cell in self.cells:
            # Refuses what a ratio lacks, before any training.
            training_set(cell, sets["real"], sets["synthetic"], seed=0)
        outcomes = self._run(trainer, pl_module, sets)
        self._report(trainer, pl_module, sets, outcomes)

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/utility_auroc": self._protocol} if self._protocol else {}

    @staticmethod
    def _data(trainer: Trainer) -> HasTrainingSplit:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, HasTrainingSplit):
            raise TypeError(
                f"SyntheticUtility takes real training images from CXRDataModule; found {type(data).__name__}"
            )
        return data

    def _training_split(self, trainer: Trainer) -> LabelledImages:
        data, bank = self._data(trainer), ImageBank()
        frame, dataset = data.manifest.frame, data.split_dataset("train")
        ids = frame.loc[frame["split"] == "train", "image_id"].tolist()
        taken = sorted(range(len(ids)), key=lambda row: id_hash(ids[row]))[: self.most_real]
        own = taken[trainer.global_rank :: trainer.world_size]
        for start in range(0, len(own), CHUNK):
            batch = dataset[own[start : start + CHUNK]]
            images = check_images(batch["image"], what="real training", ids=batch["image_id"])
            bank.add(images, batch["labels"], ids=batch["image_id"], patients=batch["patient_id"])
        return bank.gathered()

    def _run(
        self, trainer: Trainer, module: LightningModule, sets: dict[str, LabelledImages]
    ) -> dict[Cell, list[Outcome]]:
        folder, identity = Path(trainer.default_root_dir) / "utility", self._identity(sets, module.device)
        # Seed by seed: an interrupted run has all cells of the first seeds.
        jobs = [Job(cell, seed) for seed in range(self.seeds) for cell in self.cells]
        paths = {job: folder / f"{identity[:16]}-{job.cell.share:g}-{job.cell.ratio:g}-{job.seed}.json" for job in jobs}

        def tell(job: Job, outcome: Outcome, took: str) -> None:
            real, synthetic = counts(job.cell, real=len(sets["real"].pixels))
            what = f"{real} real + {synthetic} synthetic images, seed {job.seed}: AUROC {outcome.auroc:.3f}"
            print(f"utility: training {jobs.index(job) + 1} of {len(jobs)}: {what}, {took}", flush=True)

        # Every rank looks, and all know what any has found: they must deal out the same, each its own part of it.
        kept = {job: _read_outcome(path) for job, path in paths.items() if path.is_file()}
        found = {job: outcome for of_rank in from_all_ranks(kept) for job, outcome in of_rank.items()}
        if trainer.is_global_zero:
            for job, outcome in found.items():
                tell(job, outcome, "kept from before")
        own: dict[Job, Outcome] = {}
        for job in dealt(jobs, found, rank=trainer.global_rank, ranks=trainer.world_size):
            began = time.monotonic()
            own[job] = self._train(job, sets, device=module.device)
            write_json(paths[job], {"schema": SCHEMA, "identity": identity, "outcome": own[job].plain()})
            tell(job, own[job], f"{time.monotonic() - began:.0f} s")
        found |= {job: outcome for of_rank in from_all_ranks(own) for job, outcome in of_rank.items()}
        return {cell: [found[Job(cell, seed)] for seed in range(self.seeds)] for cell in self.cells}

    def _train(self, job: Job, sets: dict[str, LabelledImages], *, device: torch.device) -> Outcome:
        test = sets["test"]
        train = training_set(job.cell, sets["real"], sets["synthetic"], seed=job.seed)
        scores = trained_scores(self.classifier, train, test.pixels, recipe=self.recipe, seed=job.seed, device=device)
        macro = multi_label_auroc(scores, test.labels, min_positives=self.min_positives).macro
        draws = resampled_macros([scores], test.labels, groups=test.patients, min_positives=self.min_positives)
        return Outcome(macro, [round(value, 6) for value in draws[0].tolist()])

    def _identity(self, sets: dict[str, LabelledImages], device: torch.device) -> str:
        facts = {
            "schema": SCHEMA,
            "classifier": weights_digest(build(self.classifier, seed=0)),
            "recipe": dataclasses.asdict(self.recipe),
            "min_positives": self.min_positives,
            # Other kernels round differently, and training carries it on.
            "device": device.type,
            "torch": torch.__version__,
            **{name: images.digest() for name, images in sets.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _report(
        self,
        trainer: Trainer,
        module: LightningModule,
        sets: dict[str, LabelledImages],
        outcomes: dict[Cell, list[Outcome]],
    ) -> None:
        aurocs = {cell: [one.auroc for one in of_cell] for cell, of_cell in outcomes.items()}
        estimates = {cell: over_seeds(values) for cell, values in aurocs.items()}
        gained = gains(aurocs)
        values: dict[str, float] = {}
        for name, found in (("utility_auroc", estimates), ("utility_gain", gained)):
            for cell, estimate in found.items():
                for end, value in zip(("", "_low", "_high"), estimate, strict=True):
                    values[f"{self.prefix}/{name}/{cell.name}{end}"] = value
        log_equal(module, values)
        self._protocol = {"figures": sorted(values), **self._describe(sets)}
        missing = [key for key, value in values.items() if math.isnan(value)]
        if missing:
            few = f"no finding has {self.min_positives} positives and negatives among the test images"
            alone = "one seed tells nothing of others; raise seeds"
            included = any(in_macro(sets["test"].labels, min_positives=self.min_positives))
            self._protocol["undefined"] = dict.fromkeys(missing, alone if included else few)
        if trainer.is_global_zero:
            cells = self._cards(outcomes, estimates, gained, sets)
            path = Path(trainer.default_root_dir) / "utility.json"
            write_json(path, {"cells": cells, "protocol": self._protocol})
            publish_picture(draw_curves(estimates), trainer, name="utility", key="utility")

    def _cards(
        self,
        outcomes: dict[Cell, list[Outcome]],
        estimates: dict[Cell, Estimate],
        gained: dict[Cell, Estimate],
        sets: dict[str, LabelledImages],
    ) -> list[dict[str, Any]]:
        draws = {
            cell: mean_draws([torch.tensor(one.draws, dtype=torch.float64) for one in of_cell])
            for cell, of_cell in outcomes.items()
        }
        added = gain_draws(draws)
        cards = []
        for cell in self.cells:
            real, synthetic = counts(cell, real=len(sets["real"].pixels))
            cards.append(
                {
                    **cell._asdict(),
                    "real": real,
                    "synthetic": synthetic,
                    "auroc": _plain(estimates[cell]._asdict()),
                    "gain": _plain(gained[cell]._asdict()) if cell in gained else None,
                    "auroc_of_seeds": [_or_none(one.auroc) for one in outcomes[cell]],
                    "auroc_of_patients": _ends(draws[cell]),
                    "gain_of_patients": _ends(added[cell]) if cell in added else None,
                }
            )
        return cards

    def _describe(self, sets: dict[str, LabelledImages]) -> dict[str, Any]:
        assert self._table is not None
        fresh, test = build(self.classifier, seed=0), sets["test"]
        chosen = in_macro(test.labels, min_positives=self.min_positives)
        return {
            "classifier": {
                "name": type(fresh).__name__,
                "parameters": sum(p.numel() for p in fresh.parameters()),
                "digest_of_seed_0": weights_digest(fresh),
            },
            "recipe": dataclasses.asdict(self.recipe),
            "seeds": list(range(self.seeds)),
            "grid": [cell.name for cell in self.cells],
            "samples": {
                "table": self._table.path.name,
                "sha256": self._table.digest,
                "generator": "unknown" if self._table.origin is None else self._table.origin,
            },
            **{name: {"n": len(one.pixels), "sha256": one.digest()} for name, one in sets.items()},
            "n": len(test.pixels),
            "repeated_left_out": test.repeated,
            "min_positives": self.min_positives,
            "findings": [finding for finding, take in zip(FINDINGS, chosen, strict=True) if take],
            "interval": f"Student's {LEVEL:.0%} over seeds; auroc_of_patients: {RESAMPLES} bootstrap draws of patients",
            "packages": ["scipy"],
        }


def _read_outcome(path: Path) -> Outcome:
    return Outcome.from_plain(json.loads(path.read_text())["outcome"])


def _ends(draws: Tensor) -> dict[str, float | None]:
    return _plain(dict(zip(("low", "high"), interval(draws), strict=True)))


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _or_none(value) for name, value in values.items()}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
