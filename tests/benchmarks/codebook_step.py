"""What a training step of the codebook costs, and where: `python -m tests.benchmarks.codebook_step`.

- `step_*`: the step of ImageCodebook against two optimisers that take turns (`two_optimisers.py`), both in float32, and
  ours in bf16 where the processor has bf16 arithmetic; with the classifier as feature network, as configs/codebook.yaml
  has it, and with VGG16, as taming-transformers has it. Sizes of configs/codebook.yaml, batches of 8, random weights.
- `forward_*`: the floating-point operations a second of the autoencoder's forward over those of the fastest 3×3
  convolution among the network's own widths and sides.
- `lightning_*`: the same step inside Trainer.fit and bare, taken in turns.

One thread, CPU time; glibc keeps freed memory for all sides alike.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.codebook import ImageCodebook
from lightning_modules.feature_networks import FrozenFeatures
from lightning_modules.networks.classifier import ClassifierConfig, FindingNetwork
from lightning_modules.networks.features import LPIPSNetwork
from lightning_modules.networks.vqgan import VQGAN, VQGANConfig, base, small
from lightning_modules.precision import fastest_precision
from tests.benchmarks.record import in_tuned_process, interleaved, write
from tests.benchmarks.two_optimisers import TwoOptimisers

SHIPPED = VQGANConfig(stem=2, channels=(32, 64, 128), codes=512)
BATCH = 8
NO_BF16 = "not measured: this processor has no bf16 arithmetic, PyTorch emulates it"


def classifier() -> nn.Module:
    """The network of a FindingClassifier with its default sizes."""
    return FrozenFeatures(FindingNetwork(ClassifierConfig()), digest="random classifier")


def vgg16() -> nn.Module:
    """The network of LPIPS."""
    state = torchvision.models.vgg16(weights=None).state_dict()
    return FrozenFeatures(LPIPSNetwork("vgg16", state, source="random"), digest="random VGG16")


def playing(config: VQGANConfig, features: Callable[[], nn.Module], **kwargs: Any) -> ImageCodebook:
    """A codebook whose discriminator plays at full weight from the first step on, its feature networks open."""
    torch.manual_seed(0)
    module = ImageCodebook(
        config, perceptual_network=features, clinical_network=features, perceptual=1.0, clinical=0.1, cosine=False,
        discriminator_start=0, discriminator_ramp=1, **kwargs,
    )  # fmt: skip
    module.on_fit_start()
    return module


def images(config: VQGANConfig, count: int = BATCH) -> Tensor:
    """Noise [count,1,H,W] in [-1,1]."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, config.resolution, config.resolution, generator=generator) * 2 - 1


def adamw(params: Any) -> torch.optim.Optimizer:
    """Steps so small that the weights stay what they were made as."""
    return torch.optim.AdamW(params, lr=1e-6, betas=(0.8, 0.98))


def optimizer_of(module: ImageCodebook) -> torch.optim.Optimizer:
    """One optimiser, a parameter group a player, as ImageCodebook configures it."""
    return adamw([{"params": list(player.parameters())} for player in (module.network, module.discriminator)])


def bare(module: ImageCodebook, optimizer: torch.optim.Optimizer, image: Tensor, *, clip: float | None = None) -> None:
    """The step of ImageCodebook as a loop by hand takes it; gradients stay until the next."""
    optimizer.zero_grad()
    module.both_losses(image)[0].backward()
    module.configure_gradient_clipping(optimizer, clip, "norm")
    optimizer.step()


def differences(module: ImageCodebook, image: Tensor) -> dict[str, float]:
    """How far the gradients of our step are from those of two optimisers that do not move.

    Args:
        module: whose quantiser has begun and stands still (decay 1, restart_below 0).
        image: float32 [B,1,H,W] in [-1,1].

    Returns:
        For each player the norm of the difference of all its gradients over their norm.
    """
    reference = copy.deepcopy(module)
    TwoOptimisers(reference, optimizer=lambda params: torch.optim.SGD(params, lr=0.0)).step(image)
    bare(module, torch.optim.SGD(module.parameters(), lr=0.0), image)
    found = {}
    for name in ("network", "discriminator"):
        ours, theirs = (
            torch.cat([p.grad.flatten() for p in getattr(m, name).parameters()]) for m in (module, reference)
        )
        found[name] = float((ours - theirs).norm() / theirs.norm())
    return found


