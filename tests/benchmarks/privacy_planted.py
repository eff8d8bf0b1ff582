"""Planted copies of training images, and how many of them the privacy gate's detectors flag: `python -m tests.benchmarks.privacy_planted`.

    python -m tests.benchmarks.privacy_planted --classifiers runs/demo/classifier/checkpoints/last.ckpt \\
      runs/demo/features/checkpoints/last.ckpt --codebook runs/codebook-1024/phantom/checkpoints/last.ckpt

The synthetic set are real test images, and half of them again as the codebook draws them, to which training images are
added: for each kind of copy as many as 5 % of the test split. The gate redraws by the same codebook. Patients are in one split only (phantoms 2k and 2k + 1
are one patient), so a test image that is flagged is a false alarm. The thresholds are set on the validation split. With
`--nih <folder>` the data are NIH ChestX-ray14 at 128 px.
"""  # noqa: E501

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.extraction import describe
from callbacks.metrics.false_alarms import raised, set_alarm, without_twins
from callbacks.privacy_search import PIXEL, Gatherer, search
from callbacks.protocols import as_feature_extractor
from callbacks.reading import drawn, read_images
from datamodules.cxr import CXRDataModule
from lightning_modules.classifier import FrozenFindingClassifier
from lightning_modules.codebook import ImageCodebook
from tests.benchmarks.ladders import jpeg
from tests.benchmarks.record import write

SHARE = 0.05
RATE = 0.01
CPU = torch.device("cpu")
Change = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]  # of a training image, a test image, a codec


