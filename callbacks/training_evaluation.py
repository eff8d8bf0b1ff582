"""`TrainingEvaluation`: what a test measures, of a few validation images and every few epochs of a training.

It measures what it finds: a training with it and one without it are the same, bit for bit.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.borrowed import borrowed
from callbacks.logged import log_equal
from callbacks.metrics.ranks import from_all_ranks
from callbacks.metrics_file import MetricsFile
from callbacks.metrics_json import write_json
from callbacks.protocols import HasProtocol, HasSplits
from callbacks.reading import drawn
from datamodules.manifest import Batch

PREFIX = "in_training"


class TrainingEvaluation(Callback):
    """Logs after the validation of every n-th epoch, as `in_training/<key>`, all that a test would log as `<key>`.

    The module's `test_step` is run on `samples` images of the validation split, the same at each time, which the ranks
    share; the evaluation callbacks get the hooks of a test. As there are fewer images, of another split, the figures
    are no test's: compare them with one another. `ModelCheckpoint` and `EarlyStopping` can monitor them: between two
    evaluations the keys are gone, so give the first the same `every_n_epochs`, and the second `strict: false`.

    Each time `<default_root_dir>/in_training/epoch-<n>/` gets `figures.json` with the figures and their protocols, and
    whatever files the callbacks write.

    Args:
        callbacks: those that are driven; by default those of the trainer that measure a test, with their settings.
        every_n_epochs: the epochs n, 2n, 3n, ..., a multiple of `check_val_every_n_epoch`. A `PrivacyGate` that
            fails stops the training then; `fail: false` lets it go on.
        samples: validation images; all where there are fewer.
        batch_size: images a step, or one more.
        seed: of the draw of images, and of the random numbers within.

    Raises:
        TypeError: when the fit starts, if the datamodule has no splits to read.
        ValueError: when the fit starts, if nothing would be measured, or there are fewer images than ranks.
    """

    def __init__(
        self,
        *,
        callbacks: list[Callback] | None = None,
        every_n_epochs: int = 5,
        samples: int = 256,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if every_n_epochs < 1 or samples < 2 or batch_size < 1:
            raise ValueError(
                f"every_n_epochs {every_n_epochs}, samples {samples}, batch_size {batch_size}; "
                "expected at least 1, 2 and 1"
            )
        if any(isinstance(callback, MetricsFile) for callback in callbacks or ()):
            raise ValueError("MetricsFile describes a test; figures.json is written without it: leave it out")
        self.callbacks, self.every_n_epochs, self.samples = callbacks, every_n_epochs, samples
        self.batch_size, self.seed = batch_size, seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be evaluated, before the training and not after its first epochs."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, HasSplits):
            raise TypeError(
                f"TrainingEvaluation reads validation images from CXRDataModule; found {type(data).__name__}"
            )
        often, share = trainer.check_val_every_n_epoch, trainer.val_check_interval
        if share != 1.0 or not often or self.every_n_epochs % often:
            raise ValueError(
                f"TrainingEvaluation every {self.every_n_epochs} epochs, but validation every {often}, with "
                f"val_check_interval {share}; it follows a validation at the end of an epoch: give a multiple of "
                "check_val_every_n_epoch, and val_check_interval 1.0"
            )
        if not self._driven(trainer):
            raise ValueError("TrainingEvaluation: no callback measures a test; name some under `callbacks`")
        rows = min(self.samples, len(data.split_dataset("validate")))
        if rows < max(2, trainer.world_size):
            raise ValueError(
                f"TrainingEvaluation: {rows} validation images for {trainer.world_size} ranks; raise samples"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take away the figures of former weights, lest a checkpoint be chosen by them."""
        if trainer.state.fn == TrainerFn.FITTING:
            figures = trainer.callback_metrics
            for key in [key for key in figures if key.startswith(f"{PREFIX}/")]:
                del figures[key]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate when it is time; every rank takes part and logs the same."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        began = time.monotonic()
        folder = Path(trainer.default_root_dir) / PREFIX / f"epoch-{trainer.current_epoch}"
        stand_in, driven = _Elsewhere(trainer, folder), self._driven(trainer)
        ids: list[str] = []
        with borrowed(pl_module, seed=self.seed) as collector:

            def call(hook: str, *arguments: Any) -> None:
                for callback in driven:
                    getattr(callback, hook)(stand_in, pl_module, *arguments)
                getattr(pl_module, hook)(*arguments)

            call("on_test_start")
            call("on_test_epoch_start")
            for at, batch in enumerate(self._batches(trainer)):
                ids += batch["image_id"]
                collector.batch_size = len(batch["image_id"])
                call("on_test_batch_start", batch, at)
                outputs = trainer.strategy.test_step(batch, at)
                call("on_test_batch_end", outputs, batch, at)
            collector.batch_size = 1
            call("on_test_epoch_end")
            figures = {f"{PREFIX}/{key}": value for key, value in collector.figures().items()}
        log_equal(pl_module, figures)
        tested = sorted({name for part in from_all_ranks(ids) for name in part})
        if trainer.is_global_zero:
            self._write(folder, trainer, figures, tested, driven)
            took = time.monotonic() - began
            print(f"{folder}: {len(figures)} figures of {len(tested)} validation images, {took:.0f} s", flush=True)
        with borrowed(pl_module, seed=self.seed):
            call("on_test_end")

    def _driven(self, trainer: Trainer) -> Sequence[Callback]:
        if self.callbacks is not None:
            return self.callbacks
        own: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in own if isinstance(callback, HasProtocol)]

    def _batches(self, trainer: Trainer) -> Iterator[Batch]:
        split = trainer.datamodule.split_dataset("validate")  # type: ignore[attr-defined]
        rows = drawn(len(split), self.samples, seed=self.seed)
        # As many steps on every rank: there may be a collective in one.
        steps = math.ceil(len(rows) // trainer.world_size / self.batch_size)
        for part in np.array_split(rows[trainer.global_rank :: trainer.world_size], steps):
            yield trainer.strategy.batch_to_device(split[part.tolist()])

    def _write(
        self,
        folder: Path,
        trainer: Trainer,
        figures: dict[str, float],
        ids: list[str],
        driven: Sequence[Callback],
    ) -> None:
        protocol = {
            "split": "validate",
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "n": len(ids),
            "ids_digest": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
            "seed": self.seed,
            "precision": str(trainer.precision),
            "world_size": trainer.world_size,
            "metrics": {
                name: part
                for callback in driven
                if isinstance(callback, HasProtocol)
                for name, part in callback.protocol().items()
            },
        }
        plain = {key: value if math.isfinite(value) else None for key, value in figures.items()}
        write_json(folder / "figures.json", plain | {"protocol": protocol})


class _Elsewhere:
    """The trainer, but with another folder and no logger: what a test writes and draws must not be overwritten."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._trainer, self.default_root_dir = trainer, str(folder)
        self.loggers: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)