def sides(features: Callable[[], nn.Module]) -> dict[str, Callable[[], None]]:
    """The steps that are compared, taken once already; ours in both precisions on one model."""
    module, image = playing(SHIPPED, features), images(SHIPPED)
    two = TwoOptimisers(copy.deepcopy(module), optimizer=adamw)
    optimizer = optimizer_of(module)

    def in_bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            bare(module, optimizer, image)

    found = {"ours": lambda: bare(module, optimizer, image), "two": lambda: two.step(image)}
    if fastest_precision("cpu") == "bf16-mixed":
        found["bf16"] = in_bf16
    for step in found.values():
        step()
    return found


def steps(rounds: int) -> dict[str, Any]:
    """Our step against two optimisers'."""
    figures: dict[str, Any] = {}
    for name, features in (("classifier", classifier), ("vgg16", vgg16)):
        seconds = interleaved(sides(features), rounds=rounds, cpu=True)
        figures |= {f"step_{name}_{side}_ms": 1000 * value for side, value in seconds.items()}
        figures[f"step_{name}_ratio"] = seconds["two"] / seconds["ours"]
        figures[f"step_{name}_bf16_ratio"] = seconds["two"] / seconds["bf16"] if "bf16" in seconds else NO_BF16
    return figures


def forward(config: VQGANConfig, *, count: int, rounds: int) -> dict[str, Any]:
    """The autoencoder's forward on `count` images against the fastest convolution of its widths."""
    network, image = VQGAN(config).eval(), images(config, count)
    timed, operations = {"forward": lambda: network(image)}, {}
    for level, width in enumerate(config.channels):
        side = config.resolution // config.stem // 2**level
        convolution = nn.Conv2d(width, width, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.randn(count, width, side, side).contiguous(memory_format=torch.channels_last)
        timed[f"{width}×{side}×{side}"] = lambda convolution=convolution, x=x: convolution(x)
    with torch.no_grad():
        for name, run in timed.items():
            with FlopCounterMode(display=False) as counter:
                run()
            operations[name] = counter.get_total_flops()
        seconds = interleaved(timed, rounds=rounds, cpu=True)
    rates = {name: operations[name] / value / 1e9 for name, value in seconds.items()}
    reached = rates.pop("forward")
    peak = max(rates, key=lambda name: rates[name])
    return {
        "gflop": operations["forward"] / 1e9, "s": seconds["forward"], "gflop_per_s": reached,
        "peak_gflop_per_s": rates[peak], "peak_of": peak, "share": reached / rates[peak],
    }  # fmt: skip


class Turns:
    """A loader of one batch whose every second turn is a bare step: between two batches Lightning takes its own.

    Args:
        batch: what Lightning gets.
        other: the bare step.
        count: turns that are timed, after one that is not.
    """

    def __init__(self, batch: dict[str, Any], other: Callable[[], None], *, count: int) -> None:
        self.batch, self.other, self.count = batch, other, count
        self.times: dict[str, list[float]] = {"lightning": [], "bare": []}

    def __len__(self) -> int:
        return self.count + 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for turn in range(len(self)):
            began = time.process_time()
            yield self.batch
            between = time.process_time()
            self.other()
            if turn:
                self.times["lightning"].append(between - began)
                self.times["bare"].append(time.process_time() - between)


def under_lightning(rounds: int) -> dict[str, Any]:
    """The step inside Trainer.fit without callbacks and loggers against the same step bare."""
    module, image = playing(SHIPPED, classifier, optimizer=adamw), images(SHIPPED)
    twin = copy.deepcopy(module)
    optimizer = optimizer_of(twin)
    turns = Turns({"image": image}, lambda: bare(twin, optimizer, image, clip=1.0), count=rounds)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=0, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, turns, turns)
    seconds = {name: statistics.median(values) for name, values in turns.times.items()}
    figures = {f"lightning_{name}_ms": 1000 * value for name, value in seconds.items()}
    return figures | {"lightning_ratio": seconds["bare"] / seconds["lightning"]}


def measure(*, rounds: int = 9) -> dict[str, Any]:
    """Medians of alternating rounds, and ratios (above 1: ours is faster)."""
    if (figures := in_tuned_process("codebook_step", str(rounds))) is not None:
        return figures
    torch.set_num_threads(1)
    figures = {"threads": 1, "rounds": rounds} | steps(rounds)
    # Three passes of 391 GFLOP are long enough.
    for name, config, count, times in (("base", base(), 1, 3), ("small", small(), 4, rounds)):
        found = forward(config, count=count, rounds=times)
        figures |= {f"forward_{name}_{key}": value for key, value in found.items()}
    return write("codebook_step", figures | under_lightning(3 * rounds))


if __name__ == "__main__":
    measure(rounds=int(sys.argv[1]) if len(sys.argv) > 1 else 9)
