"""Phantoms as the Indiana collection is published: the XML archive with PNGs, or Kaggle's tables.

Quirks: XXXX blanks, empty FINDINGS, reports without any text, two pictures a study (the second a lateral) but sometimes
one or none, MeSH tags beside automatic ones, `No Indexing`, the first report's odd picture names. A finding that the
report only hedges is not tagged.
"""

import hashlib
import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.phantom.disk.common import Phantom, gzipped, lateral, phantoms, quirk, save_csv, save_picture
from datamodules.phantom.study import Finding
from datamodules.reports.labels import FINDINGS

HEADINGS = {
    "Enlarged Cardiomediastinum": "Mediastinum/enlarged",
    "Cardiomegaly": "Cardiomegaly",
    "Lung Opacity": "Opacity/lung",
    "Edema": "Pulmonary Edema",
    "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia",
    "Atelectasis": "Pulmonary Atelectasis",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Pleural Effusion",
    "Pleural Other": "Thickening/pleura",
    "Fracture": "Fractures, Bone/ribs",
}
DEVICES = {
    "endotracheal tube": "Tube, Inserted",
    "nasogastric tube": "Tube, Inserted",
    "chest tube": "Tube, Inserted",
    "central venous catheter": "Catheters, Indwelling",
}
ZONES = {"base": "base", "lower": "lower lobe", "upper": "upper lobe", "mid": "middle lobe", "apex": "apex"}
OPACITIES = {"Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis"}
SECTIONS = ("COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION")
CAPTIONS = ("Xray Chest PA and Lateral", "PA and lateral chest x-XXXX dated XXXX, XXXX at XXXX a.m.. ")
DEVICE = "Support Devices"


@dataclass(frozen=True)
class _Written:
    """One report with what is written of it; `pictures` are the names in the archive, frontal first."""

    number: int
    sections: dict[str, str]
    caption: str
    tags: tuple[str, ...]
    pictures: tuple[str, ...]

    @property
    def kaggle(self) -> list[str]:
        return [f"{self.number}_{name[name.index('IM-') :]}.dcm.png" for name in self.pictures]


def write(out: Path, *, studies: int, seed: int, size: int, kaggle: bool = False) -> Manifest:
    """Write the data set.

    Args:
        out: an empty folder.
        studies: how many reports; each is a patient of its own, as in the collection.
        seed: of the phantoms.
        size: side of the pictures.
        kaggle: Kaggle's tables and pictures instead of the archive; these leave out reports without pictures.

    Returns:
        What `read` must give for the section findings.
    """
    rows: list[dict] = []
    written: list[_Written] = []
    untold: list[str] = []
    silent: list[str] = []
    for one in phantoms(studies=studies, seed=seed, size=size):
        report = _report(one)
        if kaggle and not report.pictures:
            continue
        written.append(report)
        files = report.kaggle if kaggle else [f"{name}.png" for name in report.pictures]
        folder = Path("images/images_normalized" if kaggle else "images")
        for file, pixels in zip(files, (one.pixels, lateral(one.pixels)), strict=False):
            save_picture(pixels, out / folder / file)
        study = f"CXR{report.number}"
        if not report.sections["FINDINGS"]:
            (untold if report.sections["IMPRESSION"] else silent).append(study)
            continue
        row = {
            "study_id": study,
            "patient_id": study,
            "split": _split(study),
            "report": report.sections["FINDINGS"].replace("XXXX", "___"),
            "report_source": "findings",
            **_labels(one, report.tags),
        }
        if not files:
            rows.append(row | {"image": "", "image_id": study, "view": "unknown"})
        for file, name, view in zip(files, report.pictures, ("PA", "LATERAL"), strict=False):
            identifier = f"CXR{file.removesuffix('.dcm.png')}" if kaggle else name
            view = view if kaggle else "unknown"
            rows.append(row | {"image": str(out / folder / file), "image_id": identifier, "view": view})
    (_save_tables if kaggle else _save_archive)(out, written)
    drops = [
        Remark("no section 'findings'", tuple(untold)),
        Remark("neither findings nor an impression", tuple(silent)),
    ]
    return make_manifest(rows, source="openi", drops=drops)


def _report(one: Phantom) -> _Written:
    number = one.study.index + 1
    texts = dict(line.split(": ", 1) for line in one.report.splitlines())
    sections = {name: texts.get(name, "") for name in SECTIONS}
    sections["COMPARISON"] = sections["COMPARISON"] or "None."
    if quirk(one, "openi blank", share=0.8):
        sections["FINDINGS"] = re.sub(r"\b(is|are)\b", "XXXX", sections["FINDINGS"], count=1)
    pictures = tuple(f"CXR{number}_IM-{number:04d}-{part}001" for part in (1, 2))
    if number == 1:
        # As published. The first report is whole, so that no folder is without a picture or a text.
        pictures = ("CXR1_1_IM-0001-4001", "CXR1_1_IM-0001-3001")
        return _Written(number, sections, CAPTIONS[0], _tags(one), pictures)
    if quirk(one, "openi no findings", share=0.15):
        sections["FINDINGS"] = ""
        if quirk(one, "openi no impression", share=0.25):
            sections = dict.fromkeys(SECTIONS, "")
    if quirk(one, "openi no picture", share=0.06):
        pictures = ()
    elif quirk(one, "openi one picture", share=0.12):
        pictures = pictures[:1]
    caption = CAPTIONS[int(quirk(one, "openi caption", share=0.5))]
    return _Written(number, sections, caption, _tags(one), pictures)


