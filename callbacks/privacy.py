"""`PrivacyGate`: does a generated image copy a training image, or a part of one, and which image is it?

The images of a test are compared with all training images, and so are real images of the validation split, whose
patients are not in training: they say how near people come to one another by chance.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.extraction import describe, images_of
from callbacks.grids import publish_picture
from callbacks.logged import log_equal
from callbacks.metrics.copied_patches import FLOOR, SHIFT, WINDOW
from callbacks.metrics.false_alarms import Alarm, check_count, most_by_chance, raised, scores, set_alarm, without_twins
from callbacks.metrics.memorisation import membership
from callbacks.metrics.nearest import least_distances
from callbacks.metrics.ranks import from_all_ranks
from callbacks.metrics.registration import FINE, SHARP, SHARP_SLOW, SHARP_SMOOTH
from callbacks.privacy_files import Finding, pairs_picture, write_findings
from callbacks.privacy_search import PATCH, PIXEL, Collected, Gatherer, search
from callbacks.protocols import FeatureExtractor, HasSplits, Redraws, SplitDataset, as_feature_extractor
from callbacks.reading import drawn, read_images
from datamodules.manifest import Batch

CLOSE = 0.01  # quantile of the held-out distances
TAIL = 0.95  # share of the draws of chance up to which flagged images do not fail the test
THUMBNAIL = 128  # most pixels a side of an image in the picture
NAMED = 10  # images in the message; the files name all


class PrivacyAlarm(RuntimeError):
    """Generated images copy training images."""


class PrivacyGate(Callback):
    """Judges the images of a test, and logs with `<p>` = `<prefix>/privacy` what it found.

    The detectors are "pixel" (the distance after registration), "patch" (copied parts) and the name of each extractor
    (distance of features). Where the module can redraw images (`protocols.Redraws`), "pixel" compares an image also
    with its nearest training image as the module's decoder would draw it.

    - `<p>_flagged`: share of the images whose distance to the nearest training image is below a threshold, of any
      detector; `<p>_flagged/<detector>`: of this one.
    - `<p>_false_alarms`: the same of the held-out images that the thresholds were set on; `<p>_false_alarms_expected`:
      the share to be expected of new real images.
    - `<p>_copies`: share whose distance is below `copy_ratio` of the least that any held-out image has.
    - `<p>_close/<detector>`: share nearer than the first percentile of the held-out images. `<p>_close_expected` is
      that of real images of other patients; at 124 held-out images 95 % of the draws lie between .3 and 4.6 %.
    - `<p>_membership/<extractor>`, `_low`, `_high`: AUROC of telling training images from held-out ones by their
      distance to the generated set, with 95 % of draws of images. As many training images as held-out ones are drawn.
      0.5 is chance, but an extractor that was fitted to the training split sets its images apart by itself.

    A decoder that draws a pasted part anew, or JPEG, hides it from "patch".

    It writes `privacy.json`, `privacy.csv` and `pictures/privacy.png` with the flagged images, their nearest training
    images, distances and thresholds. They name training images, and the picture shows them: keep it where they may lie.

    Args:
        extractors: `FeatureExtractor`s, kept here, outside of the module and its checkpoints.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        fail: raise `PrivacyAlarm` when the test has ended and its figures are written; else only tag.
        allowed: share of flagged images up to which the test passes; of real images some are flagged too. Few images
            tell it badly (one of 64 is 1.6 %): the test fails where more are flagged than 95 % of the draws of
            Binomial(N, p) have, p being this share or the expected false alarms, whichever is more.
        copy_ratio: one image nearer than this share of the least held-out distance fails the test.
        false_alarms: most real images that may be flagged, over all detectors together.
        confidence: that it is so, see `false_alarms.set_alarm`.
        held_out: most validation images that the thresholds are set on, drawn by seed.
        candidates: training images that a generated image is aligned with, the nearest of a coarse search.
        shown: most flagged images in the picture.
        seed: of the draws.

    Raises:
        ValueError: for images or features that are not finite, naming the image; for too few held-out images.
        PrivacyAlarm: see `fail`.
    """

    def __init__(
        self,
        extractors: list[nn.Module],
        *,
        output: str = "synthetic",
        prefix: str = "generator",
        fail: bool = True,
        allowed: float = 0.01,
        copy_ratio: float = 0.3,
        false_alarms: float = 0.01,
        confidence: float = 0.95,
        held_out: int = 2000,
        candidates: int = 8,
        shown: int = 16,
        seed: int = 0,
    ) -> None:
        for name, share in (("allowed", allowed), ("copy_ratio", copy_ratio), ("false_alarms", false_alarms)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}; expected a share in [0, 1)")
        if candidates < 1 or shown < 1:
            raise ValueError(f"candidates {candidates}, shown {shown}; expected at least 1 of each")
        self.modules = extractors
        self.output, self.prefix, self.fail, self.allowed = output, prefix, fail, allowed
        self.copy_ratio, self.false_alarms, self.confidence = copy_ratio, false_alarms, confidence
        self.held_out, self.candidates, self.shown, self.seed = held_out, candidates, shown, seed
        self.spaces: dict[str, FeatureExtractor] = {}
        self.made: Gatherer
        self.thumbnails: dict[str, Tensor] = {}
        self._message: str | None = None
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the extractors, move them to the module's device, look for the splits, begin with no images."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, HasSplits):
            raise ValueError(f"{self.prefix}/privacy: the datamodule has no split_dataset(split); use CXRDataModule")
        check_count(min(len(data.split_dataset("validate")), self.held_out), rate=self.false_alarms)
        self._message, self._protocol, self.spaces, self.thumbnails = None, {}, {}, {}
        for module in self.modules:
            extractor = as_feature_extractor(module.to(pl_module.device))
            # Two classifiers have one name; their digests differ.
            taken = extractor.name in (*self.spaces, PIXEL, PATCH)
            self.spaces[f"{extractor.name}-{extractor.digest[:6]}" if taken else extractor.name] = extractor
        self.made = Gatherer(self.spaces, device=pl_module.device, what=self.output)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep small pictures and features of the step's images."""
        ids = list(batch["image_id"])
        images = images_of(outputs, key=self.output, like=batch["image"], ids=ids)
        self.made.add(images, ids)
        self.thumbnails |= dict(zip(ids, _small(images), strict=True))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, set the thresholds, log and write; every rank takes part, finds and logs the same."""
        data: HasSplits = trainer.datamodule  # type: ignore[attr-defined]
        made, held = self.made.gathered(), self._hold_out(trainer, data, pl_module.device)
        del self.made
        if not made.ids:
            raise ValueError(f"{self.prefix}/privacy: no image was tested")
        training = data.split_dataset("train")
        redraw = pl_module.redraw if isinstance(pl_module, Redraws) else None
        found = search(
            training, made, held, spaces=self.spaces, candidates=self.candidates, redraw=redraw, seed=self.seed,
            rank=trainer.global_rank, world=trainer.world_size, device=pl_module.device,
        )  # fmt: skip
        count = len(made.ids)
        of_made, of_held = found.apart(count)
        of_held, twins = without_twins(of_held, whole=(PIXEL, *self.spaces))
        alarm = set_alarm(of_held, rate=self.false_alarms, confidence=self.confidence)
        below, false = raised(alarm, of_made), raised(alarm, of_held)
        copies = {name: one < self.copy_ratio * of_held[name].min() for name, one in of_made.items()}
        named = {name: below[name] | copies[name] for name in below}  # one level serves all, and may miss a copy by one
        base = f"{self.prefix}/privacy"
        values = {
            f"{base}_flagged": _share_of_any(below),
            f"{base}_copies": _share_of_any(copies),
            f"{base}_false_alarms": _share_of_any(false),
            f"{base}_false_alarms_expected": alarm.expected,
            f"{base}_close_expected": (CLOSE * (alarm.n - 1) + 1) / (alarm.n + 1),
        }
        for name, distances in of_made.items():
            values[f"{base}_flagged/{name}"] = _share_of_any({name: below[name]})
            values[f"{base}_close/{name}"] = float((distances < of_held[name].quantile(CLOSE)).float().mean())
        for name in self.spaces:
            others = least_distances(held.rows[name], made.rows[name])
            figures = membership(found.members[name], others)
            for end, value in zip(("", "_low", "_high"), figures, strict=True):
                values[f"{base}_membership/{name}{end}"] = value
        log_equal(pl_module, values)
        self._state(alarm, made, held, len(training), redrawn=redraw is not None)
        left_out = [name for name, twin in zip(held.ids, twins.tolist(), strict=True) if twin]
        self._protocol["held_out"] |= {"n": alarm.n, "twins_of_training_images": left_out}
        chance = max(self.allowed, alarm.expected)
        most = most_by_chance(count, rate=chance, confidence=TAIL)
        self._protocol["fails_above"] = {"flagged": most, "rate": chance, "confidence": TAIL}
        self._protocol |= {"figures": sorted(values), "packages": []}
        scored = scores(alarm, of_made)
        order = scored.sort(descending=True, stable=True).indices
        rows = [row for row in order.tolist() if any(bool(one[row]) for one in named.values())]
        names_of = _names(training, found.places, rows)
        findings = [
            Finding(
                made.ids[row],
                {name: float(found.distances[name][row]) for name in below},
                {name: names_of[int(found.places[name][row])] for name in below},
                {name: bool(named[name][row]) for name in named},
                float(scored[row]),
            )
            for row in rows
        ]
        shown = [(one, int(found.places[one.detector][row])) for one, row in zip(findings, rows, strict=True)]
        self._write(trainer, findings, shown[: self.shown], training, alarm)
        if int(torch.stack(list(below.values())).any(0).sum()) > most or values[f"{base}_copies"]:
            names = ", ".join(one.image_id for one in findings[:NAMED]) + (", ..." if len(findings) > NAMED else "")
            folder = trainer.default_root_dir
            self._message = (
                f"{self.prefix}/privacy: {len(findings)} of {count} images are nearer to a training image than nearly "
                f"all real images of other patients come ({most} may be by chance), "
                f"{values[f'{base}_copies']:.2%} of all are copies: {names}. privacy.csv and pictures/privacy.png in "
                f"{folder} say which training images; leave these images out, or only tag them with fail: false"
            )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail, after the callbacks before this one have written their files."""
        if self._message is not None and self.fail:
            raise PrivacyAlarm(self._message)
        if self._message is not None and trainer.is_global_zero:
            print(self._message, flush=True)

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/privacy_flagged": self._protocol} if self._protocol else {}

    def _hold_out(self, trainer: Trainer, data: HasSplits, device: torch.device) -> Collected:
        split = data.split_dataset("validate")
        own = drawn(len(split), self.held_out, seed=self.seed)[trainer.global_rank :: trainer.world_size]
        held = Gatherer(self.spaces, device=device, what="held-out")
        for images, ids, _ in read_images(split, own, device=device, what="held-out"):
            held.add(images, ids)
        return held.gathered()

    def _write(
        self,
        trainer: Trainer,
        findings: list[Finding],
        shown: list[tuple[Finding, int]],
        training: SplitDataset,
        alarm: Alarm,
    ) -> None:
        wanted = {one.image_id for one, _ in shown}
        parts = from_all_ranks({name: image for name, image in self.thumbnails.items() if name in wanted})
        self.thumbnails = {}
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        write_findings(folder, findings, thresholds=alarm.thresholds, facts={"protocol": self._protocol})
        if not shown:
            (folder / "pictures" / "privacy.png").unlink(missing_ok=True)  # of an earlier test in this folder
        else:
            images = {name: image for part in parts for name, image in part.items()}
            made = torch.stack([images[one.image_id] for one, _ in shown]).float() / 127.5 - 1
            real = training[[place for _, place in shown]]["image"]
            picture = pairs_picture(made, real, [one for one, _ in shown], thresholds=alarm.thresholds)
            publish_picture(picture, trainer, name="privacy", key="privacy")

    def _state(self, alarm: Alarm, made: Collected, held: Collected, training: int, *, redrawn: bool) -> None:
        self._protocol = {
            "extractors": {name: describe(one) for name, one in self.spaces.items()},
            "output": self.output,
            "n": len(made.ids),
            "held_out": {"split": "validate", "n": len(held.ids)},
            "training": {"split": "train", "n": training},
            "members": min(training, len(held.ids)),
            "thresholds": alarm.thresholds,
            "smallest_of_held_out_counts": alarm.rank,
            "false_alarms": {"most": self.false_alarms, "expected": alarm.expected, "confidence": alarm.confidence},
            "allowed": self.allowed,
            "copy_ratio": self.copy_ratio,
            "close": f"below the quantile {CLOSE} of the held-out distances",
            "pixel": {
                "aligned": FINE,
                "compared": SHARP,
                "smooth": SHARP_SMOOTH,
                "slow": SHARP_SLOW,
                "candidates": self.candidates,
                "redrawn": redrawn,
            },
            "patch": {"side": FINE, "window": WINDOW, "shift": SHIFT, "floor": FLOOR},
            "seed": self.seed,
        }


def _share_of_any(which: dict[str, Tensor]) -> float:
    return float(torch.stack(list(which.values())).any(0).float().mean())


def _small(images: Tensor) -> Tensor:
    """Float [B,1,H,W] in [-1,1] → uint8 [B,1,h,w] on the CPU, at most `THUMBNAIL` pixels a side."""
    if max(images.shape[-2:]) > THUMBNAIL:
        images = F.interpolate(images, size=(THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def _names(training: SplitDataset, places: dict[str, Tensor], rows: list[int]) -> dict[int, str]:
    """The ids of the training images that are nearest to these rows."""
    wanted = sorted({int(one[row]) for one in places.values() for row in rows})
    blocks = read_images(training, wanted, device=torch.device("cpu"), what="training")
    return {place: name for _, ids, chosen in blocks for place, name in zip(chosen, ids, strict=True)}
