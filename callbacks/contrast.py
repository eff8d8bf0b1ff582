"""`FindingContrast`: is a finding still as visible in the reconstruction as it was, by the pixels and by no network?

Where a batch says which pixels a finding covers (`batch["masks"]`, of phantoms exact, of boxed data sets the boxes),
its contrast against a ring around it is measured in the original and in the step's image. That is the contrast of the
pixels: where a mask follows anatomy (a heart against the lungs) much of it is the anatomy's own. It tells most of
findings that stand alone, such as a nodule, which a bottleneck may drop while every average stays high.
"""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.downstream import slug
from callbacks.extraction import check_images, images_of
from callbacks.logged import log_equal
from callbacks.metrics.contrast import MIN_PIXELS, NOISE_FLOOR, ContrastBank, KeptContrast
from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS


class FindingContrast(Callback):
    """Logs at the end of a test, for each finding with at least `min_cases` masks, and for their plain mean.

    - `<prefix>/cnr_retained[/<finding>]`: contrast-to-noise ratio in `output` over that in the originals, each image
      with its own noise. What is only smoothed loses noise first, so this can exceed 1; read it with the next.
    - `<prefix>/contrast_retained[/<finding>]`: the same for the contrast alone; 1 is all of it.
    - `<prefix>/cnr_real/<finding>`: mean |CNR| in the originals: below about 1 there was little to keep.
    - `<prefix>/cnr_n/<finding>`: how many masks were measured. `<prefix>/cnr_findings`: how many findings were.

    Args:
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        min_cases: a finding with fewer measured masks is named in the protocol only.
        gap: width of the border between mask and ring, as a share of the image's width; at least one pixel.
        ring: width of the ring, as a share of the image's width; at least two pixels.

    Raises:
        ValueError: if the batches hold no masks.
    """

    def __init__(
        self,
        *,
        output: str = "reconstruction",
        prefix: str = "codebook",
        min_cases: int = 5,
        gap: float = 1 / 64,
        ring: float = 4 / 64,
    ) -> None:
        if min_cases < 1 or gap < 0 or ring <= 0:
            raise ValueError(
                f"min_cases {min_cases}, gap {gap}, ring {ring}; expected 1 or more, 0 or more and above 0"
            )
        self.output, self.prefix, self.min_cases, self.gap, self.ring = output, prefix, min_cases, gap, ring
        self.bank: ContrastBank
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with an empty bank on the module's device."""
        self._protocol = {}
        self.bank = ContrastBank(len(FINDINGS), gap=self.gap, width=self.ring).to(pl_module.device)
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
        """Measure the batch's real images and the step's images."""
        ids = batch["image_id"]
        if "masks" not in batch:
            raise ValueError(
                f"{self.prefix}/cnr_retained needs batch['masks'], which these batches lack; set "
                "--data.init_args.masks=true, or leave FindingContrast out where nobody marked the findings"
            )
        real = check_images(batch["image"], what="real", ids=ids)
        other = images_of(outputs, key=self.output, like=real, ids=ids)
        self.bank.add(real, other, batch["masks"], ids=ids)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather and log; every rank takes part and logs the same."""
        found, small, images = self.bank.result()
        included = {f: k for f, k in zip(FINDINGS, found, strict=True) if k.n >= self.min_cases}
        values = {
            f"{self.prefix}/cnr_retained": _mean([k.cnr_kept for k in included.values()]),
            f"{self.prefix}/contrast_retained": _mean([k.contrast_kept for k in included.values()]),
            f"{self.prefix}/cnr_findings": float(len(included)),
        }
        for finding, k in included.items():
            values |= {
                f"{self.prefix}/cnr_retained/{slug(finding)}": k.cnr_kept,
                f"{self.prefix}/contrast_retained/{slug(finding)}": k.contrast_kept,
                f"{self.prefix}/cnr_real/{slug(finding)}": k.cnr_real,
                f"{self.prefix}/cnr_n/{slug(finding)}": float(k.n),
            }
        log_equal(pl_module, values)
        described = self._describe(dict(zip(FINDINGS, found, strict=True)), small, images)
        self._protocol = {"figures": sorted(values), **described}
        undefined = [key for key, value in values.items() if math.isnan(value)]
        if undefined:
            reason = f"no finding has {self.min_cases} masks that can be measured among {images} images"
            zero = "an included finding has no contrast at all in the originals"
            self._protocol["undefined"] = dict.fromkeys(undefined, zero if included else reason)
        self.bank.reset()

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/cnr_retained": self._protocol} if self._protocol else {}

    def _describe(self, found: dict[str, KeptContrast], small: list[int], images: int) -> dict[str, Any]:
        return {
            "output": self.output,
            "n": images,
            "min_cases": self.min_cases,
            "gap": self.gap,
            "ring": self.ring,
            "noise_floor": NOISE_FLOOR,
            "ratio": "sum of the signed values over the sum of the originals' absolute values",
            "included": {f: k.n for f, k in found.items() if k.n >= self.min_cases},
            "left_out": {f: k.n for f, k in found.items() if k.n < self.min_cases},
            f"under_{MIN_PIXELS}_pixels": {f: n for f, n in zip(found, small, strict=True) if n},
        }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
