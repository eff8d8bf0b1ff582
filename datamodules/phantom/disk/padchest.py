"""Phantoms as PadChest is published: one CSV of 36 columns, 16-bit PNG in numbered folders, stemmed Spanish reports."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.phantom.disk.common import Phantom, lateral, phantoms, quirk, save_csv, save_picture
from datamodules.reports.labels import FINDINGS

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
# As published; the first column has no name and counts the rows.
COLUMNS = (
    *("", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM"),
    *("PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM"),
    *("SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM"),
    *("Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime"),
    *("RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations"),
    *("LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS"),
)
# Of each finding: what PadChest calls it (which of two depends on the study), and the stems of its report.
TERMS: dict[str, tuple[tuple[str, str], str]] = {
    "Enlarged Cardiomediastinum": (
        ("mediastinal enlargement", "superior mediastinal enlargement"),
        "ensanch mediastin",
    ),
    "Cardiomegaly": (("cardiomegaly", "cardiomegaly"), "cardiomegali"),
    "Lung Opacity": (("infiltrates", "alveolar pattern"), "infiltr pulmonar"),
    "Lung Lesion": (("nodule", "pulmonary mass"), "nodul pulmonar"),
    "Edema": (("pulmonary edema", "pulmonary edema"), "edem pulmon"),
    "Consolidation": (("consolidation", "air bronchogram"), "condensacion"),
    "Pneumonia": (("pneumonia", "atypical pneumonia"), "neumoni"),
    "Atelectasis": (("laminar atelectasis", "lobar atelectasis"), "atelectasi"),
    "Pneumothorax": (("pneumothorax", "pneumothorax"), "neumotorax"),
    "Pleural Effusion": (("pleural effusion", "loculated pleural effusion"), "derram pleural"),
    "Pleural Other": (("pleural thickening", "apical pleural thickening"), "engros pleural"),
    "Fracture": (("rib fracture", "callus rib fracture"), "fractur costal"),
    "Support Devices": (("pacemaker", "central venous catheter"), "dispositiv"),
}
CAUSES_OPACITY = ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")


def write(out: Path, *, studies: int, seed: int, size: int, flat: bool = False, gz: bool = True) -> Manifest:
    """Write the data set.

    Args:
        out: an empty folder.
        studies: how many; a third has a lateral view beside the frontal.
        seed: of the phantoms.
        size: side of the pictures in pixels.
        flat: all pictures in one folder instead of ImageDir's.
        gz: the table gzipped.

    Returns:
        What `read` gives with its default options. PadChest hardly says "suspected", so that an uncertain finding of a
        phantom is not named, and hence absent.
    """
    rows: list[dict[str, Any]] = []
    expected: list[dict[str, Any]] = []
    without: list[str] = []
    for one in phantoms(studies=studies, seed=seed, size=size):
        names, labels, oddly = _labels(one)
        text = _report(one, names)
        study, patient = _number(f"study {seed} {one.study.index}"), _number(f"patient {seed} {one.patient}")
        positions = {"PA": "POSTEROANTERIOR", "AP": "ANTEROPOSTERIOR", "LATERAL": "LATERAL"}
        views = [one.study.view, "LATERAL"] if quirk(one, "lateral", share=1 / 3) else [one.study.view]
        for number, view in enumerate(views):
            stem, folder = f"{study}_{_code(study, number)}", str(one.study.index // 4)
            pixels = lateral(one.pixels) if view == "LATERAL" else one.pixels
            path = out / ("images" if flat else folder) / f"{stem}.png"
            save_picture(pixels.astype(np.uint16) * 257, path)
            lying = view == "AP" and quirk(one, "horizontal", share=0.7)
            rows.append(
                dict.fromkeys(COLUMNS, "None")
                | {
                    "": len(rows),
                    "ImageID": f"{stem}.png",
                    "ImageDir": folder,
                    "StudyDate_DICOM": "20140915",
                    "StudyID": study,
                    "PatientID": patient,
                    "PatientBirth": f"{2014 - one.study.age:.1f}",
                    "PatientSex_DICOM": one.study.sex,
                    "ViewPosition_DICOM": "nan" if lying or quirk(one, "position", share=0.4) else positions[view],
                    "Projection": "L" if view == "LATERAL" else "AP_horizontal" if lying else view,
                    "MethodProjection": "resnet-50.t7"
                    if quirk(one, "network", share=0.1)
                    else "Manual review of DICOM fields",
                    "Pediatric": "No",
                    "Modality_DICOM": "CR",
                    "Manufacturer_DICOM": "Phantom",
                    "PhotometricInterpretation_DICOM": "MONOCHROME2",
                    "PixelRepresentation_DICOM": 0,
                    "BitsStored_DICOM": 12,
                    "WindowCenter_DICOM": 2048,
                    "WindowWidth_DICOM": 4096,
                    "Rows_DICOM": size,
                    "Columns_DICOM": size,
                    "ReportID": 4_000_000 + one.study.index,
                    "Report": text,
                    "MethodLabel": "Physician" if quirk(one, "physician", share=0.25) else "RNN_model",
                    "Labels": oddly,
                    "Localizations": "[]",
                    "LabelsLocalizationsBySentence": str([[name] for name in names]),
                    "labelCUIS": "[]",
                    "LocalizationsCUIS": "[]",
                }
            )
            if text == "nan":
                without.append(stem)
                continue
            expected.append(
                {
                    "image": str(path),
                    "image_id": stem,
                    "study_id": study,
                    "patient_id": patient,
                    "view": view,
                    "split": _split(patient),
                    "report": " ".join(text.split()),
                    "report_source": "column Report (Spanish)",
                    "sex": one.study.sex,
                    "age": one.study.age,
                    **labels,
                }
            )
    save_csv(pd.DataFrame(rows, columns=list(COLUMNS)), out / (TABLE + ".gz" if gz else TABLE))
    return make_manifest(expected, source="padchest", drops=[Remark("no report", tuple(without))])


def _labels(one: Phantom) -> tuple[list[str], dict[str, float], str]:
    """The names that the study is given, the labels that a reader must find, and the text of the column Labels."""
    present = [finding for finding in one.positive() if finding != "No Finding"]
    variant = {finding: int(quirk(one, f"term {finding}", share=0.5)) for finding in present}
    names = [TERMS[finding][0][variant[finding]] for finding in present]
    labels = {finding: float(finding in present) for finding in FINDINGS}
    labels["No Finding"] = 0.0 if set(present) - {"Support Devices"} else 1.0
    if any(labels[finding] for finding in CAUSES_OPACITY):
        labels["Lung Opacity"] = 1.0
    # An enlarged heart may be why the mediastinum is, and an alveolar pattern is almost a consolidation.
    if "cardiomegaly" in names and not labels["Enlarged Cardiomediastinum"]:
        labels["Enlarged Cardiomediastinum"] = np.nan
    if "alveolar pattern" in names and not labels["Consolidation"]:
        labels["Consolidation"] = np.nan
    if quirk(one, "nan", share=0.05):
        return [], dict.fromkeys(FINDINGS, np.nan), "nan"
    if not names:
        names = ["normal"]
    if quirk(one, "unchanged", share=0.1):
        names, labels = [*names, "unchanged"], {f: 1.0 if value == 1 else np.nan for f, value in labels.items()}
        labels["No Finding"] = 0.0 if set(present) - {"Support Devices"} else np.nan
    # Joined lists left blanks before names and empty names.
    padded = [f" {name}" if number and quirk(one, "blank", share=0.3) else name for number, name in enumerate(names)]
    return names, labels, str(["", *padded] if quirk(one, "empty", share=0.1) else padded)


def _report(one: Phantom, names: list[str]) -> str:
    if quirk(one, "no report", share=0.04):
        return "nan"
    said = [stems for finding, (_, stems) in TERMS.items() if one.labels[finding] == 1]
    return " " + "".join(f"{stems} . " for stems in said or ["sin hallazg signific"]).rstrip(" ") + " "


def _number(name: str) -> str:
    """Digits like those of an anonymised id."""
    return str(int(hashlib.sha256(name.encode()).hexdigest()[:32], 16))


def _code(study: str, number: int) -> str:
    return hashlib.sha256(f"{study} {number}".encode()).hexdigest()[:6]


def _split(patient: str) -> str:
    """80/10/10 by the hash of seed 0 and the patient."""
    fraction = int(hashlib.sha256(f"0:{patient}".encode()).hexdigest()[:16], 16) / 2**64
    return "train" if fraction < 0.8 else "validate" if fraction < 0.9 else "test"
