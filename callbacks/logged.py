"""Logging of figures that every rank has computed from all ranks' rows."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor


def log_equal(module: LightningModule, values: Mapping[str, float | Tensor]) -> None:
    """Log figures that all ranks hold alike.

    Of equal numbers the largest is the number itself, while a mean of three rounds. Without a reduction Lightning
    advises one.
    """
    for key, value in values.items():
        tensor = torch.as_tensor(value, device=module.device)
        module.log(key, tensor, sync_dist=True, reduce_fx="max", batch_size=1)
