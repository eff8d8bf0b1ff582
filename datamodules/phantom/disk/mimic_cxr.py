"""Phantoms as MIMIC-CXR-JPG with the reports of MIMIC-CXR.

Quirks that a share of the studies shows: a second, lateral picture (LATERAL or LL); an empty or odd ViewPosition; no
row in the label tables; empty label fields; a report with only an impression, with an empty FINDINGS header, with
FINDINGS AND IMPRESSION in one, with "CHEST, PA AND LATERAL:" in place of FINDINGS, with neither header, after a wet
read; blanks "___"; text that is wrapped and begins each line with a blank, under the line FINAL REPORT.
"""

import csv
import hashlib
import io
import re
import textwrap
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, make_manifest
from datamodules.phantom.disk.common import Phantom, lateral, phantoms, quirk, save_csv, save_picture

# As the published label tables have them.
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
VIEW_MEANING = {
    "PA": "postero-anterior",
    "AP": "antero-posterior",
    "LATERAL": "lateral",
    "LL": "left lateral",
    "": "",
    "AP AXIAL": "antero-posterior",
    "PA LLD": "postero-anterior",
    "LAO": "left anterior oblique",
}
VIEW = {"LL": "LATERAL", "": "unknown", "AP AXIAL": "AP", "PA LLD": "PA", "LAO": "unknown"}
ODD = {"AP": "AP AXIAL", "PA": "PA LLD"}
# Between these no study is named by the rules that the published section code has for single studies.
STUDIES = (55_300_000, 56_300_000)
PATIENTS = (10_000_000, 20_000_000)
RULE = "_" * 78

Kind = Literal["headers", "impression", "empty findings", "combined", "view header", "no headers"]


@dataclass(frozen=True)
class Written:
    """One study as it stands on disk.

    Attributes:
        patient: as "p10000032".
        study: as "s50414267".
        split: of the patient.
        images: (dicom_id, ViewPosition) of each picture, the frontal first.
        report: the whole text of the file.
        sections: findings, impression, last_paragraph → the text that stands in the report, "" where it does not.
        labels: labeler ("chexpert", "negbio") → finding → 1, 0, -1 or NaN; empty where the study has no row.
    """

    patient: str
    study: str
    split: str
    images: tuple[tuple[str, str], ...]
    report: str
    sections: dict[str, str]
    labels: dict[str, dict[str, float]]


def write(
    out: Path,
    *,
    studies: int,
    seed: int,
    size: int,
    reports: Literal["folder", "zip", "sectioned"] = "zip",
    gz: bool = True,
) -> Manifest:
    """Write the data set.

    Args:
        out: an empty folder.
        studies: how many phantoms.
        seed: of the phantoms.
        size: side of the pictures in pixels.
        reports: texts in a folder beside the studies' folders, `mimic-cxr-reports.zip`, or `mimic_cxr_sectioned.csv`.
        gz: whether the tables are gzipped, as they are published.

    Returns:
        What the reader must find with its default options.

    Raises:
        ValueError: for more studies than there are numbers.
    """
    if studies > STUDIES[1] - STUDIES[0]:
        raise ValueError(f"expected at most {STUDIES[1] - STUDIES[0]} studies, found {studies}")
    written = []
    for one in phantoms(studies=studies, seed=seed, size=size):
        done = plan(one)
        written.append(done)
        for (dicom_id, _), pixels in zip(done.images, (one.pixels, lateral(one.pixels)), strict=False):
            save_picture(pixels, out / _folder(done) / f"{dicom_id}.jpg")
    _save_tables(out, written, size=size, suffix=".csv.gz" if gz else ".csv")
    texts = {f"{_folder(done)}.txt": done.report for done in sorted(written, key=_order)}
    if reports == "folder":
        for name, text in texts.items():
            (out / name).write_bytes(text.encode())
    elif reports == "zip":
        _save_zip(out / "mimic-cxr-reports.zip", texts)
    else:
        _save_sectioned(out / "mimic_cxr_sectioned.csv", written)
    return manifest_of(written, out)


