"""`ReportConsistency`: does a synthetic image show a finding on the side, and of the degree, that its prompt states?

Labels say neither. For each finding a linear probe learns the answer from real training images, and is asked it of the
test batches' real images and of the step's images. B images, D features, F = 14 findings.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.downstream import slug
from callbacks.extraction import check_images, describe, extract, images_of
from callbacks.logged import log_equal
from callbacks.metrics.auroc import class_counts, in_macro
from callbacks.metrics.auroc_interval import LEVEL, RESAMPLES, interval
from callbacks.metrics.bank import RowBank, Rows, id_hash
from callbacks.metrics.pooled_auroc import pooled_auroc, resampled_pooled
from callbacks.metrics.probes import STRENGTH, Probe, completed_halves, fit_probe
from callbacks.metrics.stated import MEANING, QUESTIONS, stated
from callbacks.protocols import FeatureExtractor, HasTrainingSplit, as_feature_extractor
from callbacks.reading import BLOCK
from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS, FRONTAL_VIEWS, VIEWS

# How the report_source of a text begins that is not of the image beside it: the prompter's, another patient's.
NOT_OWN = ("prompter:", "matched")
SEEN = {
    "side": "features of the two halves of an image, each completed by its mirror image, first minus second",
    "severity": "features of the image",
}


class ReportConsistency(Callback):
    """Logs at the end of a test. With `<p>` = `<prefix>/consistency_<question>`, of "side" and "severity".

    - `<p>_real`, `<p>_<output>`: AUROC of the probes against what the reports state, over the pairs of cases of one
      finding (see `pooled_auroc`); 0.5 is chance. `..._low`, `..._high`: 95 % of draws of as many patients.
    - `<p>_ratio`, `..._low`, `..._high`: `output` over real; `<p>_ratio_chance`: what images that show nothing of it
      would reach (0.5 over real). Undefined where the probes tell real images no better than chance.
    - `<p>_real/<finding>`, `<p>_<output>/<finding>`: of findings with at least `min_cases` of each answer.
    - `<p>_cases`: of the prompts, over all findings that have a probe.

    Only frontal images count, and reports that are of the image beside them: a prompt that the prompter wrote is asked
    of the synthetic image alone. A finding without a probe is named with its training cases in the protocol.

    Args:
        extractor: a `FeatureExtractor`, kept here, outside of the module and its checkpoints.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        min_training: a finding has a probe with so many training cases of each answer.
        min_cases: see above.
        most_training: training images whose reports are read at most; bounds time and memory.
        strength: see `fit_probe`.

    Raises:
        TypeError: if the datamodule does not tell its splits.
        ValueError: for images or features that are not finite, naming the image.
    """

    def __init__(
        self,
        extractor: nn.Module,
        *,
        output: str = "synthetic",
        prefix: str = "generator",
        min_training: int = 20,
        min_cases: int = 10,
        most_training: int = 20_000,
        strength: float = STRENGTH,
    ) -> None:
        if min(min_training, min_cases, most_training) < 1 or not strength > 0:
            raise ValueError(
                f"min_training {min_training}, min_cases {min_cases}, most_training {most_training}, strength "
                f"{strength}; expected at least 1 of each, and a strength above 0"
            )
        self.module = extractor
        self.output, self.prefix = output, prefix
        self.min_training, self.min_cases = min_training, min_cases
        self.most_training, self.strength = most_training, strength
        self.extractor: FeatureExtractor
        self.not_own: set[str] = set()
        self.probes: dict[str, dict[int, Probe]] = {}  # question → column of FINDINGS
        self.banks: dict[str, RowBank] = {}
        self._trained: dict[str, dict[str, Any]] = {}
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the extractor, fit the probes, each rank seeing its share of the images; begin with empty banks."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, HasTrainingSplit):
            raise TypeError(
                f"ReportConsistency takes real training images from CXRDataModule; found {type(data).__name__}"
            )
        self.extractor, self._protocol = as_feature_extractor(self.module), {}
        self.module.to(pl_module.device)
        frame = data.manifest.frame
        self.not_own = set(frame.loc[frame["report_source"].str.startswith(NOT_OWN), "image_id"])
        learnt = self._training_cases(trainer, data, pl_module.device)
        self.probes, self._trained = {}, {}
        for question in QUESTIONS:
            self._fit(question, learnt[question])
            self.banks[question] = RowBank(4 * len(FINDINGS)).to(pl_module.device)
            self.banks[question].start()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask the probes of the batch's real images and of the step's images."""
        ids, patients = batch["image_id"], batch["patient_id"]
        real = check_images(batch["image"], what="real", ids=ids)
        made = images_of(outputs, key=self.output, like=real, ids=ids)
        views = [VIEWS[view] for view in batch["view"].tolist()]
        answers = answers_of(batch["report"], views)
        of_real = answers.clone()
        of_real[[name in self.not_own for name in ids]] = torch.nan
        for at, question in enumerate(QUESTIONS):
            asked = [row for row in range(len(ids)) if not bool(answers[row, at].isnan().all())]
            if asked:
                names = [ids[row] for row in asked]
                scores = [
                    self._scores(question, images[asked], what=what, ids=names)
                    for images, what in ((real, "real"), (made, self.output))
                ]
                rows = torch.cat([*scores, of_real[asked, at], answers[asked, at]], dim=1).float()
                self.banks[question].update(rows.to(pl_module.device), names, [patients[row] for row in asked])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and log; every rank takes part and logs the same."""
        for question in QUESTIONS:
            log_equal(pl_module, self._measure(question, self.banks[question].compute()))
        self.banks, self.probes, self.not_own = {}, {}, set()

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return self._protocol

    def _training_cases(self, trainer: Trainer, data: HasTrainingSplit, device: torch.device) -> dict[str, Rows]:
        # Of each question, features and answers of the training images whose reports answer it.
        banks = {question: RowBank(self.extractor.num_features + len(FINDINGS)).to(device) for question in QUESTIONS}
        for bank in banks.values():
            bank.start()  # on the device, so that a rank without cases gathers a tensor that its backend can send
        frame, dataset = data.manifest.frame, data.split_dataset("train")
        train = frame[frame["split"] == "train"]
        ids, views, reports = (train[name].tolist() for name in ("image_id", "view", "report"))
        taken = sorted(range(len(ids)), key=lambda row: id_hash(ids[row]))[: self.most_training]
        own = [row for row in taken[trainer.global_rank :: trainer.world_size] if ids[row] not in self.not_own]
        for start in range(0, len(own), BLOCK):
            block = own[start : start + BLOCK]
            answers = answers_of([reports[row] for row in block], [views[row] for row in block])
            asked = (~answers.isnan()).any(2)  # B 2
            if not bool(asked.any()):
                continue
            kept = asked.any(1).nonzero()[:, 0].tolist()
            batch = dataset[[block[row] for row in kept]]
            images = check_images(batch["image"].to(device), what="real training", ids=batch["image_id"])
            answers, asked = answers[kept], asked[kept]
            for at, (question, bank) in enumerate(banks.items()):
                rows = asked[:, at].nonzero()[:, 0].tolist()
                if rows:
                    names, patients = ([batch[key][row] for row in rows] for key in ("image_id", "patient_id"))
                    features = seen(self.extractor, images[rows], question=question, what="real training", ids=names)
                    bank.update(torch.cat([features, answers[rows, at].to(features.device)], dim=1), names, patients)
        return {question: bank.compute() for question, bank in banks.items()}

    def _fit(self, question: str, learnt: Rows) -> None:
        features, labels = learnt.values.split([self.extractor.num_features, len(FINDINGS)], dim=1)
        chosen = in_macro(labels, min_positives=self.min_training)
        self.probes[question] = {}
        for column in (f for f, take in enumerate(chosen) if take):
            known = ~labels[:, column].isnan()
            self.probes[question][column] = fit_probe(
                features[known], labels[known, column], odd=question == "side", strength=self.strength
            )
        self._trained[question] = {
            "n": len(labels),
            "most": self.most_training,
            "probes": counts_of(labels, [column for column, take in enumerate(chosen) if take]),
            "left_out": counts_of(labels, [column for column, take in enumerate(chosen) if not take]),
        }

    def _scores(self, question: str, images: Tensor, *, what: str, ids: Sequence[str]) -> Tensor:
        """Float64 [B,F] on the CPU, NaN where a finding has no probe."""
        rows = seen(self.extractor, images, question=question, what=what, ids=ids)
        scores = torch.full((len(rows), len(FINDINGS)), torch.nan, dtype=torch.float64)
        for column, probe in self.probes[question].items():
            scores[:, column] = probe.scores(rows)
        return scores

    def _measure(self, question: str, rows: Rows) -> dict[str, float]:
        base, sides = f"{self.prefix}/consistency_{question}", ("real", self.output)
        columns = rows.values.split(len(FINDINGS), dim=1)
        scores = list(columns[:2])
        probed = torch.tensor([f in self.probes[question] for f in range(len(FINDINGS))])
        labels = [torch.where(probed, side, torch.nan) for side in columns[2:]]
        draws = resampled_pooled(scores, labels, groups=rows.groups)
        real, made = (pooled_auroc(one, truth).item() for one, truth in zip(scores, labels, strict=True))
        ends = interval(draws[0])
        blind = not ends[0] > 0.5
        ratio = math.nan if blind else made / real
        ratios = torch.full_like(draws[0], torch.nan) if blind else draws[1] / draws[0]
        values = {
            f"{base}_cases": float((~labels[1].isnan()).sum()),
            f"{base}_ratio_chance": 0.5 / real if real else math.nan,
        }
        for name, value, drawn in (("real", real, draws[0]), (self.output, made, draws[1]), ("ratio", ratio, ratios)):
            values[f"{base}_{name}"] = value
            values[f"{base}_{name}_low"], values[f"{base}_{name}_high"] = interval(drawn)
        for name, one, truth in zip(sides, scores, labels, strict=True):
            for column, take in enumerate(in_macro(truth, min_positives=self.min_cases)):
                if take:
                    of_finding = pooled_auroc(one[:, column, None], truth[:, column, None])
                    values[f"{base}_{name}/{slug(FINDINGS[column])}"] = of_finding.item()
        asked = [column for column in range(len(FINDINGS)) if bool(probed[column])]
        self._protocol[base] = {
            "figures": sorted(values),
            "extractor": describe(self.extractor),
            "output": self.output,
            "n": len(rows.values),
            "repeated_left_out": rows.repeated,
            "question": MEANING[question],
            "seen": SEEN[question],
            "views": list(FRONTAL_VIEWS),
            "training": self._trained[question],
            "min_training": self.min_training,
            "cases": counts_of(labels[1], asked),
            "min_cases": self.min_cases,
            "probe": f"logistic regression, L2 of {self.strength}",
            "interval": f"{LEVEL:.0%} of {RESAMPLES} bootstrap draws of patients; the probes are taken as given",
            "packages": ["scipy"],
        }
        if undefined := [key for key, value in values.items() if math.isnan(value)]:
            few = f"of {len(rows.values)} images no finding with a probe has cases of both answers"
            if not asked:
                few = f"no finding has {self.min_training} training cases of each answer"
            blind_to = f"the probes tell real images no better than chance (from {ends[0]:.3f})"
            self._protocol[base]["undefined"] = {
                key: blind_to if key.startswith(f"{base}_ratio") and not math.isnan(real) else few for key in undefined
            }
        return values


def answers_of(reports: Sequence[str], views: Sequence[str]) -> Tensor:
    """Float32 [B,2,F] of `stated`; NaN throughout where the view is not frontal."""
    silent = torch.full((len(QUESTIONS), len(FINDINGS)), torch.nan)
    pairs = zip(reports, views, strict=True)
    return torch.stack([stated(report) if view in FRONTAL_VIEWS else silent for report, view in pairs])


def seen(extractor: FeatureExtractor, images: Tensor, *, question: str, what: str, ids: Sequence[str]) -> Tensor:
    """Float32 [B,D] of checked images [B,1,H,W]: what the probes of a question look at, see SEEN."""
    if question == "severity":
        return extract(extractor, images, method="features", what=what, ids=ids)
    first, second = (
        extract(extractor, half, method="features", what=what, ids=ids) for half in completed_halves(images)
    )
    return first - second


def counts_of(labels: Tensor, columns: Sequence[int]) -> dict[str, dict[str, int]]:
    """How many cases of each answer these columns of float [N,F] have, by the finding's name."""
    ones, zeros = class_counts(labels)
    return {FINDINGS[f]: {"1": ones[f], "0": zeros[f]} for f in columns}
