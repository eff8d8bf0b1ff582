"""Do the measures of fidelity move as they must? `python -m tests.benchmarks.fidelity_ladders`, after `make demo`.

Real training images stand for a generator's and are damaged step by step, each ladder in one way: blur, noise, kinds of
patients that are no longer made, labels that belong to others. What a ladder must move has to move one way with every
step; what it does not touch has to stay. Writes JSON, and a picture of all ladders.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from callbacks.extraction import extract
from callbacks.fidelity import through
from callbacks.metrics.auroc import multi_label_auroc
from callbacks.metrics.bank import RowBank, Rows
from callbacks.metrics.fidelity import FidelityOptions, fidelity
from callbacks.protocols import Extractor, as_extractor
from datamodules.cxr import CXRDataModule
from datamodules.reports.labels import FINDINGS
from lightning_modules.classifier import FrozenFindingClassifier
from tests.benchmarks import record
from tests.benchmarks.codebook_runs import ROOT
from tests.benchmarks.line_charts import Chart, draw

RISES, FALLS = 1, -1


@dataclass(frozen=True)
class Ladder:
    """Steps of one damage, from none on.

    Attributes:
        steps: how much.
        moves: which figures must rise or fall with every step.
    """

    steps: tuple[float, ...]
    moves: dict[str, int]


LADDERS = {
    # The share of an image's side that is left before it is scaled up again.
    "blur": Ladder((1.0, 0.7, 0.5, 0.35, 0.25), {"fid": RISES, "kid": RISES, "precision": FALLS, "auroc": FALLS}),
    # Deviation of Gaussian noise, of pixels in [-1,1].
    "noise": Ladder((0.0, 0.05, 0.1, 0.2, 0.4), {"fid": RISES, "kid": RISES, "precision": FALLS, "auroc": FALLS}),
    # Share of the images with a finding that are replaced by more without any.
    "dropped modes": Ladder(
        (0.0, 0.25, 0.5, 0.75, 1.0), {"fid": RISES, "kid": RISES, "recall": FALLS, "coverage": FALLS}
    ),
    # Share of the images that carry another one's labels.
    "shuffled labels": Ladder((0.0, 0.25, 0.5, 0.75, 1.0), {"auroc": FALLS}),
}
FIGURES = ("fid", "kid", "precision", "recall", "density", "coverage", "auroc")


@dataclass(frozen=True)
class Images:
    """Real images of one split.

    Attributes:
        pixels: float32 [N,1,H,W] in [-1,1].
        labels: float32 [N,14].
        ids: N.
    """

    pixels: Tensor
    labels: Tensor
    ids: list[str]

    def taken(self, rows: Tensor) -> "Images":
        """These rows."""
        return Images(self.pixels[rows], self.labels[rows], [self.ids[row] for row in rows.tolist()])


def read(data: CXRDataModule, split: str) -> Images:
    """All images of a split."""
    dataset = data.split_dataset(split)
    batch = dataset[range(len(dataset))]
    return Images(batch["image"], batch["labels"], batch["image_id"])


def damaged(kind: str, step: float, pool: Images, *, count: int) -> Images:
    """`count` images of the pool at one step of a ladder; the same draws at every step."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pool.ids), generator=generator)
    made = pool.taken(order[:count])
    if kind == "blur":
        return Images(scaled(made.pixels, step), made.labels, made.ids)
    if kind == "noise":
        noise = torch.randn(made.pixels.shape, generator=generator)
        return Images((made.pixels + step * noise).clamp(-1, 1), made.labels, made.ids)
    if kind == "shuffled labels":
        wrong = torch.arange(count) < round(step * count)
        other = made.labels.roll(1, dims=0)  # of a neighbour in a random order
        return Images(made.pixels, torch.where(wrong[:, None], other, made.labels), made.ids)
    healthy = pool.labels[order, FINDINGS.index("No Finding")] == 1
    ill = (~healthy[:count]).nonzero()[:, 0]
    replaced = ill[: round(step * len(ill))]
    spare = order[count:][healthy[count:]][: len(replaced)]
    if len(spare) < len(replaced):
        raise ValueError(f"{len(spare)} spare images without a finding for {len(replaced)} with one; take fewer images")
    rows = order[:count].clone()
    rows[replaced] = spare
    return pool.taken(rows)


