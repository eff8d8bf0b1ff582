"""A table of one's own: the phantom's is read back; every column, option, fault and remark; the real one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import layouts
from datamodules.layouts import table as layout
from datamodules.layouts.table_pictures import find_pictures
from datamodules.phantom import disk
from datamodules.phantom.report import report
from datamodules.phantom.study import study
from datamodules.reports.labels import FINDINGS
from tests.datamodules.roundtrip import assert_same


def table(**columns) -> pd.DataFrame:
    base = {"image": ["i/a.png", "i/b.png", "i/c.png"], "report": ["x", "", "z"], "patient": ["p", "p", "q"]}
    return pd.DataFrame(base | columns)


def pictures(folder: Path, *names: str) -> None:
    for name in names or ("i/a.png", "i/b.png", "i/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(folder / name)


def ledger(remarks) -> dict[str, tuple]:
    return {r.reason: (r.level, r.ids) for r in remarks}


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 9999),
    studies=st.integers(1, 10),
    variant=st.sampled_from([{}, {"parquet": True}, {"gz": True}]),
)
def test_what_the_phantom_wrote_is_read(seed, studies, variant, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    written = disk.write("table", folder, studies=studies, seed=seed, size=32, **variant)
    assert layout.recognise(folder)
    found = layouts.read("table", folder)
    assert_same(found, written)
    assert (found.drops, found.notes) == ((), ())
    sections = layouts.read("table", folder, section="findings").frame
    assert sections["report_source"].eq("findings").all()


def test_the_written_table_is_as_documented(tmp_path):
    for name in ("a", "b"):
        disk.write("table", tmp_path / name, studies=5, seed=2, size=32)
    a, b = (sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("a", "b"))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
    assert [p.name for p in a] == ["contact_sheet.png", *(f"phantom-2-{i:06d}.png" for i in range(5)), "studies.csv"]
    frame = pd.read_csv(tmp_path / "a" / "studies.csv")
    assert list(frame.columns) == ["image", "patient", "view", "split", "sex", "age", "report", *FINDINGS]
    assert frame["report"][3] == report(study(2, 3))
    assert frame["patient"].tolist() == [study(2, i).patient_id for i in range(5)]
    assert Image.open(tmp_path / "a" / "contact_sheet.png").size == (96, 64)
    with pytest.raises(ValueError, match="parquet and gz exclude each other"):
        disk.write("table", tmp_path / "c", studies=1, parquet=True, gz=True)


def test_reads_all_columns(tmp_path):
    pictures(tmp_path)
    frame = table(
        view=["PA Erect", "ll", ""], split=["train", "Train", "val"], Edema=["1", "-1.0", ""], age=["40", "", "x"]
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    manifest = layouts.read("table", tmp_path)
    rows = manifest.frame
    assert rows["image"].tolist() == [str(tmp_path / "i" / f"{n}.png") for n in "abc"]
    assert rows["image_id"].tolist() == ["i_a", "i_b", "i_c"]
    assert rows["view"].tolist() == ["PA", "LATERAL", "unknown"]
    assert rows["split"].tolist() == ["train", "train", "validate"]
    assert rows["report_source"].tolist() == ["column report", "none", "column report"]
    np.testing.assert_array_equal(rows["Edema"], np.float32([1, -1, np.nan]))
    np.testing.assert_array_equal(rows["age"], np.float32([40, np.nan, np.nan]))
    assert manifest.drops == ()
    assert ledger(manifest.notes) == {
        "age is no number from 0 to 110: cleared": ("note", ("i_c",)),
        "no text in the row": ("warning", ("i_b",)),
        "view unknown": ("warning", ("i_c",)),
    }
    frame.to_parquet(tmp_path / "t.parquet")
    assert layouts.read("table", tmp_path / "t.parquet").digest() == layouts.read("table", tmp_path / "t.csv").digest()
    with pytest.raises(FileNotFoundError, match=r"holds 2 tables \['t.csv', 't.parquet'\].*layout_options.file"):
        layouts.read("table", tmp_path)
    assert len(layouts.read("table", tmp_path, file="t.parquet")) == 3
    with pytest.raises(FileNotFoundError, match=r"u.csv does not exist; set layout_options.file"):
        layouts.read("table", tmp_path, file="u.csv")
    # A URL is read as the folder is.
    there = layouts.read("table", f"file://{tmp_path}", file="t.csv")
    assert there.frame["image"].str.removeprefix("file://").tolist() == rows["image"].tolist()
    assert (there.drops, there.notes) == (manifest.drops, manifest.notes)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["1.2.840.1", "1.2.840.2", "dicom/1.2.840.3"], ["1.2.840.1", "1.2.840.2", "dicom_1.2.840.3"]),
        (["a/x.png", "a/x.jpg", "a/y.PNG"], ["a_x.png", "a_x.jpg", "a_y"]),
        (["a/b.png", "a_b.png", "c.Dicom"], ["a/b.png", "a_b.png", "c"]),
        (["v1.2.jpeg", "scan.nii", "e.tiff", "f.dcm.png", ".png"], ["v1.2", "scan.nii", "e", "f.dcm", ".png"]),
        (["x.png", "x.jpg", "x.png.png"], ["x.png", "x.jpg", "x.png.png"]),
    ],
)
def test_image_ids_are_names_without_the_suffix_unless_two_would_be_alike(tmp_path, names, ids):
    rows = pd.DataFrame({"image": names, "report": "x", "patient": "p"})
    rows.to_csv(tmp_path / "t.csv", index=False)
    assert layouts.read("table", tmp_path, images=False).frame["image_id"].tolist() == ids


NAMES = st.builds(str.__add__, st.text(alphabet="a./_", min_size=1, max_size=3), st.sampled_from(["", ".png", ".JPG"]))


@given(st.lists(NAMES, min_size=1, unique=True))
def test_different_names_have_different_ids(names):
    assert layout.image_ids(pd.Series(names)).is_unique


def test_a_section_drops_the_rows_without_it(tmp_path):
    pictures(tmp_path)
    texts = ["FINDINGS: Clear.\nIMPRESSION: Normal.", "", "IMPRESSION: Normal."]
    table(report=texts, view="PA").to_csv(tmp_path / "t.csv", index=False)
    manifest = layouts.read("table", tmp_path, section="findings")
    assert manifest.frame["report"].tolist() == ["Clear."]
    assert ledger(manifest.drops) == {"no section 'findings'": ("warning", ("i_b", "i_c"))}
    kept = layouts.read("table", tmp_path, section="findings", without_report="keep")
    assert kept.frame["report"].tolist() == ["Clear.", "", ""]
    assert kept.frame["report_source"].tolist() == ["findings", "none", "none"]
    assert ledger(kept.notes) == {"no section 'findings'": ("warning", ("i_b", "i_c"))}
    whole = layouts.read("table", tmp_path, without_report="drop")
    assert whole.frame["image_id"].tolist() == ["i_a", "i_c"]
    assert ledger(whole.drops) == {"no text in the row": ("warning", ("i_b",))}
    table(report="").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"none of the 3 rows is left: 3 × no section 'first'"):
        layouts.read("table", tmp_path, section="first")
    with pytest.raises(ValueError, match=r"option without_report is 'no'; expected one of 'drop', 'keep' or null"):
        layouts.read("table", tmp_path, without_report="no")


def test_missing_pictures_are_errors_and_others_are_noted(tmp_path):
    pictures(tmp_path, "i/a.png", "i/d.png", "other.png")
    table(report="x", view="PA").to_csv(tmp_path / "t.csv", index=False)
    manifest = layouts.read("table", tmp_path)
    assert manifest.frame["image_id"].tolist() == ["i_a"]
    assert ledger(manifest.drops) == {"no file where the row names its picture": ("error", ("i_b", "i_c"))}
    assert ledger(manifest.notes) == {"a picture that no row names": ("warning", ("i/d.png",))}
    alone = layouts.read("table", tmp_path, images=False)
    assert alone.frame["image_id"].tolist() == ["i_a", "i_b", "i_c"]
    assert (alone.frame["image"] == "").all()
    (tmp_path / "i" / "a.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"none of the 3 pictures exists; row 2 names .*i/a.png; put them there"
    ):
        layouts.read("table", tmp_path)


def test_repeated_rows_are_errors(tmp_path):
    pictures(tmp_path)
    frame = table(report="x", view="PA")
    pd.concat([frame, frame.iloc[[1]]]).to_csv(tmp_path / "t.csv", index=False)
    manifest = layouts.read("table", tmp_path)
    assert manifest.frame["image_id"].tolist() == ["i_a", "i_b", "i_c"]
    assert ledger(manifest.drops) == {"the row repeats another in every column": ("error", ("i_b",))}


def test_empty_columns_odd_ages_and_contradictory_labels_are_noted(tmp_path):
    pictures(tmp_path)
    labels = {"No Finding": ["1", "1", ""], "Edema": ["1", "0", "1"], "Support Devices": ["", "1", ""], "Fracture": ""}
    frame = table(report="x", view="", split="", age=["414", "-1", "50"], sex="", **labels)
    frame.to_csv(tmp_path / "t.csv", index=False)
    manifest = layouts.read("table", tmp_path)
    assert ledger(manifest.notes) == {
        "age is no number from 0 to 110: cleared": ("note", ("i_a", "i_b")),
        "the column has no value": ("warning", ("Fracture", "sex", "split", "view")),
        "view unknown": ("warning", ("i_a", "i_b", "i_c")),
        "No Finding beside a positive finding": ("warning", ("i_a",)),
    }
    np.testing.assert_array_equal(manifest.frame["age"], np.float32([np.nan, np.nan, 50]))
    without = layouts.read("table", tmp_path, split_column=None).frame["split"]
    assert manifest.frame["split"].tolist() == without.tolist()


def test_a_table_of_texts(tmp_path):
    table(report=["x", "y", "z"]).drop(columns=["image"]).to_csv(tmp_path / "t.csv", index=False)
    frame = layouts.read("table", tmp_path, image_column=None, patient_column=None).frame
    assert frame["image_id"].tolist() == frame["patient_id"].tolist() == ["t-2", "t-3", "t-4"]
    assert (frame["image"] == "").all()


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
        (
            {},
            {"image_column": "file", "text_column": "note", "patient_column": "id"},
            r"t.csv: columns 'file', 'note', 'id' are missing; it has \[.*\]; set layout_options.image_column "
            r"\(null if there is none\), set layout_options.text_column .*, set layout_options.patient_column \(null",
        ),
        ({}, {"label_columns": {"Hernia": "image"}}, "label_columns: 'Hernia' is not a finding"),
        ({"view": ["PA", "PA", "oblique"]}, {}, r"t.csv: row 4: view 'oblique' is not known \(1 rows"),
        ({"split": ["train", "test", "test"]}, {}, r"t.csv: table: patient p is in several splits"),
        ({"split": ["train", "train", "holdout"]}, {}, r"t.csv: row 4: split 'holdout' is not known"),
        ({"split": ["train", "", "test"]}, {}, r"t.csv: row 3: split '' is not known"),
        ({"Edema": ["1", "yes", "0"]}, {}, r"t.csv: row 3: label Edema = 'yes'"),
        ({"patient": ["p", "", "q"]}, {}, r"t.csv: row 3: no patient in column 'patient' \(1 rows\); name one, or set"),
        ({"image": ["i/a.png", "", "i/b.png"]}, {}, r"t.csv: row 3: no image path in column 'image' \(1 rows\); name"),
        ({"image": ["i/a.png", "i/a.png", "i/b.png"]}, {}, r"t.csv: table: image i_a: image_id = 'i_a' is given twice"),
    ],
)
def test_bad_input(tmp_path, columns, options, message):
    pictures(tmp_path)
    table(**columns).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=message):
        layouts.read("table", tmp_path, **options)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "t.csv").write_text("image,report,patient\n")
    with pytest.raises(ValueError, match=r"t.csv: the table has no rows"):
        layouts.read("table", tmp_path)
    (tmp_path / "t.csv").write_text("image,report,patient\na.png,x\n")
    with pytest.raises(ValueError, match=r"t.csv: row 2 has fewer fields than the header"):
        layouts.read("table", tmp_path)
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"t.parquet: cannot be read as Parquet"):
        layouts.read("table", tmp_path / "t.parquet")


def test_what_is_recognised(tmp_path):
    assert not layout.recognise(tmp_path)
    for name in ("a.csv", "._a.csv", "b.txt"):
        (tmp_path / name).write_text("x")
    assert layout.recognise(tmp_path)
    assert layout.recognise(tmp_path / "a.csv")
    assert not layout.recognise(tmp_path / "b.txt")
    (tmp_path / "c.csv.gz").write_text("x")
    assert not layout.recognise(tmp_path)
    assert not layout.recognise(tmp_path / "nowhere")


def test_paths_of_every_kind_are_found(tmp_path, monkeypatch):
    pictures(tmp_path, "t/i/a.png", "t/i/deep/b.png", "t/c.png", "out/d.png", "t/i/spare.png")
    paths = [
        "i/a.png",
        "i/deep/b.png",
        "c.png",
        "../out/d.png",
        str(tmp_path / "out/d.png"),
        f"file://{tmp_path}/t/c.png",
    ]
    gone = [
        "i/e.png",
        "j/a.png",
        "d.png",
        "../out/e.png",
        str(tmp_path / "nowhere/d.png"),
        f"file://{tmp_path}/t/e.png",
    ]
    names = pd.Series([*paths, *gone])
    images, present, orphans = find_pictures(names, folder=tmp_path / "t")
    assert present.tolist() == [True] * 6 + [False] * 6
    assert images[0] == str(tmp_path / "t" / "i" / "a.png")
    assert images[4] == paths[4]
    assert all(Path(image.removeprefix("file://")).is_file() for image in images[:6])
    assert orphans == ["i/spare.png"]
    monkeypatch.chdir(tmp_path / "t")
    # As Path gives it: no "./" before a path that starts where the program does.
    images, present, _ = find_pictures(names[:4], folder=Path())
    assert images.tolist() == paths[:4]
    assert present.all()


def test_a_large_table_costs_one_walk(tmp_path, monkeypatch):
    pictures(tmp_path, *(f"i/p{n % 7}/{n}.png" for n in range(50)))
    looks = []
    original = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: looks.append(self) or original(self))
    frame = pd.DataFrame({"image": [f"i/p{n % 7}/{n}.png" for n in range(50)], "report": "x", "patient": range(50)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert len(layouts.read("table", tmp_path / "t.csv")) == 50
    assert len(looks) < 5


@pytest.mark.real
def test_real_table(real_data):
    manifest = layouts.read("table", real_data / "covid_text", image_column="file", text_column="note")
    assert len(manifest) == 207
    assert manifest.frame["patient_id"].nunique() == 123
    assert manifest.frame["view"].value_counts().to_dict() == {"PA": 135, "AP": 72}
    assert all(Path(image).is_file() for image in manifest.frame["image"])
    assert manifest.drops == ()
    assert ledger(manifest.notes) == {}
