"""MIMIC-CXR-JPG: the phantom's folder is read back as it was written; every quirk, error and ledger entry."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules import layouts
from datamodules.layouts.mimic_cxr import PUBLISHED, read, recognise
from datamodules.manifest import Manifest
from datamodules.phantom import disk
from datamodules.phantom.disk.mimic_cxr import LABELS, manifest_of
from datamodules.reports.labels import FINDINGS
from tests.datamodules.layouts.mimic_case import plans, remark, save, table
from tests.datamodules.roundtrip import assert_same


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    reports=st.sampled_from(["folder", "zip", "sectioned"]),
    gz=st.booleans(),
    labels=st.sampled_from(["chexpert", "negbio"]),
    section=st.sampled_from(["findings", "impression", "both", "first"]),
)
def test_what_the_phantom_writes_is_read_back(
    tmp_path: Path, seed: int, reports: str, gz: bool, labels: str, section: str
) -> None:
    out = tmp_path / f"{seed}-{reports}-{gz}"
    if out.exists():
        shutil.rmtree(out)
    default = disk.write("mimic_cxr", out, studies=8, seed=seed, size=32, reports=reports, gz=gz)
    found = layouts.read("mimic_cxr", out)
    assert_same(found, default)
    assert found.digest() == default.digest()
    assert [r for r in (*found.drops, *found.notes) if r.level == "error"] == []
    rows = pd.read_csv(next(out.glob("mimic-cxr-2.0.0-metadata.csv*")))
    assert len(rows) == len(found) + sum(r.count for r in found.drops)
    options = {"labels": labels, "section": section, "without_report": "keep"}
    assert_same(layouts.read("mimic_cxr", out, **options), manifest_of(plans(8, seed), out, **options))  # type: ignore[arg-type]


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    for reports in ("folder", "zip", "sectioned"):
        trees = []
        for name in ("a", "b"):
            out = tmp_path / f"{reports}-{name}"
            disk.write("mimic_cxr", out, studies=3, seed=5, size=32, reports=reports)
            trees.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()})
        assert trees[0] == trees[1]


def test_the_phantom_shows_every_quirk() -> None:
    written = plans(300, 0)
    views = {view for done in written for _, view in done.images}
    assert views == {"PA", "AP", "LATERAL", "LL", "", "AP AXIAL", "PA LLD", "LAO"}
    assert len({done.study for done in written}) == 300
    assert len({done.patient for done in written}) == 150
    assert {len(done.images) for done in written} == {1, 2}
    assert 1 <= sum(not done.labels for done in written) <= 30
    habits = ("WET READ:", " FINDINGS: \n \n IMPRESSION:", "FINDINGS AND IMPRESSION:", "CHEST, PA AND LATERAL:", "___")
    for text in habits:
        assert any(text in done.report for done in written), text
    assert any(done.sections["last_paragraph"] for done in written)
    assert any(done.labels and done.labels["chexpert"] != done.labels["negbio"] for done in written)


def test_files_are_named_and_laid_out_as_published(mimic: tuple[Path, Manifest]) -> None:
    root, manifest = mimic
    assert list(table(root, "split")) == ["dicom_id", "study_id", "subject_id", "split"]
    assert list(table(root, "metadata"))[:6] == [
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
    ]
    assert list(table(root, "chexpert")) == ["subject_id", "study_id", *sorted(FINDINGS)] == list(table(root, "negbio"))
    assert set(table(root, "chexpert")[list(LABELS)].to_numpy().ravel()) <= {"1.0", "0.0", "-1.0", ""}
    assert manifest.frame["image_id"].str.fullmatch(r"([0-9a-f]{8}-){4}[0-9a-f]{8}").all()
    assert manifest.frame["study_id"].str.fullmatch(r"s5\d{7}").all()
    assert manifest.frame["patient_id"].str.fullmatch(r"p1\d{7}").all()


def test_recognise(mimic: tuple[Path, Manifest], tmp_path: Path) -> None:
    assert recognise(mimic[0])
    assert not recognise(tmp_path)
    assert not recognise(mimic[0] / "mimic-cxr-2.0.0-split.csv")
    assert not recognise(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    [
        *("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-negbio.csv.gz", "mimic-cxr-2.1.0-test-set-labeled.csv"),
        "mimic-cxr-reports.zip",
    ],
)
def test_one_of_the_files_is_enough_to_name_the_missing_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert recognise(tmp_path)
    missing = r"has no mimic-cxr-2\.0\.0-metadata\.csv or mimic-cxr-2\.0\.0-metadata\.csv\.gz; .*fetch"
    with pytest.raises(FileNotFoundError, match=missing):
        read(tmp_path)


def test_the_published_splits_add_up() -> None:
    assert sum(PUBLISHED[name] for name in ("train", "validate", "test")) == PUBLISHED["images"]


def test_tables_alone(mimic: tuple[Path, Manifest]) -> None:
    root, _ = mimic
    found = read(root, images=False, reports="none")
    assert len(found) == len(table(root, "metadata"))
    assert set(found.frame["image"]) == {""}
    assert set(found.frame["report_source"]) == {"none"}
    assert found.drops == ()


def test_every_odd_view_is_mapped_or_counted(mimic_copy: Path) -> None:
    metadata = table(mimic_copy, "metadata")
    odd = ["AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "XTABLE LATERAL"]
    odd += ["LAO", "RAO", "LPO", "SWIMMERS", "", "LL"]
    assert len(metadata) >= len(odd)
    metadata.loc[: len(odd) - 1, "ViewPosition"] = odd
    metadata.loc[len(odd) :, "ViewPosition"] = "PA"
    save(mimic_copy, "metadata", metadata)
    found = read(mimic_copy, reports="none")
    ids = list(metadata["dicom_id"])
    views = found.frame.set_index("image_id")["view"]
    assert [views[i] for i in ids[:12]] == ["AP"] * 3 + ["PA"] * 2 + ["LATERAL"] + ["unknown"] * 5 + ["LATERAL"]
    assert remark(found.notes, "view inferred from an odd ViewPosition").ids == tuple(ids[:6])
    unknown = remark(found.notes, "view unknown, being neither frontal nor lateral")
    assert (unknown.ids, unknown.level) == (tuple(ids[6:10]), "warning")
    assert remark(found.notes, "ViewPosition is empty, so the view is unknown").ids == (ids[10],)


def test_faults_of_the_tables_are_in_the_ledger(mimic_copy: Path) -> None:
    metadata, split, labels = table(mimic_copy, "metadata"), table(mimic_copy, "split"), table(mimic_copy, "chexpert")
    ids = list(metadata["dicom_id"])
    studies = metadata["study_id"]
    lone = [i for i in range(len(ids)) if (studies == studies[i]).sum() == 1]
    inside = labels.index[labels["study_id"].isin(studies[[i for i in range(len(ids)) if i not in lone[:2]]])]
    save(mimic_copy, "metadata", pd.concat([metadata.drop(index=lone[0]), metadata.iloc[[lone[1]]]]))
    split.loc[split["dicom_id"] == ids[lone[1]], "study_id"] = "59999999"
    save(mimic_copy, "split", split[split["dicom_id"] != ids[lone[2]]])
    labels.loc[inside[0], "subject_id"] = "19999999"
    labels.loc[inside[1], ["No Finding", "Fracture"]] = "1.0"
    stranger = labels.iloc[[0]].assign(study_id="59999998")
    save(mimic_copy, "chexpert", pd.concat([labels, labels.iloc[[inside[2]]], stranger]))
    found = read(mimic_copy, reports="none")
    expected = {
        "no row in the metadata table": (ids[lone[0]],),
        "repeated row of the metadata table": (ids[lone[1]],),
        "the metadata and split tables give it to different studies or patients": (ids[lone[1]],),
        "no row in the split table": (ids[lone[2]],),
    }
    assert {r.reason: r.ids for r in found.drops} == expected
    assert {r.level for r in found.drops} == {"error"}
    assert remark(found.notes, "label row names another patient than the metadata does").ids == (
        f"s{labels.loc[inside[0], 'study_id']}",
    )
    assert remark(found.notes, "repeated row of the label table, the first was taken").ids == (
        f"s{labels.loc[inside[2], 'study_id']}",
    )
    assert "s59999998" in remark(found.notes, "label row of a study that is in no other table").ids
    assert set(remark(found.notes, "No Finding beside a finding").ids) == set(
        metadata.loc[studies == labels.loc[inside[1], "study_id"], "dicom_id"]
    )
    rows = found.frame[found.frame["study_id"] == f"s{labels.loc[inside[0], 'study_id']}"]
    assert rows[list(FINDINGS)].isna().all().all()


def test_a_study_of_two_patients_is_dropped(mimic_copy: Path) -> None:
    metadata, split = table(mimic_copy, "metadata"), table(mimic_copy, "split")
    study = metadata["study_id"][metadata["study_id"].duplicated()].iloc[0]
    dicom = metadata.loc[metadata["study_id"] == study, "dicom_id"]
    other = metadata.loc[metadata["subject_id"] != metadata.loc[dicom.index[0], "subject_id"], "subject_id"].iloc[0]
    for name, frame in (("metadata", metadata), ("split", split)):
        frame.loc[frame["dicom_id"] == dicom.iloc[0], "subject_id"] = other
        save(mimic_copy, name, frame)
    assert set(remark(read(mimic_copy, reports="none").drops, "its study is two patients'").ids) == set(dicom)


def test_missing_and_unnamed_pictures(mimic_copy: Path, mimic: tuple[Path, Manifest]) -> None:
    gone = mimic[1].frame.iloc[0]
    picture = mimic_copy / Path(gone["image"]).relative_to(mimic[0])
    picture.rename(picture.with_name("deadbeef-deadbeef-deadbeef-deadbeef-deadbeef.jpg"))
    other = mimic_copy / Path(mimic[1].frame.iloc[1]["image"]).relative_to(mimic[0])
    shutil.copy(other, other.with_suffix(".png"))
    found = read(mimic_copy)
    dropped = remark(found.drops, "no picture of this name under files/")
    assert (dropped.ids, dropped.level) == ((gone["image_id"],), "error")
    assert "PhysioNet" in dropped.mend
    orphan = remark(found.notes, "picture that no table names")
    assert orphan.ids == (
        str(picture.relative_to(mimic_copy / "files").with_name(f"{'-'.join(['deadbeef'] * 5)}.jpg")),
    )
    assert remark(found.notes, "a second picture of the same name").ids == (
        str(other.with_suffix(".png").relative_to(mimic_copy / "files")),
    )
    shutil.rmtree(mimic_copy / "files")
    with pytest.raises(FileNotFoundError, match=r"none of the \d+ pictures .* expected for instance p1\d/p1\d{7}/s5"):
        read(mimic_copy, reports="none")


def test_labels_of_both_labelers(mimic: tuple[Path, Manifest]) -> None:
    root, _ = mimic
    for labeler in ("chexpert", "negbio"):
        found = read(root, labels=labeler, reports="none")  # type: ignore[arg-type]
        plain = pd.read_csv(root / f"mimic-cxr-2.0.0-{labeler}.csv").set_index("study_id")
        for row in range(len(found)):
            study = int(found.frame["study_id"].iloc[row][1:])
            expected = plain.loc[study, list(FINDINGS)] if study in plain.index else np.full(14, np.nan)
            np.testing.assert_array_equal(found.labels()[row], np.asarray(expected, np.float32))


@pytest.mark.parametrize(
    ("name", "row", "column", "value", "message"),
    [
        (
            "metadata",
            1,
            "subject_id",
            "10000032.0",
            r"metadata\.csv: row 3: subject_id is '10000032\.0', expected eight",
        ),
        ("split", 0, "split", "val", r"split\.csv: row 2: split is 'val', expected one of \['train'.*mend the row"),
        ("chexpert", 2, "Edema", "2.0", r"chexpert\.csv: row 4: Edema is '2\.0', expected 1\.0, 0\.0, -1\.0 or empty"),
    ],
)
def test_wrong_values_name_file_row_and_mend(
    mimic_copy: Path, name: str, row: int, column: str, value: str, message: str
) -> None:
    frame = table(mimic_copy, name)
    frame.loc[row, column] = value
    save(mimic_copy, name, frame)
    with pytest.raises(ValueError, match=message):
        read(mimic_copy)


def test_missing_columns_tables_and_options(mimic_copy: Path, tmp_path: Path) -> None:
    metadata = table(mimic_copy, "metadata")
    save(mimic_copy, "metadata", metadata.drop(columns="ViewPosition"))
    with pytest.raises(ValueError, match=r"metadata\.csv: column 'ViewPosition' is missing"):
        read(mimic_copy)
    save(mimic_copy, "metadata", metadata)
    (mimic_copy / "mimic-cxr-2.0.0-chexpert.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no mimic-cxr-2\.0\.0-chexpert\.csv or .*fetch the missing"):
        read(mimic_copy)
    assert_same(read(mimic_copy, labels="negbio"), manifest_of(plans(), mimic_copy, labels="negbio"))
    with pytest.raises(ValueError, match="labels 'chexbert' does not exist"):
        read(mimic_copy, labels="chexbert")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without_report 'skip' does not exist"):
        read(mimic_copy, without_report="skip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="option reports is 'tar'; expected one of 'folder', 'zip'"):
        disk.write("mimic_cxr", tmp_path / "new", studies=1, reports="tar")


def test_a_patient_in_two_splits_is_named(mimic_copy: Path) -> None:
    split = table(mimic_copy, "split")
    patient = split["subject_id"][split["subject_id"].duplicated()].iloc[0]
    first, last = split.index[split["subject_id"] == patient][[0, -1]]
    split.loc[first, "split"], split.loc[last, "split"] = "train", "test"
    save(mimic_copy, "split", split)
    with pytest.raises(ValueError, match=rf"split\.csv: mimic_cxr: patient p{patient} is in several splits"):
        read(mimic_copy, reports="none")
