"""Phantoms in the layout of CheXpert-Plus: one CSV with reports in sections, CheXbert labels, PNG.

Half of the reports have no findings and a few no impression. The label files hold what the phantom is known to show:
null for most of what is absent, and "No Finding" alone for a section that is empty, as CheXbert gives.
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, make_manifest
from datamodules.phantom.disk.carve import is_carved
from datamodules.phantom.disk.chexpert import CARVED, FOLDERS, names, views
from datamodules.phantom.disk.common import Phantom, phantoms, quirk, save_csv, save_picture
from datamodules.reports.labels import FINDINGS

COLUMNS = (
    "path_to_image",
    "path_to_dcm",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "patient_report_date_order",
    "report",
    "section_narrative",
    "section_clinical_history",
    "section_history",
    "section_comparison",
    "section_technique",
    "section_procedure_comments",
    "section_findings",
    "section_impression",
    "section_end_of_impression",
    "section_summary",
    "section_accession_number",
    "age",
    "sex",
    "race",
    "ethnicity",
    "interpreter_needed",
    "insurance_type",
    "recent_bmi",
    "deceased",
    "split",
)
# In the label files "No Finding" comes last.
LABEL_ORDER = (*(finding for finding in FINDINGS if finding != "No Finding"), "No Finding")


def write(
    out: Path, *, studies: int, seed: int, size: int, pictures: Literal["png", "jpg"] = "png", labels: bool = True
) -> Manifest:
    """Write the table, chexbert_labels/ and the pictures into `out`.

    Args:
        out: an empty folder.
        studies: how many.
        seed: of the phantoms.
        size: side of the pictures.
        pictures: "png" are those of PNG.zip, in PNG/PNG/; "jpg" are CheXpert's own, in CheXpert-v1.0/.
        labels: whether the label files are there.

    Returns:
        The manifest that the reader must give with its default options: the rows with findings.
    """
    rows: list[dict] = []
    lines: list[dict] = []
    records: dict[str, list[dict]] = {"findings": [], "impression": [], "report": []}
    for one in phantoms(studies=studies, seed=seed, size=size):
        split = "train" if one.split == "train" else "validate"
        place = FOLDERS[split]
        patient, study = names(one, split=split)
        sections = _sections(one)
        stated = _labels(one)
        silent = {finding: 1.0 if finding == "No Finding" else np.nan for finding in FINDINGS}
        for view, pixels in views(one):
            stem = f"{place}/{patient}/{study}/{view}"
            base = "PNG/PNG" if pictures == "png" else "CheXpert-v1.0"
            save_picture(pixels, out / base / f"{stem}.{pictures}")
            frontal = view.endswith("frontal")
            lines.append(
                {
                    "path_to_image": f"{stem}.jpg",
                    "path_to_dcm": f"{stem}.dcm",
                    "frontal_lateral": "Frontal" if frontal else "Lateral",
                    "ap_pa": one.study.view if frontal else "",
                    "deid_patient_id": patient,
                    "patient_report_date_order": one.study.index % 2 + 1,
                    **sections,
                    "age": float(one.study.age),
                    "sex": {"F": "Female", "M": "Male"}[one.study.sex],
                    "race": "Unknown",
                    "ethnicity": "Unknown",
                    "deceased": "No",
                    "split": place,
                }
            )
            for name, found in records.items():
                text = sections["report" if name == "report" else f"section_{name}"]
                values = stated if text else silent
                found.append({"path_to_image": f"{stem}.jpg"} | {label: values[label] for label in LABEL_ORDER})
            known = labels and sections["section_impression"] != ""
            rows.append(
                {
                    "image": str(out / base / f"{stem}.{pictures}"),
                    "image_id": f"{patient}_{study}_{view}",
                    "study_id": f"{patient}_{study}",
                    "patient_id": patient,
                    "view": one.study.view if frontal else "LATERAL",
                    "split": "test"
                    if split != "train"
                    else "validate"
                    if is_carved(patient, share=CARVED)
                    else "train",
                    "report": sections["section_findings"],
                    "report_source": "findings",
                    "sex": one.study.sex,
                    "age": one.study.age,
                    **{finding: stated[finding] if known else np.nan for finding in FINDINGS},
                }
            )
    save_csv(pd.DataFrame(lines, columns=list(COLUMNS)), out / "df_chexpert_plus_240401.csv")
    if labels:
        for name, found in records.items():
            _save_lines(found, out / "chexbert_labels" / f"{name}_fixed.json")
    return make_manifest([row for row in rows if row["report"]], source="chexpert_plus")


def _sections(one: Phantom) -> dict[str, str]:
    """The report and its section columns; half of the reports are without findings, but never the first."""
    parts = dict(line.split(": ", 1) for line in one.report.split("\n"))
    if one.study.index and quirk(one, "no findings", share=0.5):
        del parts["FINDINGS"]
    elif quirk(one, "no impression", share=0.1):
        del parts["IMPRESSION"]
    narrative = f"XR CHEST 1 VIEW: {one.study.index % 12 + 1}/{one.study.index % 28 + 1}/2005"
    headers = {"INDICATION": "CLINICAL HISTORY", "FINDINGS": "FINDINGS", "IMPRESSION": "IMPRESSION"}
    headers["COMPARISON"] = "COMPARISON"
    body = "\n\n".join(f"{headers[name]}:\n\n{text}" for name, text in parts.items())
    return {
        "report": f"NARRATIVE:\n{narrative}\n\n{body}\n\nACCESSION NUMBER:\n{one.study.index:07d}\n",
        "section_narrative": narrative,
        "section_clinical_history": parts.get("INDICATION", ""),
        "section_comparison": parts.get("COMPARISON", ""),
        "section_findings": parts.get("FINDINGS", ""),
        "section_impression": parts.get("IMPRESSION", ""),
        "section_accession_number": f"{one.study.index:07d}",
    }


def _labels(one: Phantom) -> dict[str, float]:
    labels = {}
    for finding, value in one.labels.items():
        denied = finding != "No Finding" and quirk(one, f"denied {finding}", share=0.4)
        labels[finding] = value if value != 0 or denied else np.nan
    return labels


def _save_lines(records: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()}) for r in records
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
