"""Real reports for images that have labels alone: of another patient, with the same findings. Weak text, never a pair.

What a report says beyond its findings (side, place, size, all that is normal) is not the image's. Standard library,
numpy and pandas only.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from datamodules.reports.labels import FINDINGS, SPLITS
from datamodules.reports.mentions import labels_of

# CheXpert's hierarchy, which label tables follow and reports do not spell out.
OPACITIES = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
OPACITY = FINDINGS.index("Lung Opacity")


class Texts(NamedTuple):
    """N report texts of different words that say something of findings, sorted by id."""

    ids: list[str]  # of the first report with the text
    texts: list[str]
    labels: np.ndarray  # float32 [N,14] of 1, 0, -1, NaN
    splits: np.ndarray  # str [N], the split that each text serves


class Match(NamedTuple):
    """The text of one study."""

    text: int  # row of `Texts`
    missing: tuple[str, ...]  # findings of the image that the text does not state
    extra: tuple[str, ...]  # findings that the text states or suspects and the image's labels do not


def with_hierarchy(labels: np.ndarray) -> np.ndarray:
    """A copy of labels float [N,14] in which a kind of opacity, certain or uncertain, is a Lung Opacity too."""
    labels = labels.copy()
    kinds = labels[:, [FINDINGS.index(name) for name in OPACITIES]]
    own = labels[:, OPACITY]
    uncertain = (kinds == -1).any(axis=1) & (own != 1)
    labels[:, OPACITY] = np.select([(kinds == 1).any(axis=1), uncertain], [1.0, -1.0], own)
    return labels


def read_texts(reports: Mapping[str, str], *, shares: Mapping[str, float], seed: int) -> tuple[Texts, list[str]]:
    """The texts that can be given to images, each to those of one split.

    The split goes by a hash of the text's words, not of the report: OpenI's normal reports repeat one another, some but
    for a comma, and a text that is tested must not have been trained on.

    Args:
        reports: report id → text.
        shares: split → its share of the images, summing to 1; the texts are shared out alike.
        seed: of the hash.

    Returns:
        (the texts, the ids of reports that say nothing of findings).
    """
    first: dict[str, str] = {}
    for name in sorted(reports):
        first.setdefault(" ".join(re.findall(r"\w+", reports[name].lower())), name)
    labels = {name: labels_of(reports[name]) for name in first.values()}
    silent = [name for name, row in labels.items() if np.isnan(row).all()]
    bounds = np.cumsum([shares.get(split, 0.0) for split in SPLITS])[:-1]  # the last share ends at 1
    places = {name: bounds.searchsorted(_fraction(f"{seed}:{text}"), side="right") for text, name in first.items()}
    ids = sorted(labels.keys() - set(silent))
    found = Texts(
        ids,
        [reports[name] for name in ids],
        with_hierarchy(np.array([labels[name] for name in ids], dtype=np.float32).reshape(-1, len(FINDINGS))),
        np.array([SPLITS[places[name]] for name in ids], dtype=object),
    )
    return found, silent


def match(studies: pd.DataFrame, texts: Texts, *, seed: int) -> dict[str, Match]:
    """A text of its split for each study with labels: of those with the fewest wrong findings one drawn by hash.

    A text's wrong findings are `Match.missing` and `Match.extra`; among equal sums the fewest missing come first. What
    is drawn depends on the seed, the study and the texts alone.

    Args:
        studies: columns study_id, split and the 14 findings (1, 0, -1, NaN), one row an image. The images of a study
            share its findings; one whose labels are all NaN gets no text.
        texts: as `read_texts` gives them.
        seed: of the draw.

    Raises:
        ValueError: naming a split that has studies and no text.
    """
    names = list(FINDINGS)
    by_study = studies.groupby("study_id", sort=True)
    split_of = by_study["split"].first()
    values = by_study[names].max().to_numpy(dtype=np.float32)  # present before absent
    # What one image leaves uncertain and none shows is uncertain of the study.
    uncertain = (studies[names] == -1).groupby(studies["study_id"], sort=True).any().to_numpy()
    labels = with_hierarchy(np.where((values != 1) & uncertain, -1.0, values))
    found: dict[str, Match] = {}
    nearest: dict[tuple[str, bytes], np.ndarray] = {}
    for study, split, row in zip(split_of.index, split_of, labels, strict=True):
        if np.isnan(row).all():
            continue
        key = split, row.tobytes()
        if key not in nearest:
            served = np.flatnonzero(texts.splits == split)
            if not len(served):
                raise ValueError(
                    f"split {split!r} has images and none of the {len(texts.ids)} texts; give more reports, or another "
                    "seed"
                )
            missing, extra = (part.sum(axis=1) for part in _differences(row, texts.labels[served]))
            cost = (missing + extra) * (len(FINDINGS) + 1) + missing
            nearest[key] = served[cost == cost.min()]
        among = nearest[key]
        text = int(among[int(_fraction(f"{seed}:{study}") * len(among))])
        missing, extra = _differences(row, texts.labels[text : text + 1])
        found[str(study)] = Match(text, _named(missing[0], names), _named(extra[0], names))
    return found


def _differences(image: np.ndarray, reports: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bool [N,14] each: what the image [14] shows and each report [N,14] does not state, and the other way round."""
    return (image == 1) & (reports != 1), ((reports == 1) | (reports == -1)) & (image != 1) & (image != -1)


def _named(chosen: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, take in zip(names, chosen, strict=True) if take)


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2.0**48
