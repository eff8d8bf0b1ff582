"""What each part of the codebook is worth: `python -m tests.benchmarks.codebook_ablation`, after `make demo`.

Every variant is the shipped configuration of 1,024 codes on the phantom with one part changed, trained for the same
wall-clock time from the same seeds and tested by the same callbacks; the discriminator of all starts early enough to
matter in that time. A run that was finished under the same wishes is not repeated, so an interrupted benchmark goes on
with the next. Seeds are those of weights and order; the splits stay the same.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from tests.benchmarks import record
from tests.benchmarks.codebook_runs import (
    FIGURES,
    MODEL,
    NETWORK,
    Setting,
    chosen,
    options,
    run,
    subject,
    table,
)

CONFIGS = ("base.yaml", "codebook.yaml", "experiment/codebook-1024.yaml")
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "clinical off": (f"{MODEL}clinical=0",),
    "perceptual off": (f"{MODEL}perceptual=0",),
    "frequency off": (f"{MODEL}frequency=0",),
    "GAN off": (f"{MODEL}adversarial=0",),
    "discriminator as fast": (f"{MODEL}discriminator_rate=1",),
    "attention off": (f"{NETWORK}attention=false",),
    "straight-through": (f"{NETWORK}gradient=straight-through",),
    "straight-through, no restart": (f"{NETWORK}gradient=straight-through", f"{NETWORK}restart_below=0"),
    # The levels that its authors advise for 2^10 codes (arXiv 2309.15505, table 1).
    "FSQ": (f"{NETWORK}quantizer=fsq", f"{NETWORK}levels=[8,5,5,5]", f"{NETWORK}codes=1000"),
    "LFQ": (f"{NETWORK}quantizer=lfq", f"{NETWORK}codes=1024"),
}
# The shipped start, step 400, lies in the last third of the 600 steps that 8 minutes of a slow core hold.
EARLY = (f"{MODEL}discriminator_start=200", f"{MODEL}discriminator_ramp=100")
SHOWN = ("auroc_retained", "rfid", "usage", "perplexity", "psnr", "ssim", "steps")


def measure(setting: Setting, *, seeds: int = 2, variants: Sequence[str] = tuple(VARIANTS)) -> dict[str, Any]:
    """All variants with all seeds; the figures of each and their mean, written after every run.

    Args:
        setting: of all runs.
        seeds: how many, from 0.
        variants: which.
    """
    about = subject(setting)
    found: dict[str, Any] = {name: {"mean": {}, "runs": []} for name in variants}
    figures = about.protocol | {"seeds": seeds, "threads": torch.get_num_threads(), "variants": found}
    # Seed by seed, so that what is there of an interrupted benchmark can be compared.
    for seed in range(seeds):
        for name in variants:
            changes = (f"{MODEL}cosine=false", *VARIANTS[name])  # the clock sets the rate
            runs = found[name]["runs"]
            runs.append(run(setting, about, name, changes, seed=seed))
            found[name]["mean"] = {key: mean([one[key] for one in runs]) for key in (*FIGURES, "steps")}
            record.write("codebook_ablation", figures)
    print(table({name: one["runs"] for name, one in found.items()}, SHOWN))
    return figures


def mean(values: Sequence[float | None]) -> float | None:
    """None where a figure is undefined, e.g. for want of positives."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


if __name__ == "__main__":
    record.keep_memory()
    judge = "runs/demo/classifier/checkpoints/last.ckpt"
    parser = options(__doc__, configs=CONFIGS, judge=judge, minutes=8.0, name="codebook_ablation")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    given, more = parser.parse_known_args()
    measure(chosen(given, [*EARLY, *more]), seeds=given.seeds, variants=given.variants)
