"""`ReportAlignment`: does an aligner find in the synthetic image what its report states, as well as in the real one?

B images, 3 kinds of twins (stated, denied, side).
"""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks.extraction import check_images, images_of
from callbacks.logged import log_equal
from callbacks.metrics.alignment import between, resampled_ratios
from callbacks.metrics.auroc_interval import LEVEL, RESAMPLES, interval
from callbacks.metrics.bank import RowBank, id_hash
from callbacks.protocols import HasReferenceImages, ReadsReports, SplitDataset, as_aligner
from datamodules.manifest import Batch

TWINS = ("stated", "denied", "side")
SIDES = ("real", "output", "other")


class ReportAlignment(Callback):
    """Logs at the end of a test. With `<side>` = "real", `output` or "other" (a training image of somebody else).

    - `<prefix>/alignment_<side>`: mean log-likelihood (nats, at most 0) of what a report states and denies, over the
      images whose report states something; `..._low`, `..._high`: 95 % of draws of as many patients.
    - `<prefix>/alignment_share`, `..._low`, `..._high`: where `output` lies between "other" = 0 and "real" = 1.
    - `<prefix>/alignment_<side>/{stated,denied,side}_flipped`: how many statements score above the same statement with
      its status, or its side, exchanged; .5 is chance. Of "real" and `output`. A kind that no report has is left out.

    The aligner that made a generator's clues is no neutral judge of it: what it takes for a match it has asked for. One
    of another seed is less partial.

    An aligner that learnt no degrees, as this project's, tells nothing of severity.

    Args:
        aligner: see `ReadsReports`; kept here, outside of the module and its checkpoints.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        others: training images among which each report has its "other", by its image id.
        seed: of their draw.

    Raises:
        TypeError: if the aligner or the datamodule lacks what is asked of it.
        ValueError: for images that are not finite, naming the image; if no report states anything.
    """

    def __init__(
        self,
        aligner: nn.Module,
        *,
        output: str = "synthetic",
        prefix: str = "generator",
        others: int = 64,
        seed: int = 0,
    ) -> None:
        if others < 1:
            raise ValueError(f"others {others}; expected at least 1")
        self.module, self.output, self.prefix, self.others, self.seed = aligner, output, prefix, others, seed
        self.aligner: ReadsReports
        self.bank: RowBank
        self.references: SplitDataset
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the aligner, draw the images of others, and begin with an empty bank."""
        self.aligner, self._protocol = as_aligner(self.module), {}
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, HasReferenceImages):
            raise TypeError(f"{type(data).__name__} has no reference_dataset(n, seed); use CXRDataModule")
        self.module.to(pl_module.device)
        self.references = data.reference_dataset(self.others, seed=self.seed)
        self.bank = RowBank(3 + 3 * len(TWINS)).to(pl_module.device)
        self.bank.start()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the batch's real images, the step's images and those of others against the same reports."""
        ids, reports = batch["image_id"], batch["report"]
        real = check_images(batch["image"], what="real", ids=ids)
        made = images_of(outputs, key=self.output, like=real, ids=ids)
        # By the id, so that an image has the same other one whatever the batches and ranks.
        others = self.references[[id_hash(name) % len(self.references) for name in ids]]
        other = check_images(others["image"].to(real.device), what="reference", ids=others["image_id"])
        fits = torch.stack([self.aligner.log_likelihood(images, reports) for images in (real, made, other)], dim=1)
        twins = [self.aligner.flipped(images, reports) for images in (real, made)]
        rows = torch.cat([fits, twins[0][..., 0], twins[0][..., 1], twins[1][..., 1]], dim=1)
        if bool(rows.isinf().any()):
            at = int(rows.isinf().any(1).nonzero()[0])
            raise ValueError(f"aligner {self.aligner.name}: its score of image {ids[at]} is not finite")
        self.bank.update(rows, ids, batch["patient_id"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and log; every rank takes part and logs the same."""
        rows = self.bank.compute()
        self.bank.reset()
        del self.references
        known = ~rows.values[:, :3].isnan().any(1)
        if not bool(known.any()):
            raise ValueError(f"{self.prefix}/alignment: none of {len(known)} reports states or denies a pathology")
        fits, cases, real_right, made_right = rows.values[known].split([3, 3, 3, 3], dim=1)
        means = fits.double().mean(0)
        draws = resampled_ratios(fits, torch.ones_like(fits), groups=rows.groups[known])
        names = [side if side != "output" else self.output for side in SIDES]
        measured = {name: (means[i], draws[:, i]) for i, name in enumerate(names)}
        measured["share"] = between(means[1], means[2], means[0]), between(draws[:, 1], draws[:, 2], draws[:, 0])
        values: dict[str, float] = {}
        for name, (value, drawn) in measured.items():
            values[f"{self.prefix}/alignment_{name}"] = value.item()
            for end, bound in zip(("low", "high"), interval(drawn), strict=True):
                values[f"{self.prefix}/alignment_{name}_{end}"] = bound
        totals = cases.sum(0).tolist()
        for name, right in (("real", real_right), (self.output, made_right)):
            for kind, total, count in zip(TWINS, totals, right.sum(0).tolist(), strict=True):
                if total:
                    values[f"{self.prefix}/alignment_{name}/{kind}_flipped"] = count / total
        log_equal(pl_module, values)
        self._protocol = {
            "figures": sorted(values),
            "aligner": {"name": self.aligner.name, "digest": self.aligner.digest},
            "output": self.output,
            "n": int(known.sum()),
            "without_statement": int((~known).sum()),
            "repeated_left_out": rows.repeated,
            "others": self.others,
            "seed": self.seed,
            "twins": {kind: int(total) for kind, total in zip(TWINS, totals, strict=True)},
            "interval": f"{LEVEL:.0%} of {RESAMPLES} bootstrap draws of patients",
            "packages": [],
        }
        undefined = [key for key, figure in values.items() if math.isnan(figure)]
        if undefined:
            self._protocol["undefined"] = dict.fromkeys(undefined, "real images fit no better than those of others")

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/alignment_{self.output}": self._protocol} if self._protocol else {}