def scaled(pixels: Tensor, share: float) -> Tensor:
    """Float [N,1,H,W] down to a share of its side and up again."""
    side = round(pixels.shape[-1] * share)
    return through(pixels, size=(side, side))


def rows_of(values: Tensor, ids: Sequence[str]) -> Rows:
    """As a test would keep them."""
    bank = RowBank(values.shape[1])
    bank.update(values, list(ids), list(ids))
    return bank.compute()


def figures_of(real: Images, made: Images, extractor: Extractor) -> dict[str, float]:
    """`FIGURES` of one set against the real one."""
    at_real, at_made = (
        rows_of(extract(extractor, part.pixels, method="features", what=what, ids=part.ids), part.ids)
        for what, part in (("real", real), ("made", made))
    )
    found = fidelity(at_real, at_made, {}, name="fid", options=FidelityOptions(folds=0), parts={}).values
    logits = extract(extractor, made.pixels, method="logits", what="made", ids=made.ids)
    auroc = multi_label_auroc(logits, made.labels, min_positives=10)
    return {key: found[key] for key in FIGURES if key != "auroc"} | {"auroc": auroc.macro}


def climbs(values: Sequence[float], way: int) -> bool:
    """Whether every step goes the way."""
    return all((b - a) * way > 0 for a, b in pairwise(values))


def measure(*, name: str, data: CXRDataModule, extractor: Extractor, count: int | None = None) -> dict[str, Any]:
    """All ladders of one data set; `right` says for each figure that a ladder must move whether it did."""
    data.prepare_data()
    data.setup("fit")
    real, pool = read(data, "test"), read(data, "train")
    count = count or min(len(real.ids), len(pool.ids) // 2)
    found: dict[str, Any] = {}
    for kind, ladder in LADDERS.items():
        runs = [figures_of(real, damaged(kind, step, pool, count=count), extractor) for step in ladder.steps]
        curves = {key: [run[key] for run in runs] for key in FIGURES}
        right = {key: climbs(curves[key], way) for key, way in ladder.moves.items()}
        found[kind] = {"steps": list(ladder.steps), "curves": curves, "right": right}
        print(
            f"{name} {kind}: " + ", ".join(f"{key} {'right' if ok else 'WRONG'}" for key, ok in right.items()),
            flush=True,
        )
    return {
        "data_digest": data.manifest.digest()[:12],
        "real": len(real.ids),
        "made": count,
        "extractor": extractor.name,
        "extractor_digest": extractor.digest,
        "ladders": found,
    }


def charts(figures: dict[str, Any]) -> list[Chart]:
    """A chart for each figure, with a line for each ladder over its steps."""
    ladders = figures["ladders"]
    return [Chart(key, {kind: found["curves"][key] for kind, found in ladders.items()}) for key in FIGURES]


SETS: dict[str, Callable[[str | None], tuple[CXRDataModule, str]]] = {
    "phantom": lambda _: (
        CXRDataModule(layout="phantom", layout_options={"studies": 6000, "seed": 0}, size=64, num_workers=0),
        "runs/demo/classifier/checkpoints/last.ckpt",
    ),
    "nih": lambda root: (
        CXRDataModule(layout="nih", root=root, layout_options={"boxed_patients": "test"}, size=128, num_workers=0),
        "runs/nih/classifier/checkpoints/last.ckpt",
    ),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nih", help="the data set's folder; without it the phantom alone")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    for name in ("phantom", "nih") if given.nih else ("phantom",):
        data, judge = SETS[name](given.nih)
        results[name] = measure(
            name=name, data=data, extractor=as_extractor(FrozenFindingClassifier(str(ROOT / judge)))
        )
        picture = record.FOLDER / f"fidelity_ladders-{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(charts(results[name]), picture)
        print(f"picture: {picture}")
    record.write("fidelity_ladders", results)