def blurred(image: Tensor) -> Tensor:
    """Down by 2 and up again."""
    low = F.interpolate(image, scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(low, size=image.shape[-2:], mode="bilinear")


def cropped(image: Tensor, *, share: float = 0.9) -> Tensor:
    """A corner of `share` of the side, enlarged."""
    side = image.shape[-1]
    kept = round(share * side)
    return F.interpolate(image[..., -kept:, :kept], size=(side, side), mode="bilinear", antialias=True)


def pasted(image: Tensor, into: Tensor, *, share: float = 0.375) -> Tensor:
    """A square of `share` of the side, left and above the middle, put into another image at the same place."""
    side = image.shape[-1]
    first, last = side // 4, side // 4 + round(share * side)
    result = into.clone()
    result[..., first:last, first:last] = image[..., first:last, first:last]
    return result


KINDS: dict[str, Change] = {
    "exact": lambda image, other, codec: image,
    "jpeg": lambda image, other, codec: jpeg(image),
    "blur": lambda image, other, codec: blurred(image),
    "crop": lambda image, other, codec: cropped(image),
    "brightness": lambda image, other, codec: (image * 0.8 + 0.1).clamp(-1, 1),
    "decoded": lambda image, other, codec: codec(image),
    "patch": lambda image, other, codec: pasted(image, other),
    "patch_jpeg": lambda image, other, codec: jpeg(pasted(image, other)),
    "patch_half": lambda image, other, codec: pasted(image, other, share=0.5),
    "patch_decoded": lambda image, other, codec: codec(pasted(image, other)),
}


def measure(
    data: CXRDataModule, *, classifiers: Sequence[str], codebook: str, limit: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Recall of each kind, and false alarms on held-out real images.

    Args:
        data: prepared.
        classifiers: checkpoints of FindingClassifiers; their features are the spaces.
        codebook: checkpoint of an ImageCodebook.
        limit: most training images; for tests.
        seed: of what is planted.
    """
    spaces = {}
    for path in classifiers:
        extractor = as_feature_extractor(FrozenFindingClassifier(path))
        spaces[f"{extractor.name}-{extractor.digest[:6]}"] = extractor
    network = ImageCodebook.load_from_checkpoint(codebook, map_location="cpu").eval()

    def codec(image: Tensor) -> Tensor:
        with torch.no_grad():
            return network.decode(network.encode(image)).float().clamp(-1, 1)

    training: Any = data.split_dataset("train")
    if limit is not None:
        training.rows = training.rows[:limit]
    held, made = (Gatherer(spaces, device=CPU, what=name) for name in ("held-out", "synthetic"))
    for name, gatherer in (("validate", held), ("test", made)):
        split = data.split_dataset(name)
        for images, ids, _ in read_images(split, range(len(split)), device=CPU, what=name):
            gatherer.add(images, ids)
            if name == "test":
                gatherer.add(codec(images[::2]), [f"decoded-{i}" for i in ids[::2]])
    test = data.split_dataset("test")
    planted = max(1, round(SHARE * len(test)))
    sources, hosts = drawn(len(training), planted, seed=seed), drawn(len(test), planted, seed=seed)
    for source, host in zip(sources, hosts, strict=True):
        image, other = training[[source]]["image"], test[[host]]["image"]
        for kind, change in KINDS.items():
            made.add(change(image, other, codec), [f"{kind}-planted-{source}"])
    all_made, all_held = made.gathered(), held.gathered()
    found = search(
        training, all_made, all_held, spaces=spaces, candidates=8, redraw=codec, seed=seed, rank=0, world=1, device=CPU
    )  # fmt: skip
    of_made, of_held = found.apart(len(all_made.ids))
    of_held, twins = without_twins(of_held, whole=(PIXEL, *spaces))
    alarm = set_alarm(of_held, rate=RATE)
    flags = raised(alarm, of_made)
    flags["any"] = torch.stack(list(flags.values())).any(0)

    def rates(rows: list[int]) -> dict[str, float]:
        return {name: float(one[rows].float().mean()) for name, one in flags.items()}

    ids = all_made.ids
    kinds = {kind: rates([i for i, name in enumerate(ids) if name.startswith(f"{kind}-planted-")]) for kind in KINDS}
    whole = [one["any"] for kind, one in kinds.items() if not kind.startswith("patch")]
    real = rates([i for i, name in enumerate(ids) if not name.startswith("decoded-") and "-planted-" not in name])
    decoded = rates([i for i, name in enumerate(ids) if name.startswith("decoded-") and "-planted-" not in name])
    return {
        "layout": data.manifest.source, "data_digest": data.manifest.digest(), "size": data.size, "seed": seed,
        "training": len(training), "held_out": len(all_held.ids), "twins": int(twins.sum()), "test": len(test),
        "planted_a_kind": planted,
        "extractors": {name: describe(one) for name, one in spaces.items()},
        "expected_false_alarms": alarm.expected, "confidence": alarm.confidence, "thresholds": alarm.thresholds,
        "recall_of_copies": sum(whole) / len(whole), "recall": kinds,
        "false_alarms_real": real["any"], "false_alarms_decoded": decoded["any"],
        "by_detector": {"real": real, "decoded": decoded},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.privacy_planted", description=__doc__)
    parser.add_argument("--classifiers", nargs="+", required=True, help="checkpoints of FindingClassifiers")
    parser.add_argument("--codebook", required=True, help="checkpoint of an ImageCodebook")
    parser.add_argument("--nih", help="folder of NIH ChestX-ray14; the phantom by default")
    parser.add_argument("--studies", type=int, default=6000, help="of the phantom")
    parser.add_argument("--limit", type=int, help="most training images")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    given = parser.parse_args(argv)
    options: dict[str, Any] = {"layout_options": {"studies": given.studies, "seed": 0}, "size": 64}
    if given.nih:
        options = {"layout": "nih", "root": given.nih, "layout_options": {"boxed_patients": "test"}, "size": 128}
    data = CXRDataModule(**options, cache_dir=str(given.cache))
    data.prepare_data()
    figures = measure(data, classifiers=given.classifiers, codebook=given.codebook, limit=given.limit)
    write("privacy_planted-nih" if given.nih else "privacy_planted", figures)
    for kind, rates in figures["recall"].items():
        print(f"{kind:<16}" + "  ".join(f"{name} {rate:.2f}" for name, rate in rates.items()))
    return figures


if __name__ == "__main__":
    main()
