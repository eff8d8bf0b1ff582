"""Do the measures of generated images move as they must? `python -m tests.benchmarks.fidelity_ladders`, after `make demo`.

What a ladder (ladders.py) must move has to move one way with every step. Images of the training split stand for a
generator's and are compared with the test split; for the ladder of copies those of the test split do, which no
training image shares a patient with. Writes JSON, and a picture of all ladders. Features are those of the judge, which
knows what findings look like, and of EfficientNet-Lite0, which has seen no radiograph.
"""  # noqa: E501

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from callbacks.extraction import describe, extract
from callbacks.metrics.auroc import multi_label_auroc
from callbacks.metrics.bank import RowBank, Rows
from callbacks.metrics.false_alarms import raised, set_alarm, without_twins
from callbacks.metrics.fidelity import FidelityOptions, fidelity
from callbacks.metrics.memorisation import membership
from callbacks.metrics.nearest import least_distances
from callbacks.metrics.niqe import NaturalModel, fit, niqe, patch_features, sharp
from callbacks.privacy_search import PIXEL, Gatherer, search
from callbacks.protocols import Extractor, FeatureExtractor, as_extractor, as_feature_extractor
from datamodules.cxr import CXRDataModule
from lightning_modules.classifier import FrozenFindingClassifier
from lightning_modules.feature_networks import FrozenEfficientNetLite0
from tests.benchmarks import record
from tests.benchmarks.codebook_runs import ROOT
from tests.benchmarks.ladders import LADDERS, Images, damaged, read, with_copies
from tests.benchmarks.line_charts import Chart, draw

OF_FEATURES = ("fid", "kid", "precision", "recall", "density", "coverage")
JUDGE = "judge"
CPU = torch.device("cpu")


def rows_of(extractor: FeatureExtractor, images: Images, *, what: str) -> Rows:
    """Features as a test would keep them."""
    values = extract(extractor, images.pixels, method="features", what=what, ids=images.ids)
    bank = RowBank(values.shape[1])
    bank.update(values, images.ids, images.ids)
    return bank.compute()


def natural_model(images: Images, *, patch: int) -> NaturalModel:
    """NIQE's model of these images."""
    patches = patch_features(images.pixels, patch=patch)
    return fit(patches.features[sharp(patches)])


def figures_of(
    made: Images,
    *,
    real: Mapping[str, Rows],
    extractors: Mapping[str, FeatureExtractor],
    judge: Extractor,
    model: NaturalModel,
    patch: int,
) -> dict[str, float]:
    """`<extractor>/<figure>` of one set against the real one, "auroc" by the judge and "niqe" of the pixels."""
    found: dict[str, float] = {}
    for name, extractor in extractors.items():
        options = FidelityOptions(folds=0)
        rows = rows_of(extractor, made, what="made")
        values = fidelity(real[name], rows, {}, name="fid", options=options, parts={}).values
        found |= {f"{name}/{key}": values[key] for key in OF_FEATURES}
    logits = extract(judge, made.pixels, method="logits", what="made", ids=made.ids)
    found["auroc"] = multi_label_auroc(logits, made.labels, min_positives=10).macro
    found["niqe"] = float(niqe(patch_features(made.pixels, patch=patch).features, model).nanmean())
    return found


def copied(data: CXRDataModule, extractors: Mapping[str, FeatureExtractor]) -> dict[str, list[float]]:
    """The ladder of copies: "flagged", the share that the privacy gate's detectors see, and "membership"."""
    training, new, held = (read(data, split) for split in ("train", "test", "validate"))
    found: dict[str, list[float]] = {"flagged": [], "membership": []}
    kept = Gatherer(extractors, device=CPU, what="held-out")
    kept.add(held.pixels, held.ids)
    at_held = kept.gathered()
    for step in LADDERS["copies"].steps:
        made, gatherer = with_copies(step, new, training), Gatherer(extractors, device=CPU, what="made")
        gatherer.add(made.pixels, made.ids)
        at_made = gatherer.gathered()
        result = search(
            data.split_dataset("train"), at_made, at_held,
            spaces=extractors, candidates=8, redraw=None, seed=0, rank=0, world=1, device=CPU,
        )  # fmt: skip
        of_made, of_held = result.apart(len(at_made.ids))
        of_held, _ = without_twins(of_held, whole=(PIXEL, *extractors))
        flags = raised(set_alarm(of_held, rate=0.01), of_made)
        found["flagged"].append(float(torch.stack(list(flags.values())).any(0).float().mean()))
        others = least_distances(at_held.rows[JUDGE], at_made.rows[JUDGE])
        found["membership"].append(membership(result.members[JUDGE], others)[0])
    return found


