"""SyntheticUtility's trainings where the answer is known: copies of real phantoms, shuffled labels, noise.

    python -m tests.benchmarks.utility_known [--studies 6000 --size 64 --steps 300 --seeds 3 --channels 16 32 48 64]

Copies are worth what the real images are; what says nothing of its labels teaches nothing (.5).
"""

import argparse
import functools
import tempfile
import time
from typing import Any

import torch

from callbacks.metrics.auroc import multi_label_auroc
from callbacks.metrics.labelled import ImageBank, LabelledImages
from callbacks.metrics.training import Recipe, trained_scores
from callbacks.metrics.utility import Cell, over_seeds, training_set
from datamodules.cxr import CXRDataModule
from lightning_modules.networks.classifier import ClassifierConfig, FindingNetwork
from tests.benchmarks.record import keep_memory, write


def split(data: CXRDataModule, name: str) -> LabelledImages:
    """All images of a split."""
    dataset, bank = data.split_dataset(name), ImageBank()
    batch = dataset[range(len(dataset))]
    bank.add(batch["image"], batch["labels"], ids=batch["image_id"], patients=batch["patient_id"])
    return bank.alone()


def kinds(real: LabelledImages) -> dict[str, tuple[Cell, LabelledImages]]:
    """Name → the training set's cell, and what stands in for the synthetic images."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(real.pixels), generator=generator)
    noise = torch.randint(0, 256, real.pixels.shape, generator=generator, dtype=torch.uint8)
    return {
        "real": (Cell(1.0, 0.0), real),
        "real_10": (Cell(0.1, 0.0), real),
        "copies": (Cell(0.0, 1.0), real),
        "shuffled_labels": (Cell(0.0, 1.0), real._replace(labels=real.labels[order])),
        "noise": (Cell(0.0, 1.0), real._replace(pixels=noise)),
    }


def measure(*, studies: int, size: int, steps: int, seeds: int, channels: list[int]) -> dict[str, Any]:
    """Macro AUROC on the test split of each kind: mean over seeds, with Student's 95 % interval."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"studies": studies, "seed": 0}
        data = CXRDataModule(layout="phantom", layout_options=options, size=size, cache_dir=folder)
        data.prepare_data()
        real, test = split(data, "train"), split(data, "test")
    classifier = functools.partial(FindingNetwork, ClassifierConfig(size, tuple(channels)))
    recipe, device = Recipe(steps=steps), torch.device("cpu")
    figures: dict[str, Any] = {
        "studies": studies,
        "size": size,
        "steps": steps,
        "seeds": seeds,
        "test": len(test.pixels),
    }
    began = time.process_time()
    for name, (cell, synthetic) in kinds(real).items():
        values = []
        for seed in range(seeds):
            train = training_set(cell, real, synthetic, seed=seed)
            scores = trained_scores(classifier, train, test.pixels, recipe=recipe, seed=seed, device=device)
            values.append(multi_label_auroc(scores, test.labels, min_positives=5).macro)
        for end, value in zip(("", "_low", "_high"), over_seeds(values), strict=True):
            figures[f"{name}{end}"] = value
        print(f"{name}: {[round(value, 3) for value in values]}", flush=True)
    figures["cpu_seconds_a_training"] = (time.process_time() - began) / (5 * seeds)
    return write("utility_known", figures)


def main() -> None:
    """Measure from the command line."""
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("studies", 6000), ("size", 64), ("steps", 300), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 48, 64])
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
