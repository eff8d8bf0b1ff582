"""`HealthAlarm`: stops a run that has gone wrong, says what was seen and what to try, keeps the last good checkpoint.

Three things are watched. Gradients, before each step: a step with NaN is never taken. Codes and reconstructions, at
each validation: a codebook that falls back to a few codes or a decoder that draws one image for all is reported. The
weights of every checkpoint, before it is written: a broken one never replaces a good one. A discriminator that has won
ruins nothing and only stops to teach: it is warned of, once.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.metrics.spread import FLAT, ReconstructionSpread, Spread
from datamodules.manifest import Batch

# With fp16 the gradient scaler finds its scale by steps that overflow and are left out.
SCALER_PATIENCE = 20
NAMED = 3  # how many of a long list a message names

DIVERGED = (
    "lower the learning rate, set trainer.gradient_clip_val=1.0, or a later discriminator_start; with 16-mixed take "
    "bf16-mixed or 32-true"
)
COLLAPSED = (
    "lower the learning rate, raise restart_below (0.03 by default), take decay 0.97 or more, a larger batch, or a "
    "later discriminator_start with less adversarial weight"
)


class TrainingAlarm(RuntimeError):
    """The run was stopped because it would only have gone on broken."""


class HealthAlarm(Callback):
    """Raises a `TrainingAlarm`, so that the process ends with an error; a threshold of null watches nothing.

    All ranks see the same gradients and reduced figures, so they stop together.

    Args:
        min_usage: share of the codes that must occur, in the training epoch and in validation.
        min_perplexity: of the codes, by the same measure as the logged one: 1 when a single code is used.
        min_contrast: deviation within and between reconstructions, each over that of the real images, which must have
            some.
        min_explained: share of the real images' variance around their mean image; 0 is drawing the mean image.
        after_steps: optimiser steps before the thresholds count: nothing is learnt at first. NaN counts at once.
        output: the key of the reconstructions in what the validation step returns.
        min_discriminator: its hinge loss, on average over a training epoch: 1 where it cannot tell, 0 where it always
            can. Below it there is a warning.
    """

    def __init__(
        self,
        *,
        min_usage: float | None = 0.05,
        min_perplexity: float | None = 2.0,
        min_contrast: float | None = 0.1,
        min_explained: float | None = 0.0,
        after_steps: int = 200,
        output: str = "reconstruction",
        min_discriminator: float | None = 0.1,
    ) -> None:
        self.min_usage, self.min_perplexity = min_usage, min_perplexity
        self.min_contrast, self.min_explained = min_contrast, min_explained
        self.after_steps, self.output = after_steps, output
        self.min_discriminator = min_discriminator
        self._verdicts: list[Tensor] = []  # of the epoch; read at its end, since reading waits for the device
        self.spread = ReconstructionSpread()
        self._batch: Any = None
        self._overflows = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the batch, to name its images."""
        self._batch = batch

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Stop before a step whose gradients are not finite.

        Raises:
            TrainingAlarm: naming the losses, parameters and images.
        """
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not gradients or bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
            self._overflows = 0
            return
        self._overflows += 1
        if getattr(trainer.precision_plugin, "scaler", None) is not None and self._overflows < SCALER_PATIENCE:
            return
        names = [n for n, p in pl_module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        seen = [
            "the gradient is not finite" if names else "the gradient's norm is not finite",
            f"losses: {shorten(self._broken_losses(trainer)) or 'all finite on this rank'}",
        ]
        if names:
            seen.append(f"{len(names)} parameters have such a gradient: {shorten(names)}")
        seen.append(describe_batch(self._batch))
        raise self._alarm(trainer, seen, attempt=f"{DIVERGED}; the step was not taken, so the weights are those before")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add step, images and checkpoint to the error of a network that refuses NaN, as the quantisers do."""
        if isinstance(exception, FloatingPointError):
            exception.add_note(str(self._alarm(trainer, [describe_batch(self._batch)], attempt=DIVERGED)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the batch go."""
        self._batch = None
        verdict = None if self.min_discriminator is None else trainer.callback_metrics.get("train/discriminator")
        if verdict is not None:
            self._verdicts.append(verdict.detach())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of a discriminator that has won."""
        loss = float(torch.stack(self._verdicts).mean()) if self._verdicts else math.nan
        self._verdicts.clear()
        if self.min_discriminator is not None and loss < self.min_discriminator:
            rank_zero_warn(
                f"the discriminator has won: its loss was {loss:.2g} on average over epoch {trainer.current_epoch + 1} "
                "(1 where it cannot tell real images from reconstructions, 0 where it always can), so it teaches "
                "little more; with a lower discriminator_rate or a later discriminator_start it stays useful"
            )
            self.min_discriminator = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        self.spread.to(pl_module.device).reset()
        # A rank without images takes part in the sums.
        nothing = torch.zeros(0, 1, 2, 2, device=pl_module.device)
        self.spread.update(nothing, nothing)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the batch for the message of an error in it."""
        self._batch = batch

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect reconstructions where the step made some."""
        self._batch = None
        if isinstance(outputs, Mapping) and self.output in outputs:
            self.spread.update(outputs[self.output], batch["image"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at codes and reconstructions of a validation during a fit.

        Raises:
            TrainingAlarm: naming the figures and their thresholds.
        """
        if not self._watches(trainer):
            return
        spread = self.spread.compute()
        if flat := self._flat(spread):
            raise self._alarm(trainer, [flat], attempt="look at the data with `python -m datamodules doctor`")
        if seen := [*self._codes(trainer, "validate/"), *self._reconstructions(spread)]:
            raise self._alarm(trainer, seen, attempt=COLLAPSED)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to write a checkpoint of broken weights, or of a training epoch whose codes collapsed.

        Raises:
            TrainingAlarm: naming the tensors; the file that was to be replaced stays.
        """
        # Beside averaged weights the current ones stand under a key of their own.
        states = [checkpoint.get("state_dict", {}), checkpoint.get("current_model_state", {})]
        broken = sorted({name for state in states for name in broken_tensors(state)})
        if broken:
            seen = [f"{len(broken)} tensors of the checkpoint to be written are not finite: {shorten(broken)}"]
            raise self._alarm(trainer, seen, attempt=DIVERGED)
        # Before the last batch, the training figures are still those of the epoch before.
        if self._watches(trainer) and trainer.is_last_batch and (seen := self._codes(trainer, "train/")):
            raise self._alarm(trainer, seen, attempt=COLLAPSED)

    def _watches(self, trainer: Trainer) -> bool:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        return fitting and trainer.global_step >= self.after_steps

    def _codes(self, trainer: Trainer, prefix: str) -> list[str]:
        metrics = trainer.callback_metrics
        return [
            f"{key} {float(metrics[key]):.4g} is below {least:.4g}"
            for key, least in ((f"{prefix}usage", self.min_usage), (f"{prefix}perplexity", self.min_perplexity))
            if least is not None and key in metrics and not float(metrics[key]) >= least
        ]

    def _flat(self, spread: Spread) -> str | None:
        if self.min_contrast is None or not spread.images:
            return None
        if spread.real <= FLAT:
            return f"the {spread.images} real images of validation are flat: their deviation is {spread.real:.2g}"
        if spread.images > 1 and math.isnan(spread.variety):
            return f"the {spread.images} real images of validation are all the same"
        return None

    def _reconstructions(self, spread: Spread) -> list[str]:
        seen = []
        if self.min_contrast is not None and spread.contrast < self.min_contrast:
            seen.append(
                f"reconstructions are constant: the deviation within one is {spread.contrast:.3g} of a real image's, "
                f"below {self.min_contrast:.3g}"
            )
        if self.min_contrast is not None and spread.variety < self.min_contrast:
            seen.append(
                f"reconstructions are all alike: they differ by {spread.variety:.3g} of what real images differ by, "
                f"below {self.min_contrast:.3g}"
            )
        if self.min_explained is not None and spread.explained < self.min_explained:
            seen.append(
                f"reconstructions are worse than the mean image: they explain {spread.explained:.3g} of the variance "
                f"around it, below {self.min_explained:.3g}"
            )
        if spread.real > FLAT and not math.isfinite(spread.contrast):
            seen.append("reconstructions are not finite")
        return seen

    def _broken_losses(self, trainer: Trainer) -> list[str]:
        metrics = trainer.callback_metrics
        found = {key: float(value) for key, value in sorted(metrics.items()) if key.startswith("train/")}
        return [f"{key} {value}" for key, value in found.items() if not math.isfinite(value)]

    def _alarm(self, trainer: Trainer, seen: Iterable[str], *, attempt: str) -> TrainingAlarm:
        rates = sorted({group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups})
        good = last_good(trainer)
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written before"
        return TrainingAlarm(
            f"stopped at step {trainer.global_step} (epoch {trainer.current_epoch + 1}):\n"
            + "".join(f"  seen: {line}\n" for line in seen)
            + f"  kept: {kept}\n"
            + f"  try: {attempt}; the learning rate was {', '.join(f'{rate:.3g}' for rate in rates)}"
        )


def last_good(trainer: Trainer) -> str | None:
    """The newest checkpoint of this run that exists, else the one it was resumed from."""
    paths = [
        path
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        for path in (callback.last_model_path, callback.best_model_path)
    ]
    found = [path for path in (*paths, trainer.ckpt_path) if path and Path(path).is_file()]
    return str(found[0]) if found else None


def broken_tensors(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
    ]


def describe_batch(batch: Any) -> str:
    """The images of a batch: whether they are finite, and their first ids."""
    image = batch.get("image") if isinstance(batch, Mapping) else None
    if not isinstance(image, Tensor):
        return "the batch holds no images"
    state = "finite" if bool(image.isfinite().all()) else "NOT finite: look at the data first"
    ids = [str(name) for name in batch.get("image_id", [])]
    return f"the batch's {len(image)} images are {state}" + (f" ({shorten(ids)})" if ids else "")


def shorten(items: list[str]) -> str:
    """The first of a list, and how many more there are."""
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
