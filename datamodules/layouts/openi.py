"""OpenI / Indiana University reports (Demner-Fushman et al., JAMIA 2016): XML in an archive, images if there are any.

Labels come from the MeSH major tags, which people set for the whole report, so a finding without a tag is absent. Where
a tag only hints at a finding (`HINTS`) its label is NaN. "No Finding" is 1 for the tag `normal`, 0 beside any positive
label, and NaN otherwise (a healed granuloma is neither). A report tagged `No Indexing` has no labels.
"""

import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.layouts.source import hashed_split, open_root
from datamodules.manifest import Remark, Manifest, make_manifest
from datamodules.reports.labels import FINDINGS
from datamodules.reports.sections import Section, Sections, choose, clean

ARCHIVE = "NLMCXR_reports.tgz"
EXPECTED = f"{ARCHIVE}, or ecgen-radiology/*.xml; images as <parentImage id>.png in images/ or beside them"
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


def read(root: str | Path | None, *, section: Section = "findings", seed: int = 0) -> Manifest:
    """Read the reports.

    Args:
        root: the archive itself (it is read without unpacking), or a folder with it, or one with `ecgen-radiology/`.
        section: which section is the report, by the rules of `datamodules.reports.sections.choose`.
        seed: of the split by patient, 80/10/10; the data set has no official one.

    Returns:
        One row an image that is on disk; a report without such an image is one row with image "". Views are unknown:
        the XML does not say which image is which. Reports without the section are in `drops`.

    Raises:
        FileNotFoundError: when the root or the reports in it are missing.
        ValueError: when a report is not readable XML or has no uId, naming the file.
    """
    path = open_root(root, layout="openi", expected=EXPECTED)
    images = _images(path if path.is_dir() else path.parent)
    rows: list[dict] = []
    without: list[str] = []
    for name, data in _documents(path):
        try:
            document = ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            raise ValueError(f"{path}: {name} is not readable XML ({error}); fetch the archive again") from error
        identifier = document.find("uId")
        study = identifier.get("id", "") if identifier is not None else ""
        if not study:
            raise ValueError(f"{path}: {name} has no <uId id=...>; expected a report of the NLMCXR archive")
        sections = {part.get("Label", "").lower(): clean(part.text or "") for part in document.iter("AbstractText")}
        report, source = choose(Sections(sections.get("findings", ""), sections.get("impression", "")), section)
        if not report:
            without.append(study)
            continue
        tags = [(tag.text or "").strip().lower() for tag in document.findall("MeSH/major")]
        row = {"study_id": study, "patient_id": study, "report": report, "report_source": source, **_labels(tags)}
        names = [image.get("id", "") for image in document.findall("parentImage")]
        found = [{"image": images[n], "image_id": n} for n in names if n in images] or [
            {"image": "", "image_id": study}
        ]
        rows.extend(row | image for image in found)
    if not rows:
        raise ValueError(
            f"{path}: none of the {len(without)} reports has the section {section!r}; set layout_options.section"
        )
    splits = hashed_split([row["patient_id"] for row in rows], seed=seed)
    for row, split in zip(rows, splits, strict=True):
        row["split"] = split
    drops = [Remark(f"no section {section!r}", tuple(without))] if without else []
    try:
        return make_manifest(rows, source="openi", drops=drops)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _documents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each report, in the order of their names."""
    archive = path / ARCHIVE if path.is_dir() else path
    if archive.is_file():
        contents: dict[str, bytes] = {}
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    stream = tar.extractfile(member) if member.name.endswith(".xml") else None
                    if stream is not None:
                        contents[member.name] = stream.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{archive} is not a readable tar archive ({error}); fetch it again") from error
        if not contents:
            raise FileNotFoundError(f"layout openi: {archive} holds no *.xml; expected ecgen-radiology/*.xml in it")
        yield from sorted(contents.items())
        return
    files = sorted((path / "ecgen-radiology").glob("*.xml")) or sorted(path.glob("*.xml"))
    if not files:
        raise FileNotFoundError(f"layout openi: {path} holds no reports; expected {EXPECTED}")
    for file in files:
        yield file.name, file.read_bytes()


def _images(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for place in (folder, folder / "images"):
        found |= {file.stem: str(file) for file in sorted(place.glob("*.png"))}
    return found


def _labels(tags: list[str]) -> dict[str, float]:
    """The 14 labels of a report's tags (lower case): 1, 0 or NaN."""
    if not tags or "no indexing" in tags:
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
    if tags == ["normal"]:
        labels["No Finding"] = 1.0
    elif not any(labels[finding] == 1 for finding in FINDINGS):
        labels["No Finding"] = np.nan
    return labels
