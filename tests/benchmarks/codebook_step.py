"""The codebook's training step against two optimisers, peak and bare loop: `python -m tests.benchmarks.codebook_step`.

1. One backward for both players against the literal step with two optimisers (`two_optimisers.py`), both in float32,
   and ours in bf16 against the same; equal gradients are checked first.
2. The forward of the autoencoder against a convolution of its middle width, in floating-point operations a second.
3. The step under a Trainer against the same step in a bare loop.

Sizes are those of `small()`: 128 px, f8, 1,024 codes, with a FindingClassifier as feature network; random weights.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.classifier import FindingClassifier
from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks.classifier import ClassifierConfig
from lightning_modules.networks.features import Features
from lightning_modules.networks.vqgan import VQGANConfig, small
from lightning_modules.precision import fastest_precision
from tests.benchmarks.record import interleaved, write
from tests.benchmarks.two_optimisers import TwoOptimisers


class RandomClassifier(torch.nn.Module):
    """The feature network of a classifier that has learnt nothing: as costly as one that has."""

    digest = "random"

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.classifier = FindingClassifier(ClassifierConfig(resolution=resolution)).eval().requires_grad_(False)

    def output(self, image: Tensor) -> Features:
        """Maps and features of images [B,1,H,W]."""
        return self.classifier.network(image)


def codebook(config: VQGANConfig) -> ImageCodebook:
    """A codebook all of whose losses are on, and that has seen one batch, so that its codes are started."""
    torch.manual_seed(0)
    module = ImageCodebook(
        config,
        perceptual_network=lambda: RandomClassifier(config.resolution),
        clinical_network=lambda: RandomClassifier(config.resolution),
        perceptual=1.0,
        clinical=0.1,
        adversarial=0.1,
        discriminator_start=0,
        discriminator_ramp=1,
        cosine=False,
    )
    module.on_fit_start()
    module.network(torch.rand(4, 1, config.resolution, config.resolution) * 2 - 1)
    return module


def gradient_difference(config: VQGANConfig, image: Tensor) -> float:
    """The largest difference of a gradient of the two ways, over the largest gradient of that player."""
    ours = codebook(config)
    ours.network.quantizer.decay = 1.0  # the second turn of the other sees the codes of the first
    ours.network.quantizer.restart_below = 0.0
    literal = iter(TwoOptimisers(copy.deepcopy(ours)).gradients(image))
    ours.both_losses(image)[0].backward()
    worst = []
    for player in (ours.network, ours.discriminator):
        pairs = [(p.grad, next(literal)) for p in player.parameters()]
        largest = max(float(g.abs().max()) for _, g in pairs)
        worst.append(max(float((found - g).abs().max()) for found, g in pairs if found is not None) / largest)
    return max(worst)


def our_step(module: ImageCodebook, image: Tensor, *, bf16: bool = False) -> Callable[[], None]:
    """One backward and one optimiser step for both players."""
    optimizer = module.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total, _ = module.both_losses(image)
        total.backward()
        optimizer.step()

    return step


def convolution_peak(image: Tensor, *, channels: int = 96, side: int = 64, rounds: int = 5) -> float:
    """Floating-point operations a second of a 3 × 3 convolution, channels last, as many images as in the batch."""
    given = torch.randn(len(image), channels, side, side).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        functional.conv2d(given, weight, padding=1)
        seconds = interleaved({"conv": lambda: functional.conv2d(given, weight, padding=1)}, rounds=rounds, cpu=True)
    return 2 * 9 * channels**2 * side**2 * len(image) / seconds["conv"]


def forward_rate(module: ImageCodebook, image: Tensor, *, rounds: int) -> float:
    """Floating-point operations a second of a forward pass of the autoencoder in evaluation mode."""
    network = copy.deepcopy(module.network).eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as counted:
            network(image)
        seconds = interleaved({"forward": lambda: network(image)}, rounds=rounds, cpu=True)
    return counted.get_total_flops() / seconds["forward"]


class StepClock(Callback):
    """Times a run from the end of its first batch to the end of its last."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start after the first batch; measure after each other one."""
        if batch_idx == 0:
            self._began = time.process_time()
        self.seconds = (time.process_time() - self._began) / max(1, batch_idx)


def under_trainer(module: ImageCodebook, image: Tensor, *, steps: int) -> float:
    """Seconds a step of a Trainer without loggers and checkpoints."""
    clock = StepClock()
    trainer = lightning.Trainer(
        max_steps=steps + 1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[clock], barebones=False,
    )  # fmt: skip
    rows = [{"image": one} for one in image] * (steps + 1)
    trainer.fit(module, DataLoader(rows, batch_size=len(image)))
    return clock.seconds


def bare(module: ImageCodebook, image: Tensor, *, steps: int) -> float:
    """Seconds a step of a loop over the same loader."""
    step = our_step(module, image)
    step()
    began = time.process_time()
    for _ in DataLoader([{"image": one} for one in image] * steps, batch_size=len(image)):
        step()
    return (time.process_time() - began) / steps


def measure(config: VQGANConfig | None = None, *, batch: int = 8, rounds: int = 5) -> dict[str, Any]:
    """All figures on one thread; a ratio above 1 says that ours is faster."""
    torch.set_num_threads(1)
    config = config or small()
    image = torch.rand(batch, 1, config.resolution, config.resolution) * 2 - 1
    figures: dict[str, Any] = {
        "threads": 1, "rounds": rounds, "batch": batch, "resolution": config.resolution,
        "gradients_largest_relative_difference": gradient_difference(config, image),
    }  # fmt: skip
    literal, ours = TwoOptimisers(codebook(config)), our_step(codebook(config), image)
    sides: dict[str, Callable[[], Any]] = {"two_optimisers": lambda: literal.step(image), "ours": ours}
    fast = fastest_precision("cpu") == "bf16-mixed"
    if fast:
        sides["ours_bf16"] = our_step(codebook(config), image, bf16=True)
    for side in sides.values():
        side()
    seconds = interleaved(sides, rounds=rounds, cpu=True)
    figures |= {f"step_{name}_s": value for name, value in seconds.items()}
    figures["step_ratio"] = seconds["two_optimisers"] / seconds["ours"]
    figures["step_ratio_bf16"] = (
        seconds["two_optimisers"] / seconds["ours_bf16"] if fast else "not measured: no bf16 arithmetic here"
    )
    module = codebook(config)
    peaks, rates = [], []
    for _ in range(3):
        peaks.append(convolution_peak(image))
        rates.append(forward_rate(module, image, rounds=3))
    figures["convolution_gflops"] = statistics.median(peaks) / 1e9
    figures["forward_gflops"] = statistics.median(rates) / 1e9
    figures["forward_share_of_peak"] = statistics.median(rates) / statistics.median(peaks)
    pairs = [
        (bare(codebook(config), image, steps=rounds), under_trainer(codebook(config), image, steps=rounds))
        for _ in range(3)
    ]
    figures["trainer_ratio"] = statistics.median(alone / trained for alone, trained in pairs)
    return write("codebook_step", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    measure(rounds=given.rounds, batch=given.batch)
