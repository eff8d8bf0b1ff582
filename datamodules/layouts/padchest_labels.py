"""PadChest's 194 label names and what each says of CheXpert's 14 findings.

PadChest labels what a report names, from a closed list, so a finding that is not named is absent (0). The rules:
- A name in `NAMED` makes its findings 1; consolidation, edema, pneumonia, atelectasis and lesions also make Lung
  Opacity 1, as in CheXpert's hierarchy.
- A name in `HINTS` leaves its findings unknown (NaN) unless another name makes them 1: it often goes with the finding
  or is another word for a part of it.
- "unchanged" speaks of an earlier study that is not at hand, "exclude" of a report that could not be labelled: beside
  them what is not named is NaN, not 0. "suboptimal study" alone says nothing (NaN); beside others it changes nothing.
- No Finding is 1 where the list holds nothing but "normal" and support devices, 0 beside any other finding, and NaN
  otherwise: scoliosis or COPD signs are neither normal nor a finding of CheXpert's.
- No names at all: all NaN.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.reports.labels import FINDINGS

NAMED: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": ("mediastinal enlargement", "superior mediastinal enlargement"),
    "Cardiomegaly": ("cardiomegaly",),
    "Lung Opacity": (
        "infiltrates",
        "interstitial pattern",
        "ground glass pattern",
        "reticular interstitial pattern",
        "reticulonodular interstitial pattern",
        "miliary opacities",
        "alveolar pattern",
        "increased density",
    ),
    "Lung Lesion": (
        "nodule",
        "multiple nodules",
        "mass",
        "pulmonary mass",
        "cavitation",
        "lung metastasis",
        "lepidic adenocarcinoma",
    ),
    "Edema": ("pulmonary edema",),
    "Consolidation": ("consolidation", "air bronchogram"),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Atelectasis": (
        "atelectasis",
        "total atelectasis",
        "lobar atelectasis",
        "segmental atelectasis",
        "laminar atelectasis",
        "round atelectasis",
        "atelectasis basal",
    ),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Pleural Effusion": (
        "pleural effusion",
        "loculated pleural effusion",
        "loculated fissural effusion",
        "hydropneumothorax",
        "hemothorax",
        "empyema",
    ),
    "Pleural Other": (
        "pleural thickening",
        "apical pleural thickening",
        "calcified pleural thickening",
        "pleural plaques",
        "calcified pleural plaques",
        "pleural mass",
    ),
    "Fracture": (
        "fracture",
        "clavicle fracture",
        "humeral fracture",
        "vertebral fracture",
        "rib fracture",
        "callus rib fracture",
    ),
    "Support Devices": (
        "NSG tube",
        "endotracheal tube",
        "tracheostomy tube",
        "chest drain tube",
        "ventriculoperitoneal drain tube",
        "gastrostomy tube",
        "nephrostomy tube",
        "double J stent",
        "catheter",
        "central venous catheter",
        "central venous catheter via subclavian vein",
        "central venous catheter via jugular vein",
        "central venous catheter via umbilical vein",
        "reservoir central venous catheter",
        "electrical device",
        "dual chamber device",
        "single chamber device",
        "pacemaker",
        "dai",
        "artificial heart valve",
        "artificial mitral heart valve",
        "artificial aortic heart valve",
        "endoprosthesis",
        "aortic endoprosthesis",
        "humeral prosthesis",
        "osteosynthesis material",
        "sternotomy",  # its wires
    ),
}
HINTS: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        "cardiomegaly",
        "pericardial effusion",
        "mediastinal mass",
        "mediastinic lipomatosis",
        "goiter",
        "hiatal hernia",
        "aortic aneurysm",
        "ascendent aortic elongation",
        "descendent aortic elongation",
        "supra aortic elongation",
        "aortic button enlargement",
        "adenopathy",
        "hilar enlargement",
    ),
    "Cardiomegaly": ("pericardial effusion",),
    "Lung Opacity": (
        "bronchovascular markings",
        "chronic changes",
        "fibrotic band",
        "pulmonary fibrosis",
        "post radiotherapy changes",
        "asbestosis signs",
        "tuberculosis",
        "tuberculosis sequelae",
        "lymphangitis carcinomatosa",
        "respiratory distress",
        "volume loss",
        "kerley lines",
        "pseudonodule",
        "granuloma",
        "calcified granuloma",
        "calcified densities",
        "abscess",
    ),
    "Lung Lesion": (
        "granuloma",
        "calcified granuloma",
        "pseudonodule",
        "cyst",
        "abscess",
        "lymphangitis carcinomatosa",
    ),
    "Edema": (
        "heart insufficiency",
        "hilar congestion",
        "kerley lines",
        "vascular redistribution",
        "central vascular redistribution",
        "pulmonary venous hypertension",
        "respiratory distress",
    ),
    "Consolidation": ("alveolar pattern",),
    "Pneumonia": ("tuberculosis",),
    "Atelectasis": ("volume loss", "hypoexpansion", "hypoexpansion basal"),
    "Pleural Effusion": ("costophrenic angle blunting",),
    "Pleural Other": (
        "costophrenic angle blunting",
        "fissure thickening",
        "minor fissure thickening",
        "major fissure thickening",
        "asbestosis signs",
    ),
    "Fracture": ("vertebral compression", "vertebral anterior compression"),
    "Support Devices": (
        "metal",
        "suture material",
        "bone cement",
        "prosthesis",
        "surgery",
        "surgery heart",
        "surgery lung",
        "surgery neck",
        "surgery breast",
        "surgery humeral",
        "abnormal foreign body",
        "external foreign body",
    ),
}
UNNAMED: tuple[str, ...] = (
    *("COPD signs", "Chilaiditi sign", "air fluid level", "air trapping", "aortic atheromatosis", "aortic elongation"),
    *("axial hyperostosis", "azygoesophageal recess shift", "azygos lobe", "blastic bone lesion", "bone metastasis"),
    *("breast mass", "bronchiectasis", "bullas", "calcified adenopathy", "calcified fibroadenoma"),
    *("calcified mediastinal adenopathy", "cervical rib", "costochondral junction hypertrophy", "dextrocardia"),
    *("diaphragmatic eventration", "emphysema", "end on vessel", "esophagic dilatation", "flattened diaphragm"),
    *("gynecomastia", "heart valve calcified", "hemidiaphragm elevation", "hyperinflated lung", "kyphosis"),
    *("lipomatosis", "lung vascular paucity", "lytic bone lesion", "mammary prosthesis", "mastectomy"),
    *("mediastinal shift", "nipple shadow", "non axial articular degenerative changes", "obesity", "osteopenia"),
    *("osteoporosis", "pectum carinatum", "pectum excavatum", "pneumomediastinum", "pneumoperitoneo"),
    *("pulmonary artery enlargement", "pulmonary artery hypertension", "pulmonary hypertension"),
    *("right sided aortic arch", "sclerotic bone lesion", "scoliosis", "soft tissue mass"),
    *("sternoclavicular junction hypertrophy", "subacromial space narrowing", "subcutaneous emphysema"),
    *("thoracic cage deformation", "tracheal shift", "vascular hilar enlargement", "vertebral degenerative changes"),
)
NORMAL, OPEN, SUBOPTIMAL = "normal", frozenset({"unchanged", "exclude"}), "suboptimal study"
OPACITIES = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
DEVICES = frozenset(NAMED["Support Devices"])
KNOWN = frozenset(
    {
        NORMAL,
        SUBOPTIMAL,
        *OPEN,
        *UNNAMED,
        *(name for part in (NAMED, HINTS) for names in part.values() for name in names),
    }
)


@dataclass(frozen=True)
class Parsed:
    """The column Labels, row by row.

    Attributes:
        labels: float [N,14], columns FINDINGS.
        oddities: reason → bool [N], which rows it is true of.
    """

    labels: pd.DataFrame
    oddities: dict[str, np.ndarray]


MALFORMED = "Labels is not the text of a list; the labels are unknown"
MISSING = "no labels"
EMPTY = "an empty label beside others was passed over"
TRIMMED = "a label had blanks around it and was trimmed"
TWICE = "a label is named twice in its list"
CONTRADICTION = "'normal' stands beside other labels"
UNCHANGED = "'unchanged' or 'exclude': findings that are not named are unknown, not absent"
LIMITED = "nothing but 'suboptimal study'; the labels are unknown"
ODDITIES = (MALFORMED, MISSING, EMPTY, TRIMMED, TWICE, CONTRADICTION, UNCHANGED, LIMITED)


def parse(texts: pd.Series, *, file: Path) -> Parsed:
    """Labels of the texts of Python lists, and what is odd in them.

    Args:
        texts: as in the file, one a row.
        file: named in the message, with the row as a spreadsheet counts it.

    Raises:
        ValueError: for a name that is not PadChest's, naming file, row and name.
    """
    codes, unique = pd.factorize(texts)
    rows = np.full((len(unique), len(FINDINGS)), np.nan)
    odd = np.zeros((len(unique), len(ODDITIES)), bool)
    for number, text in enumerate(unique):
        names, reasons = _names(str(text))
        unknown = sorted(set(names) - KNOWN)
        if unknown:
            row = int(np.flatnonzero(codes == number)[0])
            raise ValueError(
                f"{file}: row {row + 2}: label {unknown[0]!r} is not one of PadChest's {len(KNOWN)}; mend the row, or "
                "take the file as it is published"
            )
        rows[number] = list(findings(names).values())
        odd[number] = [reason in (*reasons, *_doubts(set(names))) for reason in ODDITIES]
    labels = pd.DataFrame(rows[codes], columns=list(FINDINGS))
    return Parsed(labels, {reason: odd[codes, column] for column, reason in enumerate(ODDITIES)})


def findings(names: Sequence[str]) -> dict[str, float]:
    """The 14 labels of a list of known names: 1, 0 or NaN."""
    found = set(names)
    if not found - {SUBOPTIMAL}:
        return dict.fromkeys(FINDINGS, np.nan)
    labels = dict.fromkeys(FINDINGS, np.nan if found & OPEN else 0.0)
    for finding, hints in HINTS.items():
        if found.intersection(hints):
            labels[finding] = np.nan
    for finding, positives in NAMED.items():
        if found.intersection(positives):
            labels[finding] = 1.0
    if any(labels[child] == 1 for child in OPACITIES):
        labels["Lung Opacity"] = 1.0
    sick = any(labels[finding] == 1 for finding in FINDINGS if finding not in ("No Finding", "Support Devices"))
    healthy = not found - {NORMAL, SUBOPTIMAL} - DEVICES
    labels["No Finding"] = 0.0 if sick else 1.0 if healthy else np.nan
    return labels


def _names(text: str) -> tuple[list[str], list[str]]:
    """The names in the text of a list, and what is odd about their spelling."""
    if text.strip() in ("", "nan", "[]"):
        return [], [MISSING]
    try:
        parsed = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [], [MALFORMED]
    if not isinstance(parsed, list) or not all(isinstance(name, str) for name in parsed):
        return [], [MALFORMED]
    names = [name.strip() for name in parsed if name.strip()]
    if not names:
        return [], [MISSING]
    reasons = {
        EMPTY: len(names) < len(parsed),
        TRIMMED: any(name != name.strip() for name in parsed if name.strip()),
        TWICE: len(set(names)) < len(names),
    }
    return names, [reason for reason, true in reasons.items() if true]


def _doubts(names: set[str]) -> list[str]:
    reasons = {
        CONTRADICTION: NORMAL in names and bool(names - {NORMAL, SUBOPTIMAL} - DEVICES),
        UNCHANGED: bool(names & OPEN),
        LIMITED: names == {SUBOPTIMAL},
    }
    return [reason for reason, true in reasons.items() if true]
