"""The layout chexpert_plus: what the phantom writes is what is read, each fault is in the ledger or named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import layouts
from datamodules.layouts import chexpert, chexpert_plus
from datamodules.phantom import disk
from datamodules.phantom.disk.chexpert_plus import COLUMNS
from datamodules.reports.labels import FINDINGS
from tests.datamodules.roundtrip import assert_same

NO_TEST = "no test set: the published valid set is the split test, and validate is carved out of train"
TABLE = "df_chexpert_plus_240401.csv"


def row(path: str, **fields: object) -> dict[str, object]:
    side = "Lateral" if "lateral" in path else "Frontal"
    found = {"path_to_image": path, "frontal_lateral": side, "ap_pa": "AP" if side == "Frontal" else ""}
    found |= {"deid_patient_id": path.split("/")[1], "report": "R.", "age": 62.0, "sex": "Female"}
    found |= {"section_findings": "Clear lungs.", "section_impression": "Normal.", "split": path.split("/")[0]}
    return found | fields


ROWS = [
    row("train/patient00001/study1/view1_frontal.jpg"),
    row("train/patient00001/study1/view2_lateral.jpg"),
    row("train/patient00002/study1/view1_frontal.jpg", section_findings="", ap_pa="PA", sex="Male"),
    row("valid/patient64541/study1/view1_frontal.jpg", section_impression="1. Effusion.\n\n2. XXXX  edema.\\n"),
]


def write(root: Path, rows=ROWS, *, suffix: str = ".png", labels: dict[str, dict] | None = None) -> Path:
    """A small copy; `labels` is file → path → labels."""
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(root / TABLE, index=False)
    for entry in rows:
        picture(root / "PNG/PNG" / entry["path_to_image"].replace(".jpg", suffix))
    for name, records in (labels or {}).items():
        lines = [{"path_to_image": path} | dict.fromkeys(FINDINGS) | found for path, found in records.items()]
        (root / "chexbert_labels").mkdir(exist_ok=True)
        (root / "chexbert_labels" / name).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".dcm":
        path.write_bytes(b"read by another part")
    else:
        Image.new("L", (8, 8), 100).save(path)


def ledger(manifest) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {r.reason: (r.level, r.ids) for r in manifest.drops + manifest.notes}


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    studies=st.integers(1, 10),
    pictures=st.sampled_from(["png", "jpg"]),
    labels=st.booleans(),
)
def test_what_the_phantom_writes_is_read(tmp_path_factory, seed, studies, pictures, labels):
    out = tmp_path_factory.mktemp("plus")
    written = disk.write("chexpert_plus", out, studies=studies, seed=seed, size=32, pictures=pictures, labels=labels)
    found = layouts.read("chexpert_plus", out)
    assert_same(found, written)
    assert not [r for r in found.drops + found.notes if r.level == "error"]
    assert {r.reason for r in found.drops} <= {"no section 'findings'"}


def test_written_quirks(tmp_path):
    written = disk.write("chexpert_plus", tmp_path, studies=80, size=32)
    table = pd.read_csv(tmp_path / TABLE, dtype=str, keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert len(COLUMNS) == 27
    assert (
        table["path_to_image"]
        .str.fullmatch(r"(train|valid)/patient\d{5}/study[12]/view\d_(frontal|lateral)\.jpg")
        .all()
    )
    assert table["report"].str.contains("\n\nIMPRESSION:\n\n", regex=False).any()
    assert set(table["ap_pa"]) == {"AP", "PA", ""}
    empty = table["section_findings"] == ""
    assert 0.3 < empty.mean() < 0.7
    assert not (empty & (table["section_impression"] == "")).any()
    assert len(written) == (~empty).sum()
    found = layouts.read("chexpert_plus", tmp_path)
    assert_same(found, written)
    kept = layouts.read("chexpert_plus", tmp_path, without_report="keep")
    assert len(kept) == len(table)
    assert kept.drops == ()
    assert (kept.frame.loc[empty.to_numpy(), "report_source"] == "none").all()
    first = layouts.read("chexpert_plus", tmp_path, section="first").frame
    assert len(first) == len(table)
    np.testing.assert_array_equal(first["report_source"], np.where(empty, "impression", "findings"))
    lines = (tmp_path / "chexbert_labels" / "findings_fixed.json").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert list(records[0]) == ["path_to_image", *(f for f in FINDINGS if f != "No Finding"), "No Finding"]
    assert [r["path_to_image"] for r in records] == table["path_to_image"].tolist()
    assert {v for r in records for v in list(r.values())[1:]} == {None, 0.0, 1.0, -1.0}
    # Of an empty section CheXbert says "No Finding": that is cleared.
    silent = records[int(np.flatnonzero(empty)[0])]
    assert (silent["No Finding"], silent["Edema"]) == (1.0, None)
    by_findings = layouts.read("chexpert_plus", tmp_path, section="first", labels="findings")
    assert by_findings.frame.loc[empty.to_numpy(), list(FINDINGS)].isna().all(axis=None)
    assert ledger(by_findings)["labels of an empty section_findings: cleared"][0] == "note"
    whole = layouts.read("chexpert_plus", tmp_path, section="first", labels="report").frame
    assert whole[list(FINDINGS)].notna().any(axis=1).all()


def test_reports_labels_and_views(tmp_path):
    labels = {
        "impression_fixed.json": {
            ROWS[0]["path_to_image"]: {"Edema": -1.0, "Pneumonia": 0.0},
            ROWS[1]["path_to_image"]: {"Edema": -1.0, "Pneumonia": 0.0},
            ROWS[2]["path_to_image"]: {"No Finding": 1},
            ROWS[3]["path_to_image"]: {"Fracture": 1.0},
        }
    }
    root = write(tmp_path, labels=labels)
    manifest = layouts.read("chexpert_plus", root, section="impression", validate=0.0)
    frame = manifest.frame
    assert frame["report"].tolist() == ["Normal.", "Normal.", "Normal.", "1. Effusion. 2. ___ edema."]
    assert frame["view"].tolist() == ["AP", "LATERAL", "PA", "AP"]
    assert frame["split"].tolist() == ["train", "train", "train", "test"]
    assert frame["study_id"].tolist() == ["patient00001_study1"] * 2 + ["patient00002_study1", "patient64541_study1"]
    assert frame["sex"].tolist() == ["F", "F", "M", "F"]
    assert frame["age"].tolist() == [62.0] * 4
    assert [frame.loc[i, list(FINDINGS)].dropna().to_dict() for i in range(4)] == [
        {"Edema": -1, "Pneumonia": 0},
        {"Edema": -1, "Pneumonia": 0},
        {"No Finding": 1},
        {"Fracture": 1},
    ]
    assert ledger(manifest) == {NO_TEST: ("note", (TABLE,))}
    findings = layouts.read("chexpert_plus", root, labels="none")
    assert findings.frame["report"].tolist() == ["Clear lungs."] * 3
    assert findings.labels().shape == (3, 14)
    assert np.isnan(findings.labels()).all()
    assert ledger(findings) == {
        NO_TEST: ("note", (TABLE,)),
        "no section 'findings'": ("warning", ("patient00002_study1_view1_frontal",)),
    }
    assert findings.drops[0].mend.startswith("read with layout_options.section=first")
    both = layouts.read("chexpert_plus", root, section="both", splits="hashed").frame
    assert both["report_source"].tolist() == ["findings+impression"] * 2 + ["impression", "findings+impression"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".dcm", ".DCM"])
def test_pictures_of_any_format(tmp_path, suffix):
    frame = layouts.read("chexpert_plus", write(tmp_path, suffix=suffix), section="first").frame
    assert [Path(image).name for image in frame["image"]] == [
        Path(entry["path_to_image"]).stem + suffix for entry in ROWS
    ]


def test_odd_rows_and_files_are_in_the_ledger(tmp_path):
    rows = [
        *ROWS,
        ROWS[0],
        row("train/patient00003/study1/view1_frontal.jpg", deid_patient_id="patient00033", sex="Unknown"),
        row("train/patient00004/study1/view1_frontal.jpg", ap_pa="RL", age=0.0, section_impression=""),
        row("train/patient00004/study1/view2_frontal.jpg", report="Other.", ap_pa=""),
        row("train/patient00005/study1/view1_frontal.jpg"),
    ]
    known = {entry["path_to_image"]: {"Edema": 1.0} for entry in rows[:-1]}
    known[rows[5]["path_to_image"]] = {"Edema": 1.0, "No Finding": 1.0}
    known["train/patient00099/study1/view1_frontal.jpg"] = {"Edema": 1.0}
    root = write(tmp_path, rows, labels={"impression_fixed.json": known})
    labels = root / "chexbert_labels" / "impression_fixed.json"
    labels.write_text(labels.read_text() + "\n" + labels.read_text().splitlines()[0])
    (root / "PNG/PNG/train/patient00002/study1/view1_frontal.png").unlink()
    picture(root / "DICOM/train/patient00001/study1/view1_frontal.dcm")
    picture(root / "PNG/PNG/train/patient00088/study1/view1_frontal.png")
    manifest = layouts.read("chexpert_plus", root, section="impression")
    fourth = "patient00004_study1_view"
    assert ledger(manifest) == {
        "row given twice": ("error", ("patient00001_study1_view1_frontal",)),
        "no picture of this name": ("error", ("patient00002_study1_view1_frontal",)),
        "no section 'impression'": ("warning", (f"{fourth}1_frontal",)),
        "Frontal/Lateral, AP/PA and the name of the file contradict each other: view unknown": (
            "warning",
            (f"{fourth}1_frontal",),
        ),
        "frontal, but whether AP or PA is not given: view unknown": ("warning", (f"{fourth}2_frontal",)),
        "sex unknown": ("note", ("patient00003_study1_view1_frontal",)),
        "age 0 in a set of adults: cleared": ("note", (f"{fourth}1_frontal",)),
        "deid_patient_id is not the patient of the path": ("error", ("patient00003_study1_view1_frontal",)),
        NO_TEST: ("note", (TABLE,)),
        "labels given twice: the first are kept": ("error", ("train/patient00001/study1/view1_frontal.jpg",)),
        "labels of a picture that no row of the table names": (
            "warning",
            ("train/patient00099/study1/view1_frontal.jpg",),
        ),
        "picture without a record of labels": ("warning", ("patient00005_study1_view1_frontal",)),
        "labels of an empty section_impression: cleared": ("note", (f"{fourth}1_frontal",)),
        "no label": ("warning", (f"{fourth}1_frontal", "patient00005_study1_view1_frontal")),
        "No Finding beside a finding": ("error", ("patient00003_study1_view1_frontal",)),
        "views of one study with different labels": ("error", (f"{fourth}1_frontal", f"{fourth}2_frontal")),
        "views of one study with different reports": ("warning", (f"{fourth}1_frontal", f"{fourth}2_frontal")),
        "picture that no row of the table names": (
            "warning",
            ("PNG/PNG/train/patient00088/study1/view1_frontal.png",),
        ),
        "second copy of a picture: of .png, .dcm, .dicom, .jpg, .jpeg the first is read": (
            "note",
            ("DICOM/train/patient00001/study1/view1_frontal.dcm",),
        ),
    }
    frame = manifest.frame.set_index("image_id")
    assert frame.at["patient00003_study1_view1_frontal", "patient_id"] == "patient00033"
    assert frame.at["patient00001_study1_view1_frontal", "image"].endswith("view1_frontal.png")
    tables = layouts.read("chexpert_plus", root, section="impression", images=False)
    assert len(tables) == len(manifest) + 1
    assert set(tables.frame["image"]) == {""}


def test_without_label_files(tmp_path):
    manifest = layouts.read("chexpert_plus", write(tmp_path), labels="findings")
    assert ledger(manifest)["no file of CheXbert labels: labels unknown"] == ("warning", ("findings_fixed.json",))
    assert np.isnan(manifest.labels()).all()
    with pytest.raises(ValueError, match=r"option labels is 'chexbert'; expected one of 'impression', "):
        layouts.read("chexpert_plus", tmp_path, labels="chexbert")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (row("train/patient9/scan.jpg"), r"240401.csv: row 6: path 'train/patient9/scan.jpg' does not end in"),
        (
            row("train/patient9/study1/view1_frontal.jpg", split="dev"),
            r"row 6: split = 'dev' is not known .*mend the row",
        ),
        (row("train/patient9/study1/view1_frontal.jpg", sex="F"), r"240401.csv: row 6: Sex = 'F' is not known"),
        (
            row("valid/patient00001/study9/view1_frontal.jpg"),
            r"240401.csv: patient patient00001 is in several splits \['train', 'valid'\]",
        ),
    ],
)
def test_the_wrong_row_is_named(tmp_path, entry, message):
    with pytest.raises(ValueError, match=message):
        layouts.read("chexpert_plus", write(tmp_path, [*ROWS, entry]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"impression_fixed.json: line 3 is no record of path_to_image and the 14 labels"),
        ('{"path_to_image": "x"}', r"impression_fixed.json: line 3 is no record .*Finding.*fetch the file again"),
        (
            json.dumps({"path_to_image": "x.jpg"} | dict.fromkeys(FINDINGS) | {"Edema": 3}),
            r"impression_fixed.json: x.jpg: Edema = 3.* is no label; expected 1, 0, -1 or null",
        ),
    ],
)
def test_unreadable_labels_are_named(tmp_path, line, message):
    root = write(tmp_path, labels={"impression_fixed.json": {ROWS[0]["path_to_image"]: {}}})
    labels = root / "chexbert_labels" / "impression_fixed.json"
    labels.write_text(labels.read_text() + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        layouts.read("chexpert_plus", root)


def test_missing_files_columns_and_sections(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has no df_chexpert_plus_240401.csv or df_chexpert_plus_240401.csv.gz"
    ):
        layouts.read("chexpert_plus", tmp_path)
    root = write(tmp_path / "a", [entry | {"section_findings": ""} for entry in ROWS])
    with pytest.raises(ValueError, match=r"240401.csv: no row has the section 'findings'; set layout_options.section"):
        layouts.read("chexpert_plus", root)
    for image in sorted((root / "PNG").rglob("*.png")):
        image.unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the 4 pictures of df_chexpert.* is under .*PNG/PNG/train"):
        layouts.read("chexpert_plus", root, section="first")
    pd.DataFrame(ROWS).drop(columns="split").to_csv(root / TABLE, index=False)
    with pytest.raises(ValueError, match=r"240401.csv: column 'split' is missing; it has"):
        layouts.read("chexpert_plus", root)


def test_recognise(tmp_path):
    root = write(tmp_path / "plus")
    assert chexpert_plus.recognise(root)
    assert not chexpert.recognise(root)
    assert not chexpert_plus.recognise(root / "PNG")
    assert not chexpert_plus.recognise(root / TABLE)


def test_remote_root(tmp_path):
    pytest.importorskip("upath")
    labels = {"impression_fixed.json": {entry["path_to_image"]: {"Edema": 1.0} for entry in ROWS}}
    root = write(tmp_path / "plus", labels=labels)
    remote = layouts.read("chexpert_plus", f"file://{root}", section="first").frame
    local = layouts.read("chexpert_plus", root, section="first").frame
    assert remote.drop(columns="image").equals(local.drop(columns="image"))
    assert remote["image"].iloc[0].endswith("plus/PNG/PNG/train/patient00001/study1/view1_frontal.png")
