"""Phantoms as VinDr-CXR is published: DICOM of several kinds, labels and boxes of readers who do not always agree.

Three readers look at each phantom of train: a reader misses a finding now and then, sees one that is not there, and
draws its boxes a little off. The truth is counted from what each reader was made to say.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.manifest import Box, Manifest, encode_boxes, make_manifest
from datamodules.phantom.disk.common import Phantom, phantoms, quirk, save_csv
from datamodules.phantom.disk.dicom_file import save_dicom
from datamodules.reports.labels import FINDINGS

# The order of the columns of image_labels_train.csv; image_labels_test.csv has "Other disease".
CLASSES = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
)
KAGGLE_IDS = {
    **{"Aortic enlargement": 0, "Atelectasis": 1, "Calcification": 2, "Cardiomegaly": 3, "Consolidation": 4, "ILD": 5},
    **{"Infiltration": 6, "Lung Opacity": 7, "Nodule/Mass": 8, "Other lesion": 9, "Pleural effusion": 10},
    **{"Pleural thickening": 11, "Pneumothorax": 12, "Pulmonary fibrosis": 13, "No finding": 14},
}
# What a reader calls each finding of a phantom.
CALLED = {
    "Cardiomegaly": "Cardiomegaly",
    "Lung Opacity": "Infiltration",
    "Lung Lesion": "Nodule/Mass",
    "Edema": "Edema",
    "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia",
    "Atelectasis": "Atelectasis",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Pleural effusion",
    "Pleural Other": "Pleural thickening",
    "Fracture": "Rib fracture",
    "Enlarged Cardiomediastinum": "Aortic enlargement",
}
CAUSES_OPACITY = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
UNSEEN: dict[bool, tuple[str, ...]] = {False: ("Enlarged Cardiomediastinum", "Support Devices")}
UNSEEN[True] = (*UNSEEN[False], "Edema", "Pneumonia", "Fracture")
READERS = tuple(f"R{number}" for number in range(1, 18))
EDGES = ("x_min", "y_min", "x_max", "y_max")

Drawn = dict[str, list[tuple[float, float, float, float]]]


def write(out: Path, *, studies: int, seed: int, size: int, kaggle: bool = False) -> Manifest:
    """Write the data set.

    Args:
        out: an empty folder.
        studies: how many.
        seed: of the phantoms.
        size: side of the pictures in pixels; some have their lowest eighth cut off.
        kaggle: Kaggle's layout (train.csv, whole pixels) instead of PhysioNet's.

    Returns:
        What `read` gives with its default options.
    """
    tables: dict[str, list[dict[str, Any]]] = {"train": [], "test": [], "boxes train": [], "boxes test": []}
    expected: list[dict[str, Any]] = []
    for one in phantoms(studies=studies, seed=seed, size=size):
        image = hashlib.md5(f"phantom {seed} {one.study.index}".encode(), usedforsecurity=False).hexdigest()
        part = "test" if one.split == "test" and not kaggle else "train"
        pixels = one.pixels[: size * 7 // 8] if quirk(one, "cut", share=0.4) else one.pixels
        height, width = pixels.shape
        save_dicom(
            pixels,
            out / part / f"{image}.dicom",
            bits=16 if quirk(one, "16 bit", share=0.3) else 12,
            inverted=quirk(one, "inverted", share=0.4),
            window=quirk(one, "window", share=0.7),
            # The encoder halves a picture five times, and refuses one that has not so many pixels.
            compressed=height >= 32 and quirk(one, "compressed", share=0.3),
        )
        base = _base(one, width=width, height=height, whole=kaggle)
        readers = _readers(one, base, part=part, whole=kaggle, limits=(width, height))
        for reader, (seen, drawn) in readers.items():
            classes = {CALLED[finding] for finding in seen} or {"No finding"}
            who = {"image_id": image} | ({} if part == "test" else {"rad_id": reader})
            tables[part].append(who | {name: int(name in classes) for name in CLASSES})
            if classes == {"No finding"}:
                tables[f"boxes {part}"].append(who | {"class_name": "No finding"} | dict.fromkeys(EDGES, ""))
            for finding, edges in drawn.items():
                for edge in edges:
                    row = who | {"class_name": CALLED[finding]} | dict(zip(EDGES, edge, strict=True))
                    tables[f"boxes {part}"].append(row)
        expected.append(
            {
                "image": str(out / part / f"{image}.dicom"),
                "image_id": image,
                "study_id": image,
                "patient_id": image,
                "view": "PA",
                "split": part if part == "test" else _split(image, kaggle=kaggle),
                "report_source": "none",
                "boxes": encode_boxes(_truth(readers, base, width=width, height=height)),
                **_labels(readers, kaggle=kaggle),
            }
        )
    _save(out, tables, kaggle=kaggle)
    return make_manifest(expected, source="vindr")


def _base(one: Phantom, *, width: int, height: int, whole: bool) -> Drawn:
    """What an ideal reader draws, in pixels: no two boxes of a finding that could be taken for one."""
    base: Drawn = {}
    side = one.pixels.shape[0]
    for box in one.boxes:
        edges = (box.x0 * side, box.y0 * side, box.x1 * side, min(box.y1 * side, float(height)))
        if whole:
            edges = (math.floor(edges[0]), math.floor(edges[1]), math.ceil(edges[2]), math.ceil(edges[3]))
        cut_away = edges[3] - edges[1] < 1
        alike = any(_overlap(edges, other) > 0.15 for other in base.get(box.finding, []))
        if box.finding in CALLED and not cut_away and not alike and box.finding != "Pneumonia":
            base.setdefault(box.finding, []).append(edges)
    return base


def _readers(
    one: Phantom, base: Drawn, *, part: str, whole: bool, limits: tuple[int, int]
) -> dict[str, tuple[list[str], Drawn]]:
    """Each reader's findings and boxes; Kaggle's have no finding without a box."""
    rng = np.random.default_rng([one.study.seed, one.study.index, 20])
    names = ["consensus"] if part == "test" else sorted(rng.choice(READERS, 3, replace=False).tolist())
    false_alarm = int(rng.integers(0, 6))  # one reader in half of the phantoms
    readers = {}
    for number, name in enumerate(names):
        seen: list[str] = []
        drawn: Drawn = {}
        for finding in CALLED:
            chance = {1.0: 0.85, -1.0: 0.5, 0.0: 0.0}[one.labels[finding]]
            boxes = [_shaken(rng, edges, whole=whole, limits=limits) for edges in base.get(finding, [])]
            boxes = [box for box in boxes if rng.random() < 0.85] or boxes[:1]
            if rng.random() < chance and (boxes or not whole) and not (whole and CALLED[finding] not in KAGGLE_IDS):
                seen.append(finding)
                if boxes:
                    drawn[finding] = boxes
        if number == false_alarm and one.labels["Lung Lesion"] == 0:
            seen.append("Lung Lesion")
            drawn["Lung Lesion"] = [(1.0, 1.0, float(limits[0] // 2), float(limits[1] // 2))]
        readers[name] = (seen, drawn)
    return readers


def _shaken(
    rng: np.random.Generator, edges: tuple[float, float, float, float], *, whole: bool, limits: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Edges moved by up to 3 % of the box's side; whole pixels stay whole."""
    sides = (edges[2] - edges[0], edges[3] - edges[1]) * 2
    moved = [edge + float(rng.uniform(-0.03, 0.03)) * side for edge, side in zip(edges, sides, strict=True)]
    if whole:
        moved = [edge + round(now - edge) for edge, now in zip(edges, moved, strict=True)]
    x0, y0, x1, y1 = (min(max(edge, 0.0), limit) for edge, limit in zip(moved, limits * 2, strict=True))
    return x0, y0, x1, y1


