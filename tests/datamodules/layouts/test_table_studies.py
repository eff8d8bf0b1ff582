"""Studies of a user's table: numbers that restart, studies of two patients, rows without one, no patients."""

import pandas as pd
import pytest

from datamodules import layouts
from datamodules.layouts.table_studies import RESTARTS
from datamodules.manifest import Manifest
from datamodules.selection import select


def read(folder, patients: list[str], studies: list[str], **options) -> Manifest:
    n = len(patients)
    columns = {"image": [f"{i}.png" for i in range(n)], "report": [f"r{i}" for i in range(n)], "view": "PA"}
    pd.DataFrame(columns | {"patient": patients, "study": studies}).to_csv(folder / "t.csv", index=False)
    return layouts.read("table", folder, images=False, **{"study_column": "study"} | options)


@pytest.mark.parametrize(
    "studies",
    [["1", "1", "2", "1", "2"], ["study0", "study0", "study1", "study0", "study1"], ["01", "01", "7", "1", "7"]],
)
def test_numbers_that_restart_take_the_patient_before_them(tmp_path, studies):
    manifest = read(tmp_path, ["p", "p", "p", "q", "q"], studies)
    ids = [f"{patient}/{study}" for patient, study in zip("pppqq", studies, strict=True)]
    assert manifest.frame["study_id"].tolist() == ids
    assert [(n.reason, n.level, n.count) for n in manifest.notes] == [(RESTARTS, "note", 5)]
    served, _ = select(manifest, text_only=True)
    assert served.frame["report"].tolist() == ["r0", "r2", "r3", "r4"]


def test_studies_of_one_patient_keep_their_ids(tmp_path):
    manifest = read(tmp_path, ["p", "p", "q"], ["1", "2", "3"])
    assert manifest.frame["study_id"].tolist() == ["1", "2", "3"]
    assert manifest.notes == ()


@pytest.mark.parametrize("studies", [["s7", "s7", "s8"], ["1", "5", "5"], ["a", "b", "b"], ["1001", "1", "1"]])
def test_a_study_of_two_patients_is_refused(tmp_path, studies):
    patients = ["p", "q", "q"] if studies[0] == studies[1] else ["p", "p", "q"]
    message = r"t.csv: row \d: study '.*' is of 2 patients \['p', 'q'\] \(1 studies are of several\); mend the patient,"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, patients, studies)


def test_a_row_without_a_study_is_one_of_its_own(tmp_path):
    manifest = read(tmp_path, ["p", "q", "q"], ["", "", "s1"])
    assert manifest.frame["study_id"].tolist() == ["0", "1", "s1"]
    assert [(n.reason, n.ids) for n in manifest.notes] == [
        ("no study in the row: the picture is a study of its own", ("0", "1"))
    ]


def test_without_patients_each_study_is_one_and_in_one_split(tmp_path):
    studies = [f"s{i // 2}" for i in range(80)] + [""]
    manifest = read(tmp_path, ["p"] * 81, studies, patient_column=None)
    assert manifest.frame["patient_id"].tolist() == [*studies[:80], "80"]
    assert manifest.frame["split"].nunique() == 3
    assert (manifest.frame.groupby("study_id")["split"].nunique() == 1).all()
