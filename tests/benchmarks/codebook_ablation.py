"""What each part of the codebook is worth: `python -m tests.benchmarks.codebook_ablation`, after `make demo`.

Every variant is the shipped configuration of configs/codebook.yaml with one part changed, trained for the same number
of epochs from the same seeds and tested as `main.py test` does. A finished run is not repeated, so that an interrupted
benchmark goes on where it stopped. Seeds are those of weights and order; the splits stay the same.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from main import main as command_line
from tests.benchmarks.record import write

ROOT = Path(__file__).parents[2]
NETWORK, MODEL = "--model.init_args.network.", "--model.init_args."
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "clinical off": (f"{MODEL}clinical=0",),
    "perceptual off": (f"{MODEL}perceptual=0",),
    "GAN off": (f"{MODEL}adversarial=0",),
    "straight-through": (f"{NETWORK}gradient=straight-through",),
    "straight-through, no restart": (f"{NETWORK}gradient=straight-through", f"{NETWORK}restart_below=0"),
    "FSQ": (f"{NETWORK}quantizer=fsq", f"{NETWORK}levels=[8,8,8]", f"{NETWORK}codes=512"),
}
# Figures of a variant by the name they have in metrics.json.
FIGURES = {
    "auroc_retained": "codebook/auroc_retained",
    "rfid": "codebook/rfid",
    "usage": "codebook/usage",
    "perplexity": "codebook/perplexity",
    "psnr": "codebook/psnr",
    "ssim": "codebook/ssim",
}


def run(folder: Path, arguments: Sequence[str], *, seed: int, epochs: int) -> dict[str, Any]:
    """Train and test one variant in a folder, or read what an earlier call found there.

    Args:
        folder: of this variant, seed and number of epochs.
        arguments: what is changed.
        seed: of weights and order.
        epochs: how long.

    Returns:
        `FIGURES`, "minutes" of training, and "protocol" as metrics.json holds it.
    """
    done = folder / "ablation.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    configs = ["-c", str(ROOT / "configs/base.yaml"), "-c", str(ROOT / "configs/codebook.yaml")]
    common = [*configs, *arguments, f"--run_dir={folder}", f"--seed_everything={seed}"]
    began = time.monotonic()
    command_line(["fit", *common, f"--trainer.max_epochs={epochs}", f"--data.init_args.seed={seed}"])
    minutes = (time.monotonic() - began) / 60
    command_line(["test", *common, f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"])
    metrics = json.loads((folder / "metrics.json").read_text())
    found = {name: metrics[key] for name, key in FIGURES.items()}
    found |= {"minutes": minutes, "protocol": metrics["protocol"]}
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps(found))
    temporary.rename(done)
    return found


def measure(
    folder: Path,
    *,
    seeds: int,
    epochs: int,
    variants: Sequence[str] = tuple(VARIANTS),
    common: Sequence[str] = (),
) -> dict[str, Any]:
    """All variants with all seeds; the figures of each and their mean, written after every run.

    Args:
        folder: where the runs are.
        seeds: how many, from 0.
        epochs: of each run.
        variants: which.
        common: what all of them change.
    """
    figures: dict[str, Any] = {"epochs": epochs, "seeds": seeds, "variants": {}}
    for name in variants:
        slug = name.replace(",", "").replace(" ", "-").lower()
        runs = []
        for seed in range(seeds):
            runs.append(run(folder / f"{slug}-{seed}", [*common, *VARIANTS[name]], seed=seed, epochs=epochs))
            means = {key: statistics.mean(one[key] for one in runs) for key in (*FIGURES, "minutes")}
            figures["variants"][name] = {"mean": means, "runs": runs}
            write("codebook_ablation", figures)
    print(table(figures))
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures of each seed, one variant a line."""
    lines = [f"{'variant':<30}" + "".join(f"{name:>18}" for name in FIGURES)]
    for name, found in figures["variants"].items():
        cells = (" / ".join(f"{one[key]:.4g}" for one in found["runs"]) for key in FIGURES)
        lines.append(f"{name:<30}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/ablation/codebook")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6, help="of each run")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    given = parser.parse_args()
    measure(given.folder, seeds=given.seeds, epochs=given.epochs, variants=given.variants)