def plan(one: Phantom) -> Written:
    """What is written of one phantom."""
    seed, index = one.study.seed, one.study.index
    patient, study = _number(one.patient, seed, PATIENTS), _number(index, seed, STUDIES)
    view: str = one.study.view
    for name, share, odd in (("empty view", 0.06, ""), ("odd view", 0.03, ODD[view]), ("oblique", 0.03, "LAO")):
        view = odd if quirk(one, name, share=share) else view
    views = [view]
    if quirk(one, "second picture", share=0.5):
        views.append("LL" if quirk(one, "LL", share=0.3) else "LATERAL")
    images = tuple((_dicom_id(seed, index, number), name) for number, name in enumerate(views))
    report, sections = _report(one)
    labelers = () if quirk(one, "no labels", share=0.04) else ("chexpert", "negbio")
    labels = {labeler: _labels(one, labeler) for labeler in labelers}
    return Written(f"p{patient}", f"s{study}", one.split, images, report, sections, labels)


def manifest_of(
    written: Iterable[Written],
    out: Path,
    *,
    labels: Literal["chexpert", "negbio"] = "chexpert",
    section: Literal["findings", "impression", "both", "first"] = "findings",
    without_report: Literal["drop", "keep"] = "drop",
) -> Manifest:
    """What the reader must find with these options in what was written to `out`, in the order of the tables."""
    rows = []
    for done in sorted(written, key=_order):
        have = [name for name in ("findings", "impression") if done.sections[name]]
        chosen = {"both": have, "first": have[:1]}.get(section, [name for name in have if name == section])
        if not have:
            chosen = ["last_paragraph"]
        text = " ".join(done.sections[name] for name in chosen)
        if not text and without_report == "drop":
            continue
        for dicom_id, view in sorted(done.images):
            row = {
                "image": str(out / _folder(done) / f"{dicom_id}.jpg"),
                "image_id": dicom_id,
                "study_id": done.study,
                "patient_id": done.patient,
                "view": VIEW.get(view, view),
                "split": done.split,
                "report": text,
                "report_source": "+".join(chosen) or "none",
            }
            rows.append(row | done.labels.get(labels, {}))
    return make_manifest(rows, source="mimic_cxr")


def _report(one: Phantom) -> tuple[str, dict[str, str]]:
    said = dict(line.split(": ", 1) for line in one.report.split("\n"))
    findings, impression = said["FINDINGS"], said["IMPRESSION"]
    if quirk(one, "blank in findings", share=0.3):
        findings += " Dr. ___ was told at ___."
    kind: Kind = "headers"
    for name, share in (("impression", 0.1), ("empty findings", 0.05), ("combined", 0.06), ("view header", 0.1)):
        if quirk(one, name, share=share):
            kind = name  # type: ignore[assignment]
    if quirk(one, "no headers", share=0.1):
        kind = "no headers"
    examination = "CHEST (PA AND LAT)" if one.study.view == "PA" else "CHEST (PORTABLE AP)"
    indication = re.sub(r"^\d+-year-old", "___ year old", said.get("INDICATION", "___ year old patient with cough."))
    paragraphs = [
        _section("EXAMINATION", examination),
        _section("INDICATION", indication),
        _section("COMPARISON", said.get("COMPARISON", "___.")),
    ]
    paragraphs += {
        "headers": [_section("FINDINGS", findings, apart=True), _section("IMPRESSION", impression, apart=True)],
        "impression": [_section("IMPRESSION", impression)],
        "empty findings": [" FINDINGS: ", _section("IMPRESSION", impression, apart=True)],
        "combined": [_section("FINDINGS AND IMPRESSION", f"{findings} {impression}")],
        "view header": [_section("CHEST, PA AND LATERAL", findings), _section("IMPRESSION", impression)],
        "no headers": [_wrapped(findings), _wrapped(impression)],
    }[kind]
    text = " " * 33 + "FINAL REPORT\n" + "\n \n".join(paragraphs) + "\n"
    if quirk(one, "wet read", share=0.1):
        text = f" WET READ: ___ ___ ___ 10:51 PM\n  No acute process. \n{RULE}\n{text}"
    sections = dict.fromkeys(("findings", "impression", "last_paragraph"), "")
    if kind in ("headers", "view header"):
        sections["findings"] = findings
    if kind == "no headers":
        sections["last_paragraph"] = f"{findings} {impression}"
    else:
        sections["impression"] = f"{findings} {impression}" if kind == "combined" else impression
    return text, sections


def _section(header: str, text: str, *, apart: bool = False) -> str:
    return f" {header}: \n \n{_wrapped(text)}" if apart else _wrapped(f"{header}:  {text}")


def _wrapped(text: str) -> str:
    return "\n".join(f" {line}" for line in textwrap.wrap(text, 77, break_on_hyphens=False))


