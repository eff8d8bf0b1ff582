"""One report of the Indiana collection, from the XML archive or from Kaggle's tables, and the labels of its MeSH tags.

Labels come from the MeSH major tags, which people set for the whole report, so a finding without a tag is absent. Where
a tag only hints at a finding (`HINTS`) its label is NaN. "No Finding" is 1 for the tag `normal`, 0 beside any positive
label, and NaN otherwise (a healed granuloma is neither). A report tagged `No Indexing` has no labels.
"""

import re
from dataclasses import dataclass

import numpy as np

from datamodules.manifest import Remark
from datamodules.reports.labels import FINDINGS

# A tag is heading/qualifier/qualifier..., compared in lower case; the patterns match from its start.
POSITIVE: dict[str, str] = {
    "Enlarged Cardiomediastinum": r"mediastinum/(?!lymph nodes|blood vessels)(.*/)?(enlarged|prominent)",
    "Cardiomegaly": r"cardiomegaly|cardiac shadow/enlarged",
    "Lung Opacity": r"opacity/(.*/)?(lung|retrocardiac|pulmonary alveoli)|infiltrate/lung|airspace disease",
    "Lung Lesion": r"(nodule|mass)/(.*/)?lung",
    "Edema": r"pulmonary edema",
    "Consolidation": r"consolidation",
    "Pneumonia": r"pneumonia(?!\w)",
    "Atelectasis": r"pulmonary atelectasis",
    "Pneumothorax": r"(hydro|hemo)?pneumothorax",
    "Pleural Effusion": r"pleural effusion|hydropneumothorax|hemopneumothorax|hemothorax",
    "Pleural Other": r"(thickening|cicatrix)/(.*/)?pleura",
    "Fracture": r"fractures, bone",
    "Support Devices": r"catheters, indwelling|implanted medical device|medical device|tube, inserted",
}
HINTS: dict[str, str] = {
    "Enlarged Cardiomediastinum": r"cardiomegaly|shift/mediastinum|(mass|opacity|density)/(.*/)?mediastinum",
    "Cardiomegaly": r"cardiac shadow|pericardial effusion",
    "Lung Opacity": r"opacity|density/(.*/)?lung|cicatrix/(.*/)?lung|lung diseases, interstitial|markings/lung",
    "Lung Lesion": r"nodule|mass(?!\w)|cavitation|density/round|opacity/round",
    "Edema": r"pulmonary congestion|heart failure",
    "Pleural Effusion": r"costophrenic angle|pleura/blunted|opacity/costophrenic angle",
    "Pleural Other": r"pleura(?!l effusion)|thickening(?!/)",
    "Support Devices": r"surgical instruments|stents|spinal fusion|sutures|foreign bodies",
}
OPACITIES = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
NO_INDEXING = "no indexing"
# CXR2_IM-0652-1001 in the archive is 2_IM-0652-1001.dcm.png at Kaggle's; CXR1_1_IM-0001-3001 is 1_IM-0001-3001.
_PICTURE = re.compile(r"(?:CXR)?(\d+)_(?:\1_)?(IM-[\d-]+)")
_SUFFIX = re.compile(r"(\.dcm)?(\.png|\.jpe?g)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Report:
    """One report as published.

    Attributes:
        study: "CXR<number>" in both editions, so that both give the same split.
        findings: text of that section, blanks as "___", "" where it is empty.
        impression: likewise.
        tags: MeSH major tags in lower case.
        caption: what was taken, e.g. "Xray Chest PA and Lateral".
        pictures: ids of the pictures that it names.
    """

    study: str
    findings: str
    impression: str
    tags: tuple[str, ...]
    caption: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What an edition holds before it is joined with the pictures on disk.

    Attributes:
        reports: in the order of the source.
        views: `picture_key` → one of VIEWS or "frontal"; what is not named is unknown.
        drops: rows that became no report and no picture.
        notes: what is odd in the tables.
    """

    reports: list[Report]
    views: dict[str, str]
    drops: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()


def picture_key(name: str) -> str:
    """What a picture's id in the archive, its file and its name at Kaggle have in common.

    Other names lose their folder and suffix.
    """
    base = _SUFFIX.sub("", name.rsplit("/", 1)[-1])
    match = _PICTURE.fullmatch(base)
    return f"{match[1]}_{match[2]}" if match else base


def is_published_name(name: str) -> bool:
    """Whether a file is named as a picture of the collection."""
    return _PICTURE.fullmatch(_SUFFIX.sub("", name.rsplit("/", 1)[-1])) is not None


def tag_labels(tags: tuple[str, ...]) -> dict[str, float]:
    """The 14 labels of a report's tags: 1, 0 or NaN."""
    if not tags or NO_INDEXING in tags:
        return dict.fromkeys(FINDINGS, np.nan)
    labels = dict.fromkeys(FINDINGS, 0.0)
    for finding, pattern in HINTS.items():
        if any(re.match(pattern, tag) for tag in tags):
            labels[finding] = np.nan
    for finding, pattern in POSITIVE.items():
        if any(re.match(pattern, tag) for tag in tags):
            labels[finding] = 1.0
    if any(labels[child] == 1 for child in OPACITIES):
        labels["Lung Opacity"] = 1.0
    if tags == ("normal",):
        labels["No Finding"] = 1.0
    elif not any(labels[finding] == 1 for finding in FINDINGS):
        labels["No Finding"] = np.nan
    return labels


def tag_notes(reports: list[Report]) -> list[Remark]:
    """What is odd about the tags of these reports."""
    unlabelled = [r.study for r in reports if not r.tags or NO_INDEXING in r.tags]
    contradictory = [r.study for r in reports if "normal" in r.tags and len(r.tags) > 1]
    poor = [r.study for r in reports if any(tag.startswith("technical quality of image unsat") for tag in r.tags)]
    return [
        Remark("no MeSH tag, or tagged 'No Indexing': the labels are unknown", tuple(unlabelled), "note"),
        Remark(
            "tagged 'normal' beside other tags: No Finding is not 1",
            tuple(contradictory),
            "warning",
            "read the report and remove the wrong tag",
        ),
        Remark("tagged as of unsatisfactory technical quality, kept", tuple(poor), "note"),
    ]