def _tags(one: Phantom) -> tuple[str, ...]:
    certain = [finding for finding in one.study.findings if finding.certain]
    if (one.study.findings and not certain) or quirk(one, "openi no indexing", share=0.03):
        return ("No Indexing",)
    return tuple(dict.fromkeys(_tag(finding) for finding in certain)) or ("normal",)


def _tag(finding: Finding) -> str:
    if finding.label == DEVICE:
        heading = DEVICES.get(finding.word, "Implanted Medical Device")
    elif finding.label == "Lung Lesion":
        heading = f"{finding.word.capitalize()}/lung"
    else:
        heading = HEADINGS[finding.label]
    return "/".join(part for part in (heading, ZONES.get(finding.zone or ""), finding.side, finding.severity) if part)


def _labels(one: Phantom, tags: tuple[str, ...]) -> dict[str, float]:
    if tags == ("No Indexing",):
        return dict.fromkeys(FINDINGS, np.nan)
    positive = {finding.label for finding in one.study.findings if finding.certain}
    if positive & OPACITIES:
        positive.add("Lung Opacity")
    labels = {finding: float(finding in positive) for finding in FINDINGS}
    labels["No Finding"] = float(not positive)
    # A large heart widens the mediastinum's shadow, so the tag says nothing of the mediastinum.
    if "Cardiomegaly" in positive and "Enlarged Cardiomediastinum" not in positive:
        labels["Enlarged Cardiomediastinum"] = np.nan
    return labels


def _split(patient: str) -> str:
    fraction = int.from_bytes(hashlib.sha256(f"0:{patient}".encode()).digest()[:8], "big") / 2**64
    return "train" if fraction < 0.8 else "validate" if fraction < 0.9 else "test"


def _save_tables(out: Path, written: list[_Written]) -> None:
    reports = [
        {
            "uid": report.number,
            "MeSH": ";".join(report.tags),
            "Problems": ";".join(dict.fromkeys(tag.split("/")[0] for tag in report.tags)),
            "image": report.caption,
            **{name.lower(): report.sections[name] for name in ("INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION")},
        }
        for report in written
    ]
    save_csv(pd.DataFrame(reports), out / "indiana_reports.csv")
    projections = [
        {"uid": report.number, "filename": file, "projection": projection}
        for report in written
        for file, projection in zip(report.kaggle, ("Frontal", "Lateral"), strict=False)
    ]
    save_csv(pd.DataFrame(projections), out / "indiana_projections.csv")


def _save_archive(out: Path, written: list[_Written]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folder = tarfile.TarInfo("ecgen-radiology")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for report in sorted(written, key=lambda report: str(report.number)):
            data = _xml(report).encode()
            member = tarfile.TarInfo(f"ecgen-radiology/{report.number}.xml")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (out / "NLMCXR_reports.tgz").write_bytes(gzipped(buffer.getvalue()))


def _xml(report: _Written) -> str:
    texts = [
        f'<AbstractText Label="{name}"' + (f">{escape(text)}</AbstractText>" if text else "/>")
        for name, text in report.sections.items()
    ]
    tags = [f"<major>{escape(tag)}</major>" for tag in report.tags]
    tags += [f"<automatic>{escape(tag.split('/')[0].lower())}</automatic>" for tag in report.tags if tag != "normal"]
    pictures = [
        f'   <parentImage id="{name}">\n'
        f"      <figureId>F{figure}</figureId>\n"
        f"      <caption>{escape(report.caption)}</caption>\n"
        f'      <panel type="single">\n'
        f"         <url>/hadoop/storage/radiology/extract/{name}.jpg</url>\n"
        f"         <imgModality>7</imgModality>\n"
        f"      </panel>\n"
        f"   </parentImage>\n"
        for figure, name in enumerate(report.pictures, 1)
    ]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n   <meta type="rr"/>\n'
        f'   <uId id="CXR{report.number}"/>\n   <pmcId id="{report.number}"/>\n   <docSource>CXR</docSource>\n'
        f'   <IUXRId id="{report.number}"/>\n   <articleType>XR</articleType>\n'
        '   <MedlineCitation Owner="Indiana University" Status="supplied by publisher">\n'
        '      <Article PubModel="Electronic">\n         <Abstract>\n'
        + "".join(f"            {text}\n" for text in texts)
        + "         </Abstract>\n      </Article>\n   </MedlineCitation>\n   <MeSH>\n"
        + "".join(f"      {tag}\n" for tag in tags)
        + "   </MeSH>\n"
        + "".join(pictures)
        + "</eCitation>"
    )
