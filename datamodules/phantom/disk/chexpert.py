"""Phantoms in the layout of CheXpert: train.csv, valid.csv, patient/study/view JPEG.

What the phantom says is not there is written as 0.0 for the findings that a report would mention, else left empty, as
CheXpert's labeler does; "No Finding" is 1.0 or empty. Radiologists labelled valid and test: 1.0 or 0.0 throughout, and
what the phantom's report hedges is drawn, so it is 1.0 there.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, make_manifest
from datamodules.phantom.disk.carve import is_carved
from datamodules.phantom.disk.common import Phantom, lateral, phantoms, quirk, save_csv, save_picture
from datamodules.reports.labels import FINDINGS

FOLDERS = {"train": "train", "validate": "valid", "test": "test"}
# The numbers of the published patients: train ends at 64540, valid at 64740.
OFFSETS = {"train": 0, "validate": 64540, "test": 64740}
DESCRIPTION = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
CARVED = 0.02


def write(out: Path, *, studies: int, seed: int, size: int, small: bool = True, test: bool = False) -> Manifest:
    """Write the folder CheXpert-v1.0-small (or CheXpert-v1.0) into `out`.

    Args:
        out: an empty folder.
        studies: how many.
        seed: of the phantoms.
        size: side of the pictures.
        small: whether the folder, and the paths in the tables, are called CheXpert-v1.0-small.
        test: whether the test set is there, as the folder test/ and test_labels.csv, which has labels only; without
            it the phantom's test patients are in valid.

    Returns:
        The manifest that the reader must give with its default options.
    """
    name = "CheXpert-v1.0-small" if small else "CheXpert-v1.0"
    base = out / name
    rows: list[dict] = []
    lines: dict[str, list[dict]] = {"train": [], "valid": [], "test": []}
    for one in phantoms(studies=studies, seed=seed, size=size):
        split = "validate" if one.split == "test" and not test else one.split
        place = FOLDERS[split]
        patient, study = names(one, split=split)
        texts = _label_texts(one, radiologist=split != "train")
        unknown_sex, no_age = quirk(one, "sex unknown", share=0.05), quirk(one, "age 0", share=0.05)
        for view, pixels in views(one):
            path = f"{place}/{patient}/{study}/{view}.jpg"
            save_picture(pixels, base / path)
            frontal = view.endswith("frontal")
            turned = frontal and quirk(one, "frontal with LL", share=0.05)
            lines[place].append(
                {
                    "Path": path if place == "test" else f"{name}/{path}",
                    "Sex": "Unknown" if unknown_sex else {"F": "Female", "M": "Male"}[one.study.sex],
                    "Age": 0 if no_age else min(one.study.age, 90),
                    "Frontal/Lateral": "Frontal" if frontal else "Lateral",
                    "AP/PA": ("LL" if turned else one.study.view) if frontal else "",
                    **texts,
                }
            )
            row = {
                "image": str(base / path),
                "image_id": f"{patient}_{study}_{view}",
                "study_id": f"{patient}_{study}",
                "patient_id": patient,
                "view": "LATERAL" if not frontal else "unknown" if turned else one.study.view,
                "split": _split(patient, split=split, test=test),
                "report_source": "none",
                "sex": "" if unknown_sex else one.study.sex,
                "age": np.nan if no_age else min(one.study.age, 90),
                **{finding: float(text) if text else np.nan for finding, text in texts.items()},
            }
            if place == "test":
                # Its table does not say.
                row |= {"view": "unknown" if frontal else "LATERAL", "sex": "", "age": np.nan}
            rows.append(row)
    columns = [*DESCRIPTION, *FINDINGS]
    save_csv(pd.DataFrame(lines["train"], columns=columns), base / "train.csv")
    save_csv(pd.DataFrame(lines["valid"], columns=columns), base / "valid.csv")
    if test:
        save_csv(pd.DataFrame(lines["test"], columns=["Path", *FINDINGS]), base / "test_labels.csv")
    return make_manifest(rows, source="chexpert")


def names(one: Phantom, *, split: str) -> tuple[str, str]:
    """Patient and study, numbered as published."""
    return f"patient{OFFSETS[split] + one.patient + 1:05d}", f"study{one.study.index % 2 + 1}"


def views(one: Phantom) -> list[tuple[str, np.ndarray]]:
    """Name, without suffix, and pixels of each picture of the study."""
    pictures = [("view1_frontal", one.pixels)]
    if quirk(one, "lateral", share=0.2):
        pictures.append(("view2_lateral", lateral(one.pixels)))
    return pictures


def _split(patient: str, *, split: str, test: bool) -> str:
    if split == "train":
        return "validate" if not test and is_carved(patient, share=CARVED) else "train"
    return split if test else "test"


def _label_texts(one: Phantom, *, radiologist: bool) -> dict[str, str]:
    texts = {}
    for finding in FINDINGS:
        value = one.labels[finding]
        if radiologist:
            texts[finding] = "0.0" if value == 0 else "1.0"
        elif value != 0:
            texts[finding] = f"{value:.1f}"
        else:
            mentioned = finding != "No Finding" and quirk(one, f"denied {finding}", share=0.4)
            texts[finding] = "0.0" if mentioned else ""
    return texts
