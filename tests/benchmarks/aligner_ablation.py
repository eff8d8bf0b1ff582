"""What each part of the aligner is worth: `python -m tests.benchmarks.aligner_ablation`, after `make demo`.

Every variant is the shipped configuration on the phantom with one part changed, trained for the same number of epochs
from the same seeds, without validation, and tested as `python main.py test` does. Its processor time is reported beside
its figures. A run that was finished under the same wishes is not repeated, so an interrupted benchmark goes on with the
next. Seeds are those of weights and order; the splits stay the same.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_modules.stages import file_digest
from main import main as command_line
from tests.benchmarks import record
from tests.benchmarks.codebook_runs import MODEL, NETWORK, ROOT, table

CONFIGS = ("base.yaml", "aligner.yaml")
LOSSES = f"{MODEL}losses."
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "adaptive patches": (f"{NETWORK}adaptive=true",),
    "global only": (f"{LOSSES}statements=0", f"{LOSSES}reports=0", f"{LOSSES}pooled=1"),
    "late interaction of words only": (f"{LOSSES}statements=0", f"{LOSSES}reports=0", f"{LOSSES}words=1"),
    "with late interaction of words": (f"{LOSSES}words=0.25",),
    "reports' contrast off": (f"{LOSSES}reports=0",),
    "soft targets": (f"{LOSSES}same_labels=0.25",),
    "hard negatives off": (f"{LOSSES}hard=0",),
}
# Of metrics.json, without the prefix "aligner/".
FIGURES = (
    "pointing", "pointing_other_image", "contrast", "zero_shot_auroc", "side_flipped", "status_flipped",
    "stated_flipped", "denied_flipped", "recall_at_10", "recall_at_10_ceiling", "word_recall_at_10",
)  # fmt: skip
SHOWN = ("pointing", "zero_shot_auroc", "side_flipped", "status_flipped", "recall_at_10", "cpu_seconds")
# With other code, former results are none.
CODE = tuple(
    sorted(path for package in ("lightning_modules", "datamodules") for path in (ROOT / package).rglob("*.py"))
)


def measure(
    *,
    folder: Path,
    epochs: int = 6,
    seeds: int = 2,
    variants: Sequence[str] = tuple(VARIANTS),
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """All variants with all seeds; the figures of each and their mean, written after every run.

    Args:
        folder: each run has a folder of its own in it.
        epochs: of each run.
        seeds: how many, from 0.
        variants: which.
        more: further arguments of main.py, for all runs.
    """
    wishes = {
        "code": hashlib.sha256(b"".join(path.read_bytes() for path in CODE)).hexdigest(),
        "configs": {name: file_digest(str(ROOT / "configs" / name)) for name in CONFIGS},
        "arguments": list(more),
        "epochs": epochs,
    }
    found: dict[str, Any] = {name: {"mean": {}, "runs": []} for name in variants}
    figures = wishes | {"seeds": seeds, "threads": torch.get_num_threads(), "variants": found}
    # Seed by seed, so that what is there of an interrupted benchmark can be compared.
    for seed in range(seeds):
        for name in variants:
            wished = wishes | {"changes": list(VARIANTS[name]), "seed": seed}
            runs = found[name]["runs"]
            runs.append(once(wished, folder / f"{name.replace(' ', '-').replace(chr(39), '')}-{seed}"))
            found[name]["mean"] = {
                key: statistics.mean(one[key] for one in runs) for key in (*FIGURES, "cpu_seconds") if key in runs[0]
            }
            record.write("aligner_ablation", figures)
    print(table({name: one["runs"] for name, one in found.items()}, SHOWN))
    return figures


def once(wished: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`trained`, or what an earlier call with the same wishes found."""
    done = folder / "result.json"
    if done.is_file():
        found = json.loads(done.read_text())
        if found["wished"] == wished:
            return dict(found["result"])
    shutil.rmtree(folder, ignore_errors=True)
    result = trained(wished, folder)
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps({"wished": wished, "result": result}, indent=1))
    temporary.rename(done)
    return result


def trained(wished: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train and test one variant.

    Returns:
        `FIGURES`, those of each finding, "cpu_seconds" of training, steps, and "protocol" as metrics.json has it.
    """
    callbacks = [{"class_path": "ProgressLine"}, {"class_path": "MetricsFile"}]
    fixed = (
        f"--trainer.callbacks={json.dumps(callbacks)}", "--trainer.logger=false", "--trainer.limit_val_batches=0",
        f"--trainer.max_epochs={wished['epochs']}", "--checkpoint.save_top_k=0", f"--run_dir={folder}",
        f"--seed_everything={wished['seed']}", f"--data.init_args.seed={wished['seed']}",
    )  # fmt: skip
    flags = [flag for name in CONFIGS for flag in ("-c", str(ROOT / "configs" / name))]
    given = ["--data.init_args.tokens=null", *wished["arguments"], *wished["changes"], *fixed]
    began = time.process_time()
    cli: Any = command_line(["fit", *flags, *given])
    spent = time.process_time() - began
    cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=folder / "checkpoints/last.ckpt", verbose=False)
    metrics = json.loads((Path(cli.trainer.default_root_dir) / "metrics.json").read_text())
    figures = {name.removeprefix("aligner/"): value for name, value in metrics.items() if name.startswith("aligner/")}
    return figures | {"cpu_seconds": spent, "steps": cli.trainer.global_step, "protocol": metrics["protocol"]}


if __name__ == "__main__":
    record.keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="of each run")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/benchmarks/aligner_ablation")
    given, more = parser.parse_known_args()
    measure(folder=given.folder, epochs=given.epochs, seeds=given.seeds, variants=given.variants, more=more)
