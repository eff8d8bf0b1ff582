"""`DownstreamClassifier`: is what the report says still to be seen in the synthetic or reconstructed image?

A classifier trained on real images judges the test batches' real images and the step's images against the same labels;
with synthetic images these are the labels of the prompts. B images, 14 findings.
"""

import math
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks.extraction import check_images, describe, extract, images_of
from callbacks.logged import log_equal
from callbacks.metrics.auroc import MultiLabelAUROC, ScoreBank, multi_label_auroc
from callbacks.metrics.auroc_interval import LEVEL, RESAMPLES, interval, resampled_macros
from callbacks.protocols import Extractor, as_extractor
from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS


def slug(finding: str) -> str:
    """A finding's name as part of a metric key: "Pleural Effusion" → "pleural_effusion"."""
    return finding.lower().replace(" ", "_")


class DownstreamClassifier(Callback):
    """Logs AUROCs at the end of a test. With `<side>` = `output` or "real".

    - `<prefix>/auroc_<side>`: macro average over the findings with at least `min_positives` positives and negatives,
      the same findings on both sides; `<prefix>/auroc_<side>/<finding>` for each of them.
    - `<prefix>/auroc_<ratio>`: the macro of `output` over that of the real images; `<prefix>/auroc_<ratio>_chance`:
      what images without information would reach (0.5 over real), since a ratio does not start from 0.
      `<prefix>/auroc_<ratio>/<finding>`: the same ratio for each finding in the macro. With few positives it is
      noisy: their number stands in the protocol.
    - `<prefix>/auroc_{<side>,<ratio>}_{low,high}`: where the macros and their ratio lie in 95 % of draws of as many
      patients, see `resampled_macros`.
    - `<prefix>/auroc_findings`: how many findings are in the macro average.

    A finding left out is named with its counts in the protocol. With no finding in, the macro is NaN.

    Args:
        extractor: an `Extractor` trained on real images. It is kept here, outside of the module and its checkpoints.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        ratio: how the ratio is called; "retained" for reconstructions.
        min_positives: see above.

    Raises:
        ValueError: for images or logits that are not finite, naming the image.
    """

    def __init__(
        self,
        extractor: nn.Module,
        *,
        output: str = "synthetic",
        prefix: str = "classifier",
        ratio: Literal["ratio", "retained"] = "ratio",
        min_positives: int = 5,
    ) -> None:
        self.module = extractor
        self.output, self.prefix, self.ratio, self.min_positives = output, prefix, ratio, min_positives
        self.extractor: Extractor
        self.sides: dict[str, ScoreBank] = {}
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the classifier, move it to the module's device, and begin with empty banks."""
        self.extractor = as_extractor(self.module)
        self.module.to(pl_module.device)
        self._protocol = {}
        self.sides = {side: ScoreBank(len(FINDINGS)).to(pl_module.device) for side in ("real", self.output)}
        for metric in self.sides.values():
            metric.start()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits of the batch's real images and of the step's images, with the labels."""
        ids = batch["image_id"]
        real = check_images(batch["image"], what="real", ids=ids)
        fake = images_of(outputs, key=self.output, like=real, ids=ids)
        for side, images in (("real", real), (self.output, fake)):
            logits = extract(self.extractor, images, method="logits", what=side, ids=ids)
            self.sides[side].add(logits, batch["labels"], ids=ids, patients=batch["patient_id"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and log; every rank takes part and logs the same."""
        rows = [self.sides[side].gathered() for side in ("real", self.output)]
        real, fake = (
            multi_label_auroc(one.scores, one.labels, min_positives=self.min_positives, repeated=one.repeated)
            for one in rows
        )
        values = {
            f"{self.prefix}/auroc_real": real.macro,
            f"{self.prefix}/auroc_{self.output}": fake.macro,
            f"{self.prefix}/auroc_{self.ratio}": fake.macro / real.macro if real.macro else math.nan,
            f"{self.prefix}/auroc_{self.ratio}_chance": 0.5 / real.macro if real.macro else math.nan,
            f"{self.prefix}/auroc_findings": float(sum(real.included)),
        }
        for side, result in (("real", real), (self.output, fake)):
            for finding, value, included in zip(FINDINGS, result.per_finding, result.included, strict=True):
                if included:
                    values[f"{self.prefix}/auroc_{side}/{slug(finding)}"] = value
        for finding, at_real, at_fake, included in zip(
            FINDINGS, real.per_finding, fake.per_finding, real.included, strict=True
        ):
            if included:
                ratio = at_fake / at_real if at_real else math.nan
                values[f"{self.prefix}/auroc_{self.ratio}/{slug(finding)}"] = ratio
        macros = resampled_macros(
            [one.scores for one in rows], rows[0].labels, groups=rows[0].patients, min_positives=self.min_positives
        )
        for name, draws in (("real", macros[0]), (self.output, macros[1]), (self.ratio, macros[1] / macros[0])):
            for end, value in zip(("low", "high"), interval(draws), strict=True):
                values[f"{self.prefix}/auroc_{name}_{end}"] = value
        log_equal(pl_module, values)
        undefined = [key for key, value in values.items() if math.isnan(value)]
        self._protocol = {"figures": sorted(values), **self._describe(real, undefined)}
        self.sides = {}

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/auroc_{self.output}": self._protocol} if self._protocol else {}

    def _describe(self, result: MultiLabelAUROC, undefined: list[str]) -> dict[str, Any]:
        counts = {
            finding: {"positives": p, "negatives": q}
            for finding, p, q in zip(FINDINGS, result.positives, result.negatives, strict=True)
        }
        included = [f for f, take in zip(FINDINGS, result.included, strict=True) if take]
        described: dict[str, Any] = {
            "extractor": describe(self.extractor),
            "output": self.output,
            "n": result.n,
            "repeated_left_out": result.repeated,
            "min_positives": self.min_positives,
            "interval": f"{LEVEL:.0%} of {RESAMPLES} bootstrap draws of patients",
            "included": {f: counts[f] for f in included},
            "left_out": {f: c for f, c in counts.items() if f not in included},
        }
        if undefined:
            few = f"no finding has {self.min_positives} positives and negatives among {result.n} images"
            described["undefined"] = dict.fromkeys(undefined, "the AUROC of the real images is 0" if included else few)
        return described