def _labels(one: Phantom, labeler: str) -> dict[str, float]:
    """NegBio hears some doubts as statements; both leave out most of what is absent."""
    labels = {}
    for finding in LABELS:
        value = one.labels[finding]
        if value == 0 and (finding == "No Finding" or quirk(one, f"{labeler} {finding}", share=0.6)):
            value = np.nan
        if value == -1 and labeler == "negbio" and quirk(one, f"doubt {finding}", share=0.5):
            value = 1.0
        labels[finding] = value
    return labels


def _save_tables(out: Path, written: list[Written], *, size: int, suffix: str) -> None:
    rows = []
    for done in sorted(written, key=_order):
        date, time = _moment(done.study)
        for dicom_id, view in sorted(done.images):
            frontal = done.images[0][1]
            procedure = "CHEST (PORTABLE AP)" if frontal.startswith("AP") else "CHEST (PA AND LAT)"
            row = {
                "dicom_id": dicom_id,
                "subject_id": done.patient[1:],
                "study_id": done.study[1:],
                "PerformedProcedureStepDescription": procedure,
                "ViewPosition": view,
                "Rows": size,
                "Columns": size,
                "StudyDate": date,
                "StudyTime": time,
                "ProcedureCodeSequence_CodeMeaning": procedure,
                "ViewCodeSequence_CodeMeaning": VIEW_MEANING[view],
                "PatientOrientationCodeSequence_CodeMeaning": "Erect" if view else "",
                "split": done.split,
            }
            rows.append(row)
    table = pd.DataFrame(rows)
    save_csv(table.drop(columns="split"), out / f"mimic-cxr-2.0.0-metadata{suffix}")
    save_csv(table[["dicom_id", "study_id", "subject_id", "split"]], out / f"mimic-cxr-2.0.0-split{suffix}")
    for labeler in ("chexpert", "negbio"):
        labelled = [
            {"subject_id": done.patient[1:], "study_id": done.study[1:], **done.labels[labeler]}
            for done in sorted(written, key=_order)
            if done.labels
        ]
        columns = ["subject_id", "study_id", *LABELS]
        save_csv(pd.DataFrame(labelled, columns=columns), out / f"mimic-cxr-2.0.0-{labeler}{suffix}")


def _save_zip(path: Path, texts: dict[str, str]) -> None:
    folders = {"/".join(name.split("/")[:depth]) + "/" for name in texts for depth in (1, 2, 3)}
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted([*folders, *texts]):
            # The time of a member would differ from run to run.
            info = zipfile.ZipInfo(name, date_time=(2019, 9, 19, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name.endswith("/") else zipfile.ZIP_DEFLATED
            archive.writestr(info, texts.get(name, "").encode())


def _save_sectioned(path: Path, written: list[Written]) -> None:
    """As the published code writes it: lines end in CR LF, the texts keep their own line breaks."""
    buffer = io.StringIO(newline="")
    rows = csv.writer(buffer)
    rows.writerow(["study", "impression", "findings", "last_paragraph", "comparison"])
    for done in sorted(written, key=_order):
        texts = (done.sections[name] for name in ("impression", "findings", "last_paragraph"))
        rows.writerow([done.study, *(_wrapped(text).strip() for text in texts), "___."])
    path.write_bytes(buffer.getvalue().encode())


def _order(done: Written) -> tuple[str, str]:
    return done.patient, done.study


def _folder(done: Written) -> str:
    return f"files/{done.patient[:3]}/{done.patient}/{done.study}"


def _number(index: int, seed: int, bounds: tuple[int, int]) -> int:
    """A number within the bounds, another one for each index below their distance."""
    low, high = bounds
    # Prime to every power of ten, so a walk in these steps meets each number once.
    return low + (index * 618_033_989 + seed * 7_654_321) % (high - low)


def _dicom_id(seed: int, index: int, number: int) -> str:
    digest = hashlib.sha256(f"{seed}:{index}:{number}".encode()).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def _moment(study: str) -> tuple[str, str]:
    """A day between 2105 and 2202 and a time, as the de-identified tables have them."""
    code = int(study[1:])
    day = f"{2105 + code % 98}{1 + code % 12:02d}{1 + code % 28:02d}"
    return day, f"{code % 24:02d}{code % 60:02d}{code // 7 % 60:02d}.{code % 1000:03d}"
