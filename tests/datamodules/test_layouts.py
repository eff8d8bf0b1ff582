"""The layouts nih, openi and table on hand-made folders, their error messages, and the real sets where they are."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules import layouts
from datamodules.layouts.source import hash_fractions, hashed_split
from datamodules.layouts.views import normalise_views
from datamodules.reports.labels import FINDINGS


def write_nih(folder: Path, entries: list[tuple], *, test: tuple[str, ...] = ()) -> Path:
    (folder / "images").mkdir(parents=True)
    names = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
    pd.DataFrame(entries, columns=names).to_csv(folder / "Data_Entry_2017.csv", index=False)
    lists = {"test_list.txt": [], "train_val_list.txt": []}
    for image, *_ in entries:
        # The copy is JPEG, though the CSV says PNG.
        Image.new("L", (8, 8), 100).save(folder / "images" / f"{image[:-4]}.jpg")
        lists["test_list.txt" if image in test else "train_val_list.txt"].append(image)
    for name, images in lists.items():
        (folder / name).write_text("\n".join(images) + "\n")
    return folder


NIH = [
    ("1_0.png", "Infiltration|Hernia", "1", "058Y", "M", "PA"),
    ("2_0.png", "Emphysema", "2", "006M", "F", "AP"),
    ("3_0.png", "No Finding", "3", "414", "F", "PA"),
    ("4_0.png", "Pneumonia|Pleural_Thickening", "4", "30", "M", "PA"),
]


def test_nih_labels_views_ages(tmp_path):
    manifest = layouts.read("nih", write_nih(tmp_path / "nih", NIH, test=("4_0.png",)), validate=0.0)
    frame = manifest.frame.set_index("image_id")
    positive = {i: [f for f in FINDINGS if frame.at[i, f] == 1] for i in frame.index}
    assert positive == {
        "1_0": ["Lung Opacity"],
        "2_0": [],
        "3_0": ["No Finding"],
        "4_0": ["Lung Opacity", "Pneumonia", "Pleural Other"],
    }
    assert frame[["Enlarged Cardiomediastinum", "Fracture", "Support Devices"]].isna().all(axis=None)
    assert (frame.drop(columns=["Enlarged Cardiomediastinum", "Fracture", "Support Devices"])[["Edema"]] == 0).all(
        axis=None
    )
    assert frame["view"].tolist() == ["PA", "AP", "PA", "PA"]
    assert frame["split"].tolist() == ["train", "train", "train", "test"]
    np.testing.assert_allclose(frame["age"], [58, 0.5, np.nan, 30])
    assert Path(frame.at["1_0", "image"]).name == "1_0.jpg"


def test_nih_boxes_are_fractions_of_1024(tmp_path):
    folder = write_nih(tmp_path / "nih", NIH)
    (folder / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n1_0.png,Infiltrate,256,512,128,256\n"
    )
    manifest = layouts.read("nih", folder)
    row = manifest.frame.index[manifest.frame["image_id"] == "1_0"][0]
    box = manifest.boxes(row)[0]
    assert (box.finding, box.x0, box.y0, box.x1, box.y1) == ("Lung Opacity", 0.25, 0.5, 0.375, 0.75)
    assert sum(len(manifest.boxes(i)) for i in range(4)) == 1
    (folder / "BBox_List_2017.csv").write_text("a,b,c,d,e,f\n1_0.png,Mass,900,512,300,256\n")
    with pytest.raises(ValueError, match=r"BBox_List_2017.csv: row 2: box x 900..1200"):
        layouts.read("nih", folder)


def test_nih_boxed_patients_can_go_to_test(tmp_path):
    folder = write_nih(tmp_path / "nih", [*NIH, ("1_1.png", "No Finding", "1", "58", "M", "PA")], test=("4_0.png",))
    boxes = "Image Index,Finding Label,x,y,w,h\n1_0.png,Infiltrate,256,512,128,256\n"
    (folder / "BBox_List_2017.csv").write_text(boxes)
    listed = layouts.read("nih", folder, validate=0.0).frame
    moved = layouts.read("nih", folder, validate=0.0, boxed_patients="test").frame
    assert dict(zip(listed["image_id"], listed["split"], strict=True))["1_0"] == "train"
    # Both images of patient 1 move, the others stay where they were.
    assert moved.loc[moved["split"] == "test", "image_id"].tolist() == ["1_0", "4_0", "1_1"]


def test_nih_counts_what_it_drops(tmp_path):
    folder = write_nih(tmp_path / "nih", NIH)
    (folder / "images" / "1_0.jpg").unlink()
    (folder / "train_val_list.txt").write_text("1_0.png\n2_0.png\n3_0.png\n")
    manifest = layouts.read("nih", folder)
    assert {d.reason: d.ids for d in manifest.drops} == {
        "in neither train_val_list.txt nor test_list.txt": ("4_0",),
        "no image file of this name under images*/": ("1_0",),
    }
    assert sorted(manifest.frame["image_id"]) == ["2_0", "3_0"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("5_0.png", "Scoliosis", "5", "40", "M", "PA"), r"Data_Entry_2017.csv: row 6: finding 'Scoliosis'"),
        (("5_0.png", "Edema", "5", "40", "M", "oblique"), r"Data_Entry_2017.csv: row 6: view 'oblique' is not known"),
        (("5_0.png", "Edema", "4", "40", "M", "PA"), r"Data_Entry_2017.csv: nih: patient 4 is in several splits"),
    ],
)
def test_nih_names_the_wrong_row(tmp_path, entry, message):
    folder = write_nih(tmp_path / "nih", [*NIH, entry], test=("5_0.png",))
    with pytest.raises(ValueError, match=message):
        layouts.read("nih", folder)


def test_nih_missing_files_and_columns(tmp_path):
    folder = write_nih(tmp_path / "nih", NIH)
    (folder / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_list.txt is missing; expected Data_Entry"):
        layouts.read("nih", folder)
    (folder / "Data_Entry_2017.csv").write_text("Image Index,Finding Labels\n")
    with pytest.raises(
        ValueError, match=r"Data_Entry_2017.csv: column 'Patient ID' is missing; it has \['Image Index'"
    ):
        layouts.read("nih", folder)
    with pytest.raises(FileNotFoundError, match=r"has neither Data_Entry_2017_v2020.csv nor Data_Entry_2017.csv"):
        layouts.read("nih", tmp_path)


@pytest.mark.parametrize("layout", ["nih", "openi", "table"])
def test_missing_root_says_what_and_how(layout, tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere does not exist; it should hold .*--data.init_args.root.*CXR_ROOT"
    ):
        layouts.read(layout, tmp_path / "nowhere")
    monkeypatch.delenv("CXR_ROOT", raising=False)
    with pytest.raises(FileNotFoundError, match=f"layout {layout}: no root given"):
        layouts.read(layout, None)
    monkeypatch.setenv("CXR_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere does not exist"):
        layouts.read(layout, None)


def test_unknown_layout_and_option(tmp_path):
    with pytest.raises(ValueError, match=r"layout 'mimic' does not exist; expected one of \['nih'"):
        layouts.read("mimic", tmp_path)
    with pytest.raises(ValueError, match="layout nih has no option 'studies'"):
        layouts.read("nih", tmp_path, studies=3)


def xml(study: str, sections: dict[str, str], tags: list[str], images: list[str]) -> bytes:
    texts = "".join(f'<AbstractText Label="{k}">{v}</AbstractText>' for k, v in sections.items())
    majors = "".join(f"<major>{tag}</major>" for tag in tags)
    parents = "".join(f'<parentImage id="{image}"/>' for image in images)
    return (
        f'<eCitation><uId id="{study}"/><Abstract>{texts}</Abstract><MeSH>{majors}</MeSH>{parents}</eCitation>'.encode()
    )


OPENI = {
    "1": xml("CXR1", {"FINDINGS": "Clear  lungs.", "IMPRESSION": "Normal."}, ["normal"], ["CXR1_a", "CXR1_b"]),
    "2": xml("CXR2", {"IMPRESSION": "Effusion."}, ["Pleural Effusion/left", "Density/lung/base"], []),
    "3": xml("CXR3", {"FINDINGS": "Calcified granuloma."}, ["Calcified Granuloma/lung"], ["CXR3_a"]),
    "4": xml("CXR4", {"FINDINGS": "", "IMPRESSION": ""}, ["No Indexing"], []),
    "5": xml("CXR5", {"FINDINGS": "Nodule."}, ["No Indexing"], []),
    "6": xml("CXR6", {"FINDINGS": "Mass."}, ["Nodule/lung/upper lobe/right", "Costophrenic Angle/blunted"], []),
}


def write_openi(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "NLMCXR_reports.tgz", "w:gz") as tar:
        for name, data in OPENI.items():
            member = tarfile.TarInfo(f"ecgen-radiology/{name}.xml")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder


def test_openi_sections_drops_and_labels(tmp_path):
    folder = write_openi(tmp_path / "openi")
    manifest = layouts.read("openi", folder)
    frame = manifest.frame.set_index("image_id")
    assert frame["report"].to_dict() == {
        "CXR1": "Clear lungs.",
        "CXR3": "Calcified granuloma.",
        "CXR5": "Nodule.",
        "CXR6": "Mass.",
    }
    assert (frame["image"] == "").all()
    assert [(d.reason, d.ids) for d in manifest.drops] == [("no section 'findings'", ("CXR2", "CXR4"))]
    assert frame.loc["CXR1", list(FINDINGS)].tolist() == [1] + [0] * 13
    assert frame.loc["CXR5", list(FINDINGS)].isna().all()
    granuloma = frame.loc["CXR3", list(FINDINGS)].astype(float)
    assert np.isnan(granuloma["No Finding"])
    assert (granuloma.drop("No Finding") == 0).all()
    nodule = frame.loc["CXR6", list(FINDINGS)].astype(float)
    assert (nodule["Lung Lesion"], nodule["Lung Opacity"], nodule["No Finding"]) == (1, 1, 0)
    assert np.isnan(nodule["Pleural Effusion"])
    # The archive itself is a root too, and gives the same rows.
    assert layouts.read("openi", folder / "NLMCXR_reports.tgz").digest() == manifest.digest()


def test_openi_first_falls_back_and_finds_images(tmp_path):
    folder = write_openi(tmp_path / "openi")
    (folder / "images").mkdir()
    Image.new("L", (8, 8)).save(folder / "images" / "CXR1_b.png")
    frame = layouts.read("openi", folder, section="first").frame.set_index("image_id")
    assert (frame.at["CXR2", "report"], frame.at["CXR2", "report_source"]) == ("Effusion.", "impression")
    assert frame.at["CXR2", "Pleural Effusion"] == 1
    assert np.isnan(frame.at["CXR2", "Lung Opacity"])
    assert Path(frame.at["CXR1_b", "image"]).name == "CXR1_b.png"
    assert "CXR1" not in frame.index
    assert "CXR1_a" not in frame.index
    both = layouts.read("openi", folder, section="both").frame.set_index("study_id")["report"]
    assert (both["CXR1"], both["CXR2"]) == ("Clear lungs. Normal.", "Effusion.")


def test_openi_broken_archive_is_named(tmp_path):
    path = tmp_path / "NLMCXR_reports.tgz"
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"NLMCXR_reports.tgz is not a readable tar archive"):
        layouts.read("openi", path)
    (tmp_path / "ecgen-radiology").mkdir()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no reports"):
        layouts.read("openi", tmp_path)
    (tmp_path / "ecgen-radiology" / "9.xml").write_text("<eCitation>")
    with pytest.raises(ValueError, match=r"9.xml is not readable XML"):
        layouts.read("openi", tmp_path)


def table(**columns) -> pd.DataFrame:
    base = {"image": ["i/a.png", "i/b.png", "i/c.png"], "report": ["x", "", "z"], "patient": ["p", "p", "q"]}
    return pd.DataFrame(base | columns)


def test_table_reads_all_columns(tmp_path):
    frame = table(
        view=["PA Erect", "ll", ""], split=["train", "Train", "val"], Edema=["1", "-1.0", ""], age=["40", "", "x"]
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    rows = layouts.read("table", tmp_path).frame
    assert rows["image"].tolist() == [str(tmp_path / "i" / f"{n}.png") for n in "abc"]
    assert rows["image_id"].tolist() == ["i_a", "i_b", "i_c"]
    assert rows["view"].tolist() == ["PA", "LATERAL", "unknown"]
    assert rows["split"].tolist() == ["train", "train", "validate"]
    assert rows["report_source"].tolist() == ["column report", "none", "column report"]
    np.testing.assert_array_equal(rows["Edema"], np.float32([1, -1, np.nan]))
    np.testing.assert_array_equal(rows["age"], np.float32([40, np.nan, np.nan]))
    frame.to_parquet(tmp_path / "t.parquet")
    assert layouts.read("table", tmp_path / "t.parquet").digest() == layouts.read("table", tmp_path / "t.csv").digest()
    with pytest.raises(FileNotFoundError, match=r"holds 2 tables \['t.csv', 't.parquet'\].*layout_options.file"):
        layouts.read("table", tmp_path)


def test_table_section_drops_rows_without_it(tmp_path):
    texts = ["FINDINGS: Clear.\nIMPRESSION: Normal.", "", "IMPRESSION: Normal."]
    table(report=texts).to_csv(tmp_path / "t.csv", index=False)
    manifest = layouts.read("table", tmp_path, section="findings")
    assert manifest.frame["report"].tolist() == ["Clear."]
    assert [(d.reason, d.ids) for d in manifest.drops] == [("no section 'findings'", ("i_b", "i_c"))]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {},
            {"image_column": "file"},
            r"t.csv: column 'file' is missing; it has \['image', .*layout_options.image_column",
        ),
        ({}, {"text_column": "note"}, r"t.csv: column 'note' is missing.*layout_options.text_column"),
        ({}, {"patient_column": "id"}, r"column 'id' is missing.*patient_column \(null if each row is a patient"),
        ({}, {"label_columns": {"Edema": "e"}}, r"column 'e' is missing.*layout_options.label_columns.Edema"),
        ({}, {"label_columns": {"Hernia": "image"}}, "label_columns: 'Hernia' is not a finding"),
        ({"view": ["PA", "PA", "oblique"]}, {}, r"t.csv: row 4: view 'oblique' is not known \(1 rows"),
        ({"split": ["train", "test", "test"]}, {}, r"t.csv: table: patient p is in several splits"),
        ({"split": ["train", "train", "holdout"]}, {}, r"t.csv: row 4: split 'holdout' is not known"),
        ({"Edema": ["1", "yes", "0"]}, {}, r"t.csv: row 3: label Edema = 'yes'"),
        ({"patient": ["p", "", "q"]}, {}, r"t.csv: row 3: no patient in column 'patient'"),
        ({"image": ["a.png", "a.png", "b.png"]}, {}, r"t.csv: table: image a: image_id = 'a' is given twice"),
    ],
)
def test_table_bad_input(tmp_path, columns, options, message):
    table(**columns).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=message):
        layouts.read("table", tmp_path, **options)


def test_views():
    names = pd.Series(["pa", "AP_Supine", "LL", " L ", None, "antero-posterior"])
    views = normalise_views(names, file=Path("f.csv"), option="o")
    assert views.tolist() == ["PA", "AP", "LATERAL", "LATERAL", "unknown", "AP"]


def test_hashed_split_is_by_patient_and_stable():
    patients = [f"p{i}" for i in range(4000)]
    split = hashed_split(patients, seed=1)
    share = {name: float(np.mean(split == name)) for name in ("train", "validate", "test")}
    assert share == pytest.approx({"train": 0.8, "validate": 0.1, "test": 0.1}, abs=0.02)
    # A patient stays where it is, however many rows there are and in whatever order.
    assert hashed_split(patients[::-1] * 2, seed=1).tolist() == split[::-1].tolist() * 2
    assert not np.array_equal(hash_fractions(patients, seed=1), hash_fractions(patients, seed=2))


@pytest.mark.real
def test_real_nih(real_data):
    manifest = layouts.read("nih", real_data / "nih_sample")
    assert len(manifest) == 1447
    assert manifest.drops == ()
    assert (manifest.frame["split"] == "test").sum() == 168
    moved = layouts.read("nih", real_data / "nih_sample", boxed_patients="test").frame
    assert moved.loc[moved["boxes"] != "", "split"].eq("test").all()
    labels = dict(zip(FINDINGS, np.nansum(manifest.labels(), axis=0), strict=True))
    assert (labels["No Finding"], labels["Pneumonia"], labels["Pleural Effusion"]) == (523, 476, 160)
    assert sum(len(manifest.boxes(i)) for i in range(len(manifest))) == 56


@pytest.mark.real
def test_real_openi(real_data):
    findings = layouts.read("openi", real_data / "openi" / "NLMCXR_reports.tgz")
    # 3,955 reports: 3,425 have findings, 502 only an impression, 28 neither.
    assert (len(findings), findings.drops[0].count) == (3425, 530)
    first = layouts.read("openi", real_data / "openi", section="first")
    assert (len(first), first.drops[0].count) == (3927, 28)
    assert (first.frame["No Finding"] == 1).sum() > 1300


@pytest.mark.real
def test_real_table(real_data):
    manifest = layouts.read("table", real_data / "covid_text", image_column="file", text_column="note")
    assert len(manifest) == 207
    assert manifest.frame["patient_id"].nunique() == 123
    assert manifest.frame["view"].value_counts().to_dict() == {"PA": 135, "AP": 72}
    assert all(Path(image).is_file() for image in manifest.frame["image"])
