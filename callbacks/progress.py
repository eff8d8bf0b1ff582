"""`ProgressLine`: one printed line an epoch in place of a progress bar, for output that goes to a file."""

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def duration(seconds: float) -> str:
    """Seconds as a person reads them: "8 s", "3 min 05 s", "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class ProgressLine(Callback):
    """Prints on rank 0 after each training epoch, test and prediction, and in between when one is long.

    A line holds the module, the epoch, the step, the last value of every metric logged by epoch (those of one finding,
    `x/auroc/<finding>`, are left to the loggers), the time of the epoch and the time to go: by epochs or by steps,
    whichever ends first.

    Args:
        heartbeat: seconds after which a line is printed inside of an epoch.
    """

    def __init__(self, *, heartbeat: float = 60.0) -> None:
        self.heartbeat = heartbeat
        self._began = self._epoch_began = self._printed = 0.0
        self._first_epoch = self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a resumed run counts from where it resumed."""
        self._began = self._printed = time.monotonic()
        self._first_epoch, self._first_step = trainer.current_epoch, trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_began = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a heartbeat."""
        if self._due(trainer):
            self._print(trainer, pl_module, f"batch {batch_idx + 1}/{trainer.num_training_batches}", batch_idx + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line."""
        metrics = trainer.callback_metrics  # on all ranks: reading it may reduce
        if trainer.is_global_zero:
            figures = "  ".join(
                f"{key} {float(value):.4g}" for key, value in sorted(metrics.items()) if key.count("/") < 2
            )
            took = duration(time.monotonic() - self._epoch_began)
            self._print(trainer, pl_module, f"{figures}  {took}".strip(), trainer.num_training_batches)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._epoch_began = self._printed = time.monotonic()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a heartbeat."""
        if self._due(trainer):
            verb, batches = _evaluation(trainer)
            done, total = batch_idx + 1, batches[dataloader_idx]
            left = duration((time.monotonic() - self._epoch_began) / done * (total - done))
            print(f"{type(pl_module).__name__}  {verb}  batch {done}/{total}  to go {left}", flush=True)
            self._printed = time.monotonic()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how long it took."""
        if trainer.is_global_zero:
            verb, batches = _evaluation(trainer)
            took = duration(time.monotonic() - self._epoch_began)
            print(f"{type(pl_module).__name__}  {verb}ed {sum(int(n) for n in batches)} batches  {took}", flush=True)

    on_predict_epoch_start, on_predict_batch_end, on_predict_end = on_test_epoch_start, on_test_batch_end, on_test_end

    def _due(self, trainer: Trainer) -> bool:
        """Whether this rank is to print a heartbeat now."""
        return trainer.is_global_zero and time.monotonic() - self._printed >= self.heartbeat

    def _print(self, trainer: Trainer, module: LightningModule, what: str, batches_done: float) -> None:
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
        share = batches_done / trainer.num_training_batches if trainer.num_training_batches else 0.0
        left = self._time_left(trainer, epochs, share)
        print(
            f"{type(module).__name__}  epoch {trainer.current_epoch + 1}{f'/{epochs}' if epochs else ''}  "
            f"step {trainer.global_step}  {what}  to go {duration(left) if left is not None else 'unknown'}",
            flush=True,
        )
        self._printed = time.monotonic()

    def _time_left(self, trainer: Trainer, epochs: int | None, share: float) -> float | None:
        """Seconds by the rate since the start; None where neither epochs nor steps are bounded."""
        passed = time.monotonic() - self._began
        estimates = []
        done = trainer.current_epoch + share - self._first_epoch
        if epochs is not None and done > 0:
            estimates.append(passed / done * max(0.0, epochs - self._first_epoch - done))
        steps = trainer.global_step - self._first_step
        if trainer.max_steps > 0 and steps > 0:
            estimates.append(passed / steps * max(0, trainer.max_steps - trainer.global_step))
        return min(estimates) if estimates else None


def _evaluation(trainer: Trainer) -> tuple[str, Sequence[float]]:
    """What is being done, "test" or "predict", and its numbers of batches."""
    if trainer.predicting:
        return "predict", trainer.num_predict_batches
    return "test", trainer.num_test_batches
