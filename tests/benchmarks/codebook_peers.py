"""The codebook beside MONAI's VQVAE and beside its own plain form: `python -m tests.benchmarks.codebook_peers`.

All sides see the same images in the same batches for the same wall-clock time, have decoders of equal size (within
10 %), the same grid and number of codes, and are tested by the same callbacks with the same judge:

- ours: what the given configs say;
- plain: the same with straight-through gradients and no restart of dead codes;
- monai: MONAI's VQVAE with its own losses, at the learning rate of its tutorial and at ten times it.

A step of each side is timed first, so that schedules end where the time does.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from callbacks.downstream import DownstreamClassifier
from callbacks.fid import FrechetDistance
from lightning_modules.classifier import FrozenFindingClassifier
from lightning_modules.codebook import ImageCodebook
from lightning_modules.precision import fastest_precision
from lightning_modules.stages import file_digest
from main import main as command_line
from tests.benchmarks.monai_codebook import MonaiCodebook, parameters, peer
from tests.benchmarks.record import write

ROOT = Path(__file__).parents[2]
CONFIGS = ("base.yaml", "codebook.yaml", "experiment/nih/codebook.yaml", "experiment/nih/codebook-1024.yaml")
PLAIN = ("--model.init_args.network.gradient=straight-through", "--model.init_args.network.restart_below=0")
FIGURES = ("psnr", "ssim", "usage", "perplexity", "rfid", "auroc_retained")
WARM_UP, TIMED = 2, 8  # steps


def shipped(arguments: Sequence[str]) -> tuple[ImageCodebook, lightning.LightningDataModule]:
    """The module and the data that `main.py fit` would build."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = ("--trainer.logger=false", "--trainer.callbacks=[]", "--trainer.max_epochs=0", f"--run_dir={folder}")
        cli = command_line(["fit", *arguments, *quiet])
    return cli.model, cli.datamodule


def sides(arguments: Sequence[str]) -> dict[str, Callable[[], lightning.LightningModule]]:
    """Side → what makes its module, with random weights."""

    def monai(lr: float) -> MonaiCodebook:
        ours = shipped(arguments)[0].network
        lightning.seed_everything(0, verbose=False)
        return MonaiCodebook(peer(ours.config, decoder=parameters(ours.decoder)), codes=ours.config.codes, lr=lr)

    return {
        "ours": lambda: shipped(arguments)[0],
        "plain": lambda: shipped([*arguments, *PLAIN])[0],
        "monai": lambda: monai(1e-4),
        "monai, lr 1e-3": lambda: monai(1e-3),
    }


def timed(module: lightning.LightningModule) -> lightning.LightningModule:
    """The module with all that a step will cost: the discriminator plays from the start."""
    if isinstance(module, ImageCodebook):
        module.discriminator_start = 0
    return module


def train(module: lightning.LightningModule, data: lightning.LightningDataModule, *, steps: int) -> float:
    """Train so many steps; seconds without what comes before the first."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            **QUIET, default_root_dir=folder, max_epochs=-1, max_steps=steps, limit_val_batches=0,
            gradient_clip_val=1.0, callbacks=[clock],
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    return clock.seconds


class StepClock(lightning.Callback):
    """Seconds from the start of the first batch to the end of the last."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start at the first batch."""
        self._began = self._began or time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure."""
        self.seconds = time.monotonic() - self._began


QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "use_distributed_sampler": False, "precision": fastest_precision("cpu"),
}  # fmt: skip


def test(module: lightning.LightningModule, data: lightning.LightningDataModule, *, judge: str) -> dict[str, float]:
    """`FIGURES` on the test split."""
    rfid = FrechetDistance(
        FrozenFindingClassifier(judge), output="reconstruction", prefix="codebook", name="rfid", controls=False
    )
    retained = DownstreamClassifier(
        FrozenFindingClassifier(judge), output="reconstruction", prefix="codebook", ratio="retained"
    )
    (found,) = lightning.Trainer(**QUIET, callbacks=[rfid, retained]).test(module, datamodule=data, verbose=False)
    return {name: float(found[f"codebook/{name}"]) for name in FIGURES}


def measure(arguments: Sequence[str], *, judge: str, minutes: float, names: Sequence[str] | None = None) -> dict:
    """All sides one after another; the figures are written after each.

    Args:
        arguments: of `main.py fit`, which say what the codebook and its data are.
        judge: checkpoint of a FindingClassifier, for rFID and AUROC; no loss looks through it.
        minutes: training time of each side.
        names: which sides.
    """
    _, data = shipped(arguments)
    manifest = data.manifest  # type: ignore[attr-defined]
    figures: dict[str, Any] = {
        "minutes": minutes, "data_digest": manifest.digest(), "judge": file_digest(judge), "seed": 0,
        "precision": QUIET["precision"], "threads": torch.get_num_threads(),
        "train": int((manifest.frame["split"] == "train").sum()), "n": int((manifest.frame["split"] == "test").sum()),
    }  # fmt: skip
    made: Mapping[str, Callable[[], lightning.LightningModule]] = sides(arguments)
    for name in names or made:
        short, long = (train(timed(made[name]()), data, steps=n) for n in (WARM_UP, WARM_UP + TIMED))
        steps = max(1, round(60 * minutes / max(1e-9, (long - short) / TIMED)))
        module = made[name]()
        seconds = train(module, data, steps=steps)
        figures[name] = {
            "steps": steps,
            "seconds": seconds,
            "parameters": parameters(module.network),
            "parameters_decoder": parameters(module.network.decoder),
            **test(module, data, judge=judge),
        }
        write("codebook_peers", figures)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="below configs/")
    parser.add_argument("--judge", default=str(ROOT / "runs/nih/classifier/checkpoints/last.ckpt"))
    parser.add_argument("--minutes", type=float, default=15.0, help="of training of each side")
    parser.add_argument("--sides", nargs="+")
    given, more = parser.parse_known_args()
    flags = [flag for name in given.configs for flag in ("-c", str(ROOT / "configs" / name))]
    measure([*flags, *more], judge=given.judge, minutes=given.minutes, names=given.sides)
