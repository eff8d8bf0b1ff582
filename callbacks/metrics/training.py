"""A small classifier of findings trained from nothing, by a recipe that is the same whatever it is trained on.

N training and M test images of H × W pixels, F findings, B images a batch.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.metrics.labelled import LabelledImages

CHUNK = 64  # test images a forward pass


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each classifier is trained: AdamW, a learning rate that warms up and falls to 0 along half a cosine.

    Attributes:
        steps: optimisation steps, the same for every training set, so that only the data differ.
        batch: images a step. A set is gone through in random order, again and again; one smaller than a batch, several
            times a step.
        lr: highest learning rate.
        weight_decay: of AdamW.
        shift: images are moved by up to so many pixels in both directions, their edges repeated: small sets would be
            learnt by heart otherwise.
    """

    steps: int = 300
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    shift: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.lr <= 0 or self.shift < 0:
            raise ValueError(
                f"steps {self.steps}, batch {self.batch}, lr {self.lr}, shift {self.shift}; expected at least 1 and 1, "
                "above 0, and 0 or more"
            )


def build(classifier: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A classifier with the weights of a seed; the generators of the process stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return classifier()


def weights_digest(network: nn.Module) -> str:
    """Sha256 over a network's description and weights."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def trained_scores(
    classifier: Callable[[], nn.Module],
    train: LabelledImages,
    test: Tensor,
    *,
    recipe: Recipe,
    seed: int,
    device: torch.device,
) -> Tensor:
    """Train a classifier and let it judge test images.

    The loss is binary cross-entropy, the mean over the known labels of a batch. The same arguments give the same scores
    on one kind of device; it can be called with gradients switched off, and leaves the process's generators alone.

    Args:
        classifier: makes a module that takes float32 [B,1,H,W] in [-1,1] and gives an object with `logits` [B,F].
        train: N images.
        test: uint8 [M,H,W].
        recipe: see `Recipe`.
        seed: of the first weights, dropout, the order of the images and their shifts.
        device: where.

    Returns:
        Float32 [M,F] on the CPU.

    Raises:
        ValueError: if the loss or a score is not finite.
    """
    cuda = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=cuda),
        torch.autocast(device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(seed)
        network = classifier().to(device).train()
        _fit(network, train, recipe=recipe, generator=torch.Generator().manual_seed(seed), device=device)
        network.eval()
        with torch.no_grad():
            scores = torch.cat([_logits(network, _images(part.clone(), device)).cpu() for part in test.split(CHUNK)])
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(f"the classifier trained on {len(train.pixels)} images gives scores that are not finite")
    return scores


def _fit(
    network: nn.Module, train: LabelledImages, *, recipe: Recipe, generator: torch.Generator, device: torch.device
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    warm = max(1, recipe.steps // 20)
    waiting = torch.empty(0, dtype=torch.int64)
    for step in range(recipe.steps):
        while len(waiting) < recipe.batch:
            waiting = torch.cat([waiting, torch.randperm(len(train.pixels), generator=generator)])
        rows, waiting = waiting[: recipe.batch], waiting[recipe.batch :]
        offsets = torch.randint(-recipe.shift, recipe.shift + 1, (recipe.batch, 2), generator=generator)
        images = _images(shifted(train.pixels[rows], offsets), device)
        labels = train.labels[rows].to(device)
        known = ~labels.isnan()
        losses = F.binary_cross_entropy_with_logits(_logits(network, images), labels.nan_to_num(), reduction="none")
        loss = torch.where(known, losses, 0.0).sum() / known.sum().clamp_min(1)
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the classifier's loss is {loss.item()} at step {step}; a smaller recipe.lr may help")
        for group in optimizer.param_groups:
            falling = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
            group["lr"] = recipe.lr * min(1.0, (step + 1) / warm) * falling
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def shifted(pixels: Tensor, offsets: Tensor) -> Tensor:
    """Each of [B,H,W] moved by its offset int64 [B,2] (down, right), the edges repeated."""
    rows, columns = (torch.arange(size) for size in pixels.shape[1:])
    down = (rows[None] - offsets[:, :1]).clamp(0, len(rows) - 1)  # B H
    right = (columns[None] - offsets[:, 1:]).clamp(0, len(columns) - 1)  # B W
    return pixels[torch.arange(len(pixels))[:, None, None], down[:, :, None], right[:, None, :]]


def _images(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels[:, None].to(device).float().div_(127.5).sub_(1.0)


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    output = network(images)
    if not hasattr(output, "logits"):
        raise TypeError(
            f"{type(network).__name__} gives {type(output).__name__}; expected an object with `logits` [B,14], as "
            "lightning_modules.networks.classifier.FindingNetwork does"
        )
    return cast(Tensor, output.logits).float()