def climbs(values: Sequence[float], way: int) -> bool:
    """Whether every step goes the way; what has reached the end of a share, 0 or 1, may stay there."""
    return all((b - a) * way > 0 or a == b in (0.0, 1.0) for a, b in pairwise(values))


def verdicts(curves: Mapping[str, Sequence[float]], moves: Mapping[str, int]) -> dict[str, bool]:
    """For each curve whose figure a ladder must move, whether it did; figures have an extractor before a slash."""
    ways = {name: moves.get(name.rpartition("/")[2]) for name in curves}
    return {name: climbs(curves[name], way) for name, way in ways.items() if way is not None}


def measure(
    *,
    name: str,
    data: CXRDataModule,
    judge: Extractor,
    others: Mapping[str, FeatureExtractor],
    count: int | None = None,
    patch: int = 16,
) -> dict[str, Any]:
    """All ladders of one data set; `right` says for each figure that a ladder must move whether it did.

    Args:
        name: of the data set, for what is printed.
        data: not yet prepared.
        judge: its features are compared as well.
        others: further extractors by name.
        count: images that stand for a generator's; as many as are tested by default.
        patch: see `callbacks.quality.NaturalQuality`.
    """
    data.prepare_data()
    data.setup("fit")
    tested, pool = read(data, "test"), read(data, "train")
    count = count or min(len(tested.ids), len(pool.ids) // 2)
    extractors = {JUDGE: judge, **others}
    real = {key: rows_of(extractor, tested, what="real") for key, extractor in extractors.items()}
    # Of training images that stand for no generator's.
    generator = torch.Generator().manual_seed(0)
    model = natural_model(
        pool.taken(torch.randperm(len(pool.ids), generator=generator)[count : count + 500]), patch=patch
    )
    found: dict[str, Any] = {}
    for kind, ladder in LADDERS.items():
        if kind == "copies":
            curves = copied(data, extractors)
        else:
            runs = [
                figures_of(
                    damaged(kind, step, pool, count=count),
                    real=real, extractors=extractors, judge=judge, model=model, patch=patch,
                )
                for step in ladder.steps
            ]  # fmt: skip
            curves = {key: [run[key] for run in runs] for key in runs[0]}
        right = verdicts(curves, ladder.moves)
        found[kind] = {"steps": list(ladder.steps), "curves": curves, "right": right}
        wrong = ", ".join(key for key, ok in right.items() if not ok) or "none"
        print(
            f"{name} {kind}: {sum(right.values())} of {len(right)} figures move as they must; not: {wrong}", flush=True
        )
    return {
        "data_digest": data.manifest.digest()[:12],
        "real": len(tested.ids),
        "made": count,
        "extractors": {key: describe(extractor) for key, extractor in extractors.items()},
        "niqe_patch": patch,
        "ladders": found,
    }


def charts(figures: dict[str, Any]) -> list[Chart]:
    """A chart for each figure, with a line for each ladder over its steps."""
    ladders = figures["ladders"]
    names = dict.fromkeys(name for one in ladders.values() for name in one["curves"])
    return [
        Chart(
            name,
            {kind: one["curves"].get(name, [math.nan] * len(one["steps"])) for kind, one in ladders.items()},
        )
        for name in names
    ]


SETS: dict[str, Callable[[str | None], tuple[CXRDataModule, str, int]]] = {
    "phantom": lambda _: (
        CXRDataModule(layout="phantom", layout_options={"studies": 6000, "seed": 0}, size=64, num_workers=0),
        "runs/demo/classifier/checkpoints/last.ckpt",
        16,
    ),
    "nih": lambda root: (
        CXRDataModule(layout="nih", root=root, layout_options={"boxed_patients": "test"}, size=128, num_workers=0),
        "runs/nih/classifier/checkpoints/last.ckpt",
        32,
    ),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nih", help="the data set's folder; without it the phantom alone")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    for name in ("phantom", "nih") if given.nih else ("phantom",):
        data, judge, patch = SETS[name](given.nih)
        results[name] = measure(
            name=name,
            data=data,
            judge=as_extractor(FrozenFindingClassifier(str(ROOT / judge))),
            others={"lite0": as_feature_extractor(FrozenEfficientNetLite0())},
            patch=patch,
        )
        picture = record.FOLDER / f"fidelity_ladders-{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(charts(results[name]), picture)
        print(f"picture: {picture}")
    record.write("fidelity_ladders", results)
