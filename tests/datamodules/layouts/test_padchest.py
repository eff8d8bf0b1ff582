"""The layout padchest: what the phantom writes is what is read, each fault is named, the published table is read."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.images import read_image
from datamodules.layouts import padchest, padchest_labels
from datamodules.manifest import Manifest
from datamodules.phantom.disk import write
from datamodules.reports.labels import FINDINGS
from tests.datamodules.roundtrip import assert_same

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def remark(manifest: Manifest, reason: str, *, among: str = "notes"):
    found = [r for r in getattr(manifest, among) if r.reason == reason]
    assert len(found) == 1, [r.reason for r in getattr(manifest, among)]
    return found[0]


@pytest.fixture
def table() -> pd.DataFrame:
    """Four rows as published: two patients, three studies, one with a lateral view."""
    columns = dict.fromkeys(padchest.COLUMNS, "None")
    base = columns | {
        "StudyDate_DICOM": "20140915",
        "PatientBirth": "1930.0",
        "PatientSex_DICOM": "F",
        "ViewPosition_DICOM": "nan",
        "MethodProjection": "Manual review of DICOM fields",
        "Report": " sin hallazg .",
        "MethodLabel": "Physician",
        "Labels": "['normal']",
    }
    rows = [
        base | {"ImageID": "a.png", "ImageDir": "0", "StudyID": "1", "PatientID": "10", "Projection": "PA"},
        base | {"ImageID": "b.png", "ImageDir": "0", "StudyID": "1", "PatientID": "10", "Projection": "L"},
        base | {"ImageID": "c.png", "ImageDir": "1", "StudyID": "2", "PatientID": "10", "Projection": "AP_horizontal"},
        base | {"ImageID": "d.png", "ImageDir": "1", "StudyID": "3", "PatientID": "30", "Projection": "COSTAL"},
    ]
    return pd.DataFrame(rows)


def read(table: pd.DataFrame, folder: Path, **options) -> Manifest:
    table.to_csv(folder / TABLE, index=False)
    return padchest.read(folder, **{"images": False} | options)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**20), flat=st.booleans(), gz=st.booleans())
def test_the_reader_finds_what_the_writer_wrote(tmp_path_factory, seed, flat, gz):
    folder = tmp_path_factory.mktemp("padchest")
    written = write("padchest", folder, studies=8, seed=seed, size=32, flat=flat, gz=gz)
    found = padchest.read(folder)
    assert_same(found, written)
    assert {r.reason: sorted(r.ids) for r in found.drops} == {r.reason: sorted(r.ids) for r in written.drops}
    assert padchest.recognise(folder)
    assert not [r for r in found.notes if r.level == "error"]


def test_equal_runs_give_equal_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        write("padchest", tmp_path / name, studies=4, seed=1, size=32)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def test_the_pictures_are_16_bit_and_read_as_the_phantom(tmp_path):
    from PIL import Image

    from datamodules.phantom.disk.common import phantoms

    written = write("padchest", tmp_path, studies=1, seed=3, size=32)
    frontal = written.frame[written.frame["view"] != "LATERAL"].iloc[0]
    with Image.open(frontal["image"]) as picture:
        assert picture.mode.startswith("I;16")
    pixels = next(iter(phantoms(studies=1, seed=3, size=32))).pixels.astype(np.float32)
    stretched = np.round((pixels - pixels.min()) * (255 / (pixels.max() - pixels.min())))
    np.testing.assert_allclose(read_image(frontal["image"], size=32), stretched, atol=1)


def test_views_ages_sexes_reports_and_the_unnamed_index_column(table, tmp_path):
    table["PatientSex_DICOM"] = ["F", "F", "F", "O"]
    table["PatientBirth"] = ["1930.0", "1930.0", "1930.0", ""]
    table.insert(0, "", range(4))
    manifest = read(table, tmp_path)
    assert manifest.frame["view"].tolist() == ["PA", "LATERAL", "AP", "unknown"]
    assert manifest.frame["age"].tolist()[:3] == [84, 84, 84]
    assert np.isnan(manifest.frame["age"].iloc[3])
    assert manifest.frame["sex"].tolist() == ["F", "F", "F", ""]
    assert manifest.frame["report"].tolist() == ["sin hallazg ."] * 4
    assert set(manifest.frame["report_source"]) == {"column Report (Spanish)"}
    assert manifest.frame["study_id"].tolist() == ["1", "1", "2", "3"]
    assert manifest.frame["image_id"].tolist() == ["a", "b", "c", "d"]
    unknown = remark(manifest, "Projection is COSTAL, UNK or EXCLUDE; the view is unknown")
    assert (unknown.ids, unknown.level) == (("d",), "warning")
    assert remark(manifest, "no year of birth, or an impossible age; the age is unknown").ids == ("d",)
    assert remark(manifest, "PatientSex_DICOM is neither M nor F; the sex is unknown").ids == ("d",)


def test_impossible_ages_are_cleared(table, tmp_path):
    table["PatientBirth"] = ["2015.0", "1903.0", "1904.0", "2014.0"]
    manifest = read(table, tmp_path)
    np.testing.assert_array_equal(manifest.frame["age"], [np.nan, np.nan, 110, 0])
    assert remark(manifest, "no year of birth, or an impossible age; the age is unknown").ids == ("a", "b")
    assert remark(manifest, "the patient's rows differ in PatientBirth").ids == ("a", "b", "c")


def test_a_report_of_full_stops_or_nan_is_none(table, tmp_path):
    table["Report"] = [" . . . .", "nan", "", " neumoni ."]
    manifest = read(table, tmp_path)
    assert manifest.frame["image_id"].tolist() == ["d"]
    dropped = remark(manifest, "no report", among="drops")
    assert (dropped.ids, dropped.mend) == (("a", "b", "c"), "set without_report: keep")
    kept = read(table, tmp_path, without_report="keep")
    assert kept.frame["report"].tolist() == ["", "", "", "neumoni ."]
    assert kept.frame["report_source"].tolist() == ["none"] * 3 + ["column Report (Spanish)"]
    assert remark(kept, "no report").ids == ("a", "b", "c")
    without = read(table, tmp_path, report=False)
    assert without.frame["report"].tolist() == [""] * 4
    assert set(without.frame["report_source"]) == {"none"}


def test_only_physicians_labels_on_request(table, tmp_path):
    table["MethodLabel"] = ["Physician", "RNN_model", "RNN_model", "Physician"]
    manifest = read(table, tmp_path, labelled_by="physician")
    assert manifest.frame["image_id"].tolist() == ["a", "d"]
    assert remark(manifest, "labelled by a network, left out by labelled_by", among="drops").ids == ("b", "c")


def test_views_of_a_network_and_contradicting_positions_are_noted(table, tmp_path):
    table["MethodProjection"] = ["resnet-50.t7", *["Manual review of DICOM fields"] * 3]
    table["ViewPosition_DICOM"] = ["POSTEROANTERIOR", "LL", "PA", "OBLICUA"]
    manifest = read(table, tmp_path)
    assert remark(manifest, "the view was inferred by a network (MethodProjection)").ids == ("a",)
    assert remark(manifest, "Projection and ViewPosition_DICOM differ; Projection is taken").ids == ("c",)
    assert manifest.frame["view"].iloc[2] == "AP"


def test_patients_who_share_a_study_are_one_and_in_one_split(table, tmp_path):
    table["StudyID"] = ["1", "1", "3", "3"]
    manifest = read(table, tmp_path)
    assert manifest.frame["patient_id"].tolist() == ["10"] * 4
    assert manifest.frame["split"].nunique() == 1
    shared = remark(manifest, "one study under two patients; they are taken as one patient")
    assert (shared.count, shared.level, shared.mend) == (4, "error", "mend the column PatientID")


def test_blank_ids_and_doubled_rows_leave_with_an_error(table, tmp_path):
    table.loc[1, "PatientID"] = "nan"
    table.loc[2, "ImageID"] = ""
    table.loc[3, "ImageID"] = "a.png"
    manifest = read(table, tmp_path)
    assert manifest.frame["image_id"].tolist() == ["a"]
    blank = remark(manifest, "no ImageID, StudyID or PatientID", among="drops")
    assert (blank.ids, blank.level) == (("b", "row 4"), "error")
    assert remark(manifest, "row given twice; the first is kept", among="drops").ids == ("a",)


def test_missing_strange_and_doubled_pictures(table, tmp_path):
    from datamodules.phantom.disk.common import save_picture

    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("0/a.png", "9/a.png", "small/b.jpg", "1/c.png", "1/stranger.png"):
        save_picture(grey, tmp_path / name)
    manifest = read(table, tmp_path, images=True)
    assert [Path(image).relative_to(tmp_path).as_posix() for image in manifest.frame["image"]] == [
        "0/a.png",
        "small/b.jpg",
        "1/c.png",
    ]
    missing = remark(manifest, "no picture of this name", among="drops")
    assert (missing.ids, missing.level) == (("d",), "error")
    assert "unpack the archive of its ImageDir" in missing.mend
    assert remark(manifest, "a picture that no row names").ids == ("1/stranger.png",)
    assert remark(manifest, "several pictures of this name; the first is taken").ids == ("a",)


def test_what_is_odd_in_the_labels_is_in_the_ledger(table, tmp_path):
    table["Labels"] = ["['normal', 'nodule']", "['', ' pneumonia', 'pneumonia']", "['']", "['unchanged'"]
    manifest = read(table, tmp_path)
    ids = {r.reason: r.ids for r in manifest.notes}
    assert ids[padchest_labels.CONTRADICTION] == ("a",)
    assert ids[padchest_labels.EMPTY] == ids[padchest_labels.TRIMMED] == ids[padchest_labels.TWICE] == ("b",)
    assert ids[padchest_labels.MISSING] == ("c",)
    assert ids[padchest_labels.MALFORMED] == ("d",)
    assert remark(manifest, padchest_labels.MALFORMED).level == "error"
    np.testing.assert_array_equal(manifest.frame["Pneumonia"], [0, 1, np.nan, np.nan])
    assert manifest.frame["No Finding"].iloc[0] == 0


@pytest.mark.parametrize("text", ["nan", "", "[]", "['']"])
def test_no_labels_are_unknown_labels(table, tmp_path, text):
    table["Labels"] = text
    manifest = read(table, tmp_path)
    assert manifest.frame[list(FINDINGS)].isna().all(axis=None)
    assert remark(manifest, padchest_labels.MISSING).count == 4


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Labels", "['normal', 'dragon']", r"row 3: label 'dragon' is not one of PadChest's 194; mend the row"),
        ("Projection", "UPSIDE", r"row 3: view 'UPSIDE' is not known .*mend the row"),
        ("MethodLabel", "guess", r"row 3: MethodLabel is 'guess', expected 'Physician' or 'RNN_model'"),
    ],
)
def test_unknown_values_name_file_row_and_mend(table, tmp_path, column, value, message):
    table.loc[1, column] = value
    with pytest.raises(ValueError, match=rf"{TABLE}: {message}"):
        read(table, tmp_path)


def test_a_missing_column_table_or_picture_folder_is_named(table, tmp_path):
    with pytest.raises(ValueError, match=r"column 'Labels' is missing.*take the file as it is published"):
        read(table.drop(columns="Labels"), tmp_path)
    (tmp_path / TABLE).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{TABLE}.*fetch the missing file"):
        padchest.read(tmp_path)
    assert not padchest.recognise(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none of the 4 rows .* \(4 no picture of this name\).*0/a.png"):
        read(table, tmp_path, images=True)
    with pytest.raises(FileNotFoundError, match="no root given"):
        padchest.read(None)


def test_options_out_of_their_choices_are_refused(tmp_path):
    with pytest.raises(ValueError, match="without_report = 'hide'"):
        padchest.read(tmp_path, without_report="hide")
    with pytest.raises(ValueError, match="labelled_by = 'me'"):
        padchest.read(tmp_path, labelled_by="me")


def test_a_remote_root_is_read(table):
    import fsspec

    files = fsspec.filesystem("memory")
    with files.open("/padchest/" + TABLE, "w") as file:
        table.to_csv(file, index=False)
    for name in ("0/a.png", "0/b.png", "1/c.png", "1/d.png"):
        files.pipe(f"/padchest/{name}", b"")
    manifest = padchest.read("memory://padchest")
    assert manifest.frame["image"].tolist() == [f"memory://padchest/{n}.png" for n in ("0/a", "0/b", "1/c", "1/d")]


@pytest.mark.slow
def test_the_published_table(tmp_path):
    xrv = pytest.importorskip("torchxrayvision")
    source = Path(xrv.__file__).parent / "data" / f"{TABLE}.gz"
    if not source.is_file():
        pytest.skip(f"{source} is not in this version of torchxrayvision")
    (tmp_path / source.name).symlink_to(source)
    plain = pd.read_csv(source, dtype=str, keep_default_na=False)
    start = time.monotonic()
    manifest = padchest.read(tmp_path, images=False, without_report="keep")
    assert time.monotonic() - start < 120
    frame = manifest.frame
    assert len(frame) == len(plain) == 160_861
    assert not manifest.drops

    views = plain["Projection"].value_counts()
    assert frame["view"].value_counts().to_dict() == {
        "PA": views["PA"],
        "LATERAL": views["L"],
        "AP": views["AP"] + views["AP_horizontal"],
        "unknown": views["COSTAL"] + views["UNK"] + views["EXCLUDE"],
    }
    # A name stands between quotes, with blanks around it or not.
    for finding, names in padchest_labels.NAMED.items():
        pattern = "|".join(names)
        named = plain["Labels"].str.contains(rf"'\s*(?:{pattern})\s*'", regex=True)
        if finding == "Lung Opacity":
            lesions = [n for child in padchest_labels.OPACITIES for n in padchest_labels.NAMED[child]]
            named |= plain["Labels"].str.contains(rf"'\s*(?:{'|'.join(lesions)})\s*'", regex=True)
        assert (frame[finding] == 1).sum() == named.sum(), finding
    assert (frame["No Finding"] == 1).sum() == 52_916
    # Of 67,625 patient numbers two share a study.
    assert plain["PatientID"].nunique() == 67_625
    assert frame["patient_id"].nunique() == padchest.PUBLISHED["patients"] == 67_624
    assert frame["study_id"].nunique() == padchest.PUBLISHED["studies"] == 109_931
    assert (frame["report"] == "").sum() == 157

    counts = {r.reason: r.count for r in manifest.notes}
    assert counts[padchest_labels.MISSING] == (plain["Labels"].isin(["nan", "['']"])).sum() == 880
    assert counts[padchest_labels.CONTRADICTION] == 215
    assert counts[padchest_labels.TRIMMED] == plain["Labels"].str.contains(r"' \w", regex=True).sum()
    assert counts["no report"] == 157
    guessed = (plain["MethodProjection"] == "resnet-50.t7") & ~plain["Projection"].isin(["UNK", "COSTAL", "EXCLUDE"])
    assert counts["the view was inferred by a network (MethodProjection)"] == guessed.sum() == 15_118
    twins = ["190238119178602931979702683461232485433", "37640341168990914138975530706294957799"]
    shared = counts["one study under two patients; they are taken as one patient"]
    assert shared == plain["PatientID"].isin(twins).sum()
    assert counts["Projection and ViewPosition_DICOM differ; Projection is taken"] == 1
    assert counts["PatientSex_DICOM is neither M nor F; the sex is unknown"] == 22
    assert counts["no year of birth, or an impossible age; the age is unknown"] == 6

    physicians = padchest.read(tmp_path, images=False, without_report="keep", labelled_by="physician")
    assert len(physicians) == (plain["MethodLabel"] == "Physician").sum() == 39_053
