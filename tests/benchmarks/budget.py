"""`AnnealedTimer`: trains for so many seconds, and lets the learning rate fall to zero where they end."""

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from lightning_modules.schedule import WARM_UP, half_cosine


class AnnealedTimer(Timer):
    """Lightning's Timer, whose clock also sets the learning rate: a linear warm-up, then half a cosine to 0.

    A schedule that counts steps would end early or late where it is not known how many steps the time will hold. The
    module must not have a schedule of its own.

    Args:
        seconds: wall-clock time of training.

    Attributes:
        cpu_seconds: time of all threads of this process on their cores, from the first batch to the end. Sides that ran
            beside different other work differ in it at equal wall-clock time.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(duration=timedelta(seconds=seconds), verbose=False)
        self.seconds, self.cpu_seconds = seconds, 0.0
        self._cpu_began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start both clocks.

        Raises:
            ValueError: if the module brings a schedule.
        """
        if trainer.lr_scheduler_configs:
            raise ValueError("AnnealedTimer sets the learning rate by time; leave the module's own schedule out")
        super().on_train_start(trainer, pl_module)
        self._cpu_began = time.process_time()

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Set the learning rate of the coming step."""
        share = self.time_elapsed() / self.seconds
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor(share)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop both clocks."""
        super().on_train_end(trainer, pl_module)
        self.cpu_seconds = time.process_time() - self._cpu_began


def factor(share: float) -> float:
    """What the learning rate is multiplied with when this share of the time is over."""
    return min(1.0, share / WARM_UP) * half_cosine(share)