def _labels(readers: dict[str, tuple[list[str], Drawn]], *, kaggle: bool) -> dict[str, float]:
    """More than half: 1, none: 0, between: -1; unseen by the data set: NaN."""
    given = [
        set(seen) | ({"Lung Opacity"} if set(seen) & set(CAUSES_OPACITY) else set()) for seen, _ in readers.values()
    ]
    given = [seen or {"No Finding"} for seen in given]
    labels = {}
    for finding in FINDINGS:
        votes = sum(finding in seen for seen in given)
        labels[finding] = 1.0 if votes > len(given) / 2 else -1.0 if votes else 0.0
    return labels | dict.fromkeys(UNSEEN[kaggle], np.nan)


def _truth(readers: dict[str, tuple[list[str], Drawn]], base: Drawn, *, width: int, height: int) -> list[Box]:
    """The mean of what more than half of the readers drew of the same thing, in fractions."""
    boxes = []
    for finding, originals in base.items():
        if finding == "Enlarged Cardiomediastinum":  # Aortic enlargement, which has no CheXpert name
            continue
        for original in originals:
            same = [
                edges
                for _, drawn in readers.values()
                for edges in drawn.get(finding, [])
                if _overlap(edges, original) > 0.5
            ]
            if len(same) > len(readers) / 2:
                x0, y0, x1, y1 = np.mean(same, axis=0).tolist()
                boxes.append(Box(finding, x0 / width, y0 / height, x1 / width, y1 / height))
    if len(readers) == 1:
        # A consensus is taken as it is, false alarms too.
        for _, drawn in readers.values():
            for x0, y0, x1, y1 in drawn.get("Lung Lesion", []) if "Lung Lesion" not in base else []:
                boxes.append(Box("Lung Lesion", x0 / width, y0 / height, x1 / width, y1 / height))
    return boxes


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    inside = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union > 0 else 0.0


def _split(image: str, *, kaggle: bool) -> str:
    """A tenth to validate by the hash of seed 0 and the image; of Kaggle's the next tenth to test."""
    fraction = int(hashlib.sha256(f"0:{image}".encode()).hexdigest()[:16], 16) / 2**64
    return "validate" if fraction < 0.1 else "test" if kaggle and fraction < 0.2 else "train"


def _save(out: Path, tables: dict[str, list[dict[str, Any]]], *, kaggle: bool) -> None:
    if kaggle:
        table = pd.DataFrame(tables["boxes train"], columns=["image_id", "class_name", "rad_id", *EDGES])
        table.insert(2, "class_id", table["class_name"].map(KAGGLE_IDS))
        for edge in EDGES:
            table[edge] = [str(int(value)) if value != "" else "" for value in table[edge]]
        save_csv(table, out / "train.csv")
        return
    for part in ("train", "test"):
        who = ["image_id"] if part == "test" else ["image_id", "rad_id"]
        labels = pd.DataFrame(tables[part], columns=[*who, *CLASSES])
        labels = labels.rename(columns={"Other diseases": "Other disease"} if part == "test" else {})
        save_csv(labels, out / "annotations" / f"image_labels_{part}.csv")
        boxes = pd.DataFrame(tables[f"boxes {part}"], columns=[*who, "class_name", *EDGES])
        save_csv(boxes, out / "annotations" / f"annotations_{part}.csv")
