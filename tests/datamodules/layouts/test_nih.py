"""The layout nih: what the phantom writes is what is read, each fault is named, the published tables are read."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import layouts
from datamodules.layouts import nih
from datamodules.phantom import disk
from datamodules.reports.labels import FINDINGS
from tests.datamodules.roundtrip import assert_same

UNLABELLED = ["Enlarged Cardiomediastinum", "Fracture", "Support Devices"]
COLUMNS = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
ROWS = [
    ("1_0.png", "Infiltration|Hernia", "1", "058Y", "M", "PA"),
    ("2_0.png", "Emphysema", "2", "006M", "F", "AP"),
    ("3_0.png", "No Finding", "3", "414", "F", "PA"),
    ("4_0.png", "Pneumonia|Pleural_Thickening", "4", "30", "M", "PA"),
]
BOX = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), 100).save(path)


def write(folder: Path, entries: list[tuple] = ROWS, *, test: tuple[str, ...] = ()) -> Path:
    """A small copy: the pictures are JPEG, though the table says PNG."""
    folder.mkdir(parents=True)
    pd.DataFrame(entries, columns=COLUMNS).to_csv(folder / "Data_Entry_2017.csv", index=False)
    lists: dict[str, list[str]] = {"test_list.txt": [], "train_val_list.txt": []}
    for image in dict.fromkeys(entry[0] for entry in entries):
        picture(folder / "images" / f"{image[:-4]}.jpg")
        lists["test_list.txt" if image in test else "train_val_list.txt"].append(image)
    for name, images in lists.items():
        (folder / name).write_text("\n".join(images) + "\n")
    return folder


def ledger(manifest, level: str | None = None) -> dict[str, tuple[str, ...]]:
    return {r.reason: r.ids for r in manifest.drops + manifest.notes if level in (None, r.level)}


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6), studies=st.integers(1, 10), twelve=st.booleans(), jpeg=st.booleans(), new=st.booleans()
)
def test_what_the_phantom_writes_is_read(tmp_path_factory, seed, studies, twelve, jpeg, new):
    out = tmp_path_factory.mktemp("nih")
    options = {"folders": 12 if twelve else 1, "jpeg": jpeg, "v2020": new}
    written = disk.write("nih", out, studies=studies, seed=seed, size=32, **options)
    found = layouts.read("nih", out)
    assert_same(found, written)
    assert found.drops == ()
    assert not ledger(found, "warning")
    assert not ledger(found, "error")


def test_written_quirks(tmp_path):
    first = disk.write("nih", tmp_path / "first", studies=120, size=32, jpeg=True, v2020=False)
    lines = (tmp_path / "first" / "Data_Entry_2017.csv").read_text().splitlines()
    assert lines[0].endswith(",OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],")
    assert all(line.count(",") == 11 and line.endswith(",") for line in lines)
    ages = [line.split(",")[4] for line in lines[1:]]
    assert all(len(age) == 4 and age.endswith("Y") for age in ages)
    assert (np.array(ages) == "414Y").sum() == first.frame["age"].isna().sum() > 0
    names = [line.split(",")[1].split("|") for line in lines[1:]]
    assert all(found == sorted(found) for found in names)
    assert {"Hernia", "Mass", "Nodule", "Infiltration", "No Finding"} <= {name for found in names for name in found}
    found = layouts.read("nih", tmp_path / "first")
    assert_same(found, first)
    hernia = [image for image, named in zip(first.frame["image_id"], names, strict=True) if "Hernia" in named]
    assert ledger(found) == {
        "age over 110 years: cleared": tuple(first.frame.loc[first.frame["age"].isna(), "image_id"]),
        "Emphysema, Fibrosis or Hernia, which have no CheXpert label": tuple(hernia),
    }
    boxes = (tmp_path / "first" / "BBox_List_2017.csv").read_text().splitlines()
    # The header has nine fields, the rows have six.
    assert boxes[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    assert len(boxes) > 3
    assert all(line.count(",") == 5 for line in boxes[1:])
    assert not any(",Infiltration," in line for line in boxes)
    second = disk.write("nih", tmp_path / "second", studies=60, size=32)
    assert (second.frame["age"] == [study.age for study in phantom_studies(60)]).all()
    assert (tmp_path / "second" / "Data_Entry_2017_v2020.csv").read_text().splitlines()[0].endswith("PixelSpacing[x,y]")
    assert sorted(p.name for p in (tmp_path / "second").glob("images*")) == [f"images_{i:03d}" for i in range(1, 13)]
    tested = set(first.frame.loc[first.frame["boxes"] != "", "split"])
    assert tested == {"test"}


def phantom_studies(count: int) -> list:
    from datamodules.phantom.study import study

    return [study(0, index) for index in range(count)]


def test_labels_views_ages(tmp_path):
    manifest = layouts.read("nih", write(tmp_path / "nih", test=("4_0.png",)), validate=0.0)
    frame = manifest.frame.set_index("image_id")
    assert {i: [f for f in FINDINGS if frame.at[i, f] == 1] for i in frame.index} == {
        "1_0": ["Lung Opacity"],
        "2_0": [],
        "3_0": ["No Finding"],
        "4_0": ["Lung Opacity", "Pneumonia", "Pleural Other"],
    }
    assert frame[UNLABELLED].isna().all(axis=None)
    assert (frame["Edema"] == 0).all()
    assert frame["view"].tolist() == ["PA", "AP", "PA", "PA"]
    assert frame["split"].tolist() == ["train", "train", "train", "test"]
    np.testing.assert_allclose(frame["age"], [58, 0.5, np.nan, 30])
    assert Path(frame.at["1_0", "image"]).name == "1_0.jpg"
    assert ledger(manifest) == {
        "age over 110 years: cleared": ("3_0",),
        "Emphysema, Fibrosis or Hernia, which have no CheXpert label": ("1_0", "2_0"),
    }


def test_boxes_are_fractions_of_1024(tmp_path):
    folder = write(tmp_path / "nih")
    (folder / "BBox_List_2017.csv").write_text(BOX + "1_0.png,Infiltrate,256,512,128,256\n")
    manifest = layouts.read("nih", folder)
    row = manifest.frame.index[manifest.frame["image_id"] == "1_0"][0]
    box = manifest.boxes(row)[0]
    assert (box.finding, box.x0, box.y0, box.x1, box.y1) == ("Lung Opacity", 0.25, 0.5, 0.375, 0.75)
    assert sum(len(manifest.boxes(i)) for i in range(4)) == 1


def test_wrong_boxes_are_in_the_ledger(tmp_path):
    folder = write(tmp_path / "nih")
    lines = [
        "1_0.png,Infiltrate,900,512,300,256",  # over the edge
        "1_0.png,Infiltrate,10,512,1020,256",  # a little over the edge
        "2_0.png,Mass,10,20,30,40",  # not among the row's findings
        "2_0.png,Mass,10,20,30,40",
        "9_9.png,Mass,10,20,30,40",
        "4_0.png,Pneumonia,10,20,0,40",  # empty
    ]
    (folder / "BBox_List_2017.csv").write_text(BOX + "\n".join(lines) + "\n")
    manifest = layouts.read("nih", folder)
    assert {r.reason: (r.level, r.ids) for r in manifest.drops} == {
        "box that is not inside the 1024 × 1024 picture": ("error", ("1_0", "4_0")),
        "box given twice": ("error", ("2_0",)),
        "box of a picture that no row of the table names": ("error", ("9_9",)),
    }
    assert all(r.mend == "mend or remove the row of BBox_List_2017.csv" for r in manifest.drops)
    assert ledger(manifest)["box that reaches up to 1 % over the edge: cut off"] == ("1_0",)
    assert ledger(manifest, "warning") == {"box of a finding that the picture's row does not name": ("2_0",)}
    assert [len(manifest.boxes(i)) for i in range(4)] == [1, 1, 0, 0]
    assert manifest.boxes(0)[0].x1 == 1.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "1_0.png,Hernia,1,2,3,4",
            r"BBox_List_2017.csv: row 2: finding 'Hernia' has no CheXpert label; .*; mend the row",
        ),
        ("1_0.png,Mass,1,x,3,4", r"BBox_List_2017.csv: row 2: box \['1', 'x', '3', '4'\] is not four numbers"),
        ("1_0.png,Mass,1,2,3", r"BBox_List_2017.csv: row 2 has fewer fields than the header"),
    ],
)
def test_unreadable_boxes_are_named(tmp_path, line, message):
    folder = write(tmp_path / "nih")
    (folder / "BBox_List_2017.csv").write_text(BOX + line + "\n")
    with pytest.raises(ValueError, match=message):
        layouts.read("nih", folder)
    (folder / "BBox_List_2017.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(ValueError, match=r"BBox_List_2017.csv: cannot be read as a table .*fetch the file again"):
        layouts.read("nih", folder)


def test_boxed_patients_can_go_to_test(tmp_path):
    folder = write(tmp_path / "nih", [*ROWS, ("1_1.png", "No Finding", "1", "58", "M", "PA")], test=("4_0.png",))
    (folder / "BBox_List_2017.csv").write_text(BOX + "1_0.png,Infiltrate,256,512,128,256\n")
    listed = layouts.read("nih", folder, validate=0.0).frame
    moved = layouts.read("nih", folder, validate=0.0, boxed_patients="test")
    assert dict(zip(listed["image_id"], listed["split"], strict=True))["1_0"] == "train"
    # Both images of patient 1 move, the others stay where they were.
    assert moved.frame.loc[moved.frame["split"] == "test", "image_id"].tolist() == ["1_0", "4_0", "1_1"]
    assert ledger(moved)["moved to test, for a picture of the patient has a box"] == ("1_0", "1_1")


def test_what_is_left_out_is_counted(tmp_path):
    folder = write(tmp_path / "nih")
    (folder / "images" / "1_0.jpg").unlink()
    (folder / "train_val_list.txt").write_text("1_0.png\n2_0.png\n3_0.png\n")
    manifest = layouts.read("nih", folder)
    assert {d.reason: (d.level, d.ids, d.mend) for d in manifest.drops} == {
        "in neither train_val_list.txt (3 pictures) nor test_list.txt (0 pictures)": (
            "error",
            ("4_0",),
            "fetch the list that is too short again (published are 86,524 and 25,596 pictures), add the picture to "
            "one, or read with layout_options.splits=hashed",
        ),
        "no image file of this name under images*/": (
            "error",
            ("1_0",),
            "fetch the images_NNN.tar.gz that holds it again",
        ),
    }
    assert sorted(manifest.frame["image_id"]) == ["2_0", "3_0"]
    tables = layouts.read("nih", folder, images=False)
    assert tables.frame["image_id"].tolist() == ["1_0", "2_0", "3_0"]
    assert (tables.frame["image"] == "").all()


def test_odd_rows_and_files_are_in_the_ledger(tmp_path):
    rows = [
        *ROWS,
        ROWS[0],
        ("4_0.png", "Edema", "4", "30", "M", "PA"),
        ("5_0.png", "No Finding|Edema", "5", "old", "M", ""),
        ("6_0.png", "", "6", "40", "M", "PA"),
        ("6_1.png", "Mass", "6", "40", "F", "PA"),
        ("00000008_001.png", "Mass", "9", "40", "F", "PA"),
    ]
    folder = write(tmp_path / "nih", rows)
    picture(folder / "images_001" / "images" / "2_0.png")
    picture(folder / "images_002" / "images" / "2_0.png")
    picture(folder / "images" / "stray.png")
    (folder / "images" / "._3_0.jpg").write_bytes(b"of another program")
    (folder / "test_list.txt").write_text("77_0.png\n")
    (folder / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress((folder / "Data_Entry_2017.csv").read_bytes()))
    manifest = layouts.read("nih", folder)
    found = {r.reason: (r.level, r.ids) for r in manifest.drops + manifest.notes}
    assert found == {
        "row given twice": ("error", ("1_0",)),
        "row given twice with other values: the first is kept": ("error", ("4_0",)),
        "age over 110 years: cleared": ("note", ("3_0",)),
        "age that is no number of years, months or days: left empty": ("warning", ("5_0",)),
        "another edition of the table, or a gzipped copy: not read": ("note", ("Data_Entry_2017.csv",)),
        "view is not given": ("warning", ("5_0",)),
        "patient of two sexes": ("warning", ("6_0", "6_1")),
        "Patient ID is not the number in the picture's name": ("error", ("00000008_001",)),
        "Emphysema, Fibrosis or Hernia, which have no CheXpert label": ("note", ("1_0", "2_0", "1_0")),
        "No Finding beside a finding": ("error", ("5_0",)),
        "no label": ("warning", ("6_0",)),
        "in a split list, but in no row of the table": ("warning", ("77_0",)),
        "picture that no row of the table names": ("warning", ("images/stray.png",)),
        "second copy of a picture: the PNG, else the first folder's, is read": (
            "warning",
            ("images_002/images/2_0.png", "images/2_0.jpg"),
        ),
    }
    frame = manifest.frame.set_index("image_id")
    assert len(frame) == 8
    assert frame.at["2_0", "image"] == str(folder / "images_001" / "images" / "2_0.png")
    assert frame.loc["6_0", list(FINDINGS)].isna().all()
    # The first of two rows is kept, and what contradicts itself stays as it was written.
    assert (frame.at["4_0", "Edema"], frame.at["5_0", "No Finding"], frame.at["5_0", "Edema"]) == (0, 1, 1)


def test_follow_up_numbers_and_other_columns(tmp_path):
    folder = write(tmp_path / "nih", [("00000003_001.png", "Mass", "3", "4", "F", "PA")])
    table = pd.read_csv(folder / "Data_Entry_2017.csv", dtype=str).rename(columns={"Patient Gender": "Patient Sex"})
    table.drop(columns="Patient Age").assign(**{"Follow-up #": 0}).to_csv(folder / "Data_Entry_2017.csv", index=False)
    manifest = layouts.read("nih", folder)
    assert manifest.frame["sex"].tolist() == ["F"]
    assert ledger(manifest, "note") == {
        "table without ages": ("Patient Age",),
        "Follow-up # is not the number in the picture's name": ("00000003_001",),
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            ("5_0.png", "Scoliosis", "5", "40", "M", "PA"),
            r"Data_Entry_2017.csv: row 6: finding 'Scoliosis'.*mend the row",
        ),
        (("5_0.png", "Edema", "5", "40", "M", "oblique"), r"Data_Entry_2017.csv: row 6: view 'oblique' is not known"),
        (("5_0.png", "Edema", "4", "40", "M", "PA"), r"Data_Entry_2017.csv: nih: patient 4 is in several splits"),
    ],
)
def test_the_wrong_row_is_named(tmp_path, entry, message):
    folder = write(tmp_path / "nih", [*ROWS, entry], test=("5_0.png",))
    with pytest.raises(ValueError, match=message):
        layouts.read("nih", folder)


def test_lists_that_are_exchanged(tmp_path):
    folder = write(tmp_path / "nih")
    for name, numbers in (("train_val_list.txt", range(25_596)), ("test_list.txt", range(25_596, 112_120))):
        (folder / name).write_text("".join(f"{n}_0.png\n" for n in numbers))
    with pytest.raises(ValueError, match=r"25,596 pictures and test_list.txt 86,524, .*: the lists are exchanged"):
        layouts.read("nih", folder)


def test_of_a_table_and_its_gzipped_copy_the_plain_one_is_read(tmp_path):
    folder = write(tmp_path / "nih")
    plain = next(folder.glob("Data_Entry_2017*.csv"))
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(b"an older copy"))
    notes = layouts.read("nih", folder).notes
    assert (f"{plain.name}.gz",) in [n.ids for n in notes if n.reason.endswith("copy: not read")]


def test_missing_files_and_columns(tmp_path):
    folder = write(tmp_path / "nih")
    (folder / "test_list.txt").write_text("1_0.png\n")
    with pytest.raises(ValueError, match=r"image 1_0 is in both train_val_list.txt and test_list.txt \(1 images are\)"):
        layouts.read("nih", folder)
    (folder / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_list.txt is missing; expected Data_Entry.*splits=hashed"):
        layouts.read("nih", folder)
    with pytest.raises(ValueError, match="option splits is 'random'; expected one of 'lists', 'hashed'"):
        layouts.read("nih", folder, splits="random")
    with pytest.raises(ValueError, match=r"validate = 1.0 is not a share"):
        layouts.read("nih", folder, validate=1.0)
    for image in (folder / "images").iterdir():
        image.unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the 4 images .* for instance images/1_0.png"):
        layouts.read("nih", folder, splits="hashed")
    (folder / "Data_Entry_2017.csv").write_text("Image Index,Finding Labels\n")
    with pytest.raises(
        ValueError,
        match=r"Data_Entry_2017.csv: columns 'Patient ID', 'View Position' are missing; it has \['Image Index'",
    ):
        layouts.read("nih", folder)
    with pytest.raises(FileNotFoundError, match=r"has no Data_Entry_2017_v2020.csv or .* or Data_Entry_2017.csv.gz;"):
        layouts.read("nih", tmp_path)


def test_hashed_splits_need_no_lists_and_are_noted(tmp_path):
    folder = write(tmp_path / "nih", [(f"{i}_0.png", "Mass", str(i), "40", "F", "PA") for i in range(40)])
    for name in nih.LISTS:
        (folder / name).unlink()
    manifest = layouts.read("nih", folder, splits="hashed")
    assert set(manifest.frame["split"]) == {"train", "validate", "test"}
    assert ledger(manifest) == {"split by a hash of the patient, not by the published lists": nih.LISTS}
    other = layouts.read("nih", folder, splits="hashed", seed=1)
    assert other.frame["split"].tolist() != manifest.frame["split"].tolist()


def test_recognise(tmp_path):
    folder = write(tmp_path / "nih")
    assert nih.recognise(folder)
    assert not nih.recognise(folder / "images")
    assert not nih.recognise(folder / "Data_Entry_2017.csv")


def test_remote_root(tmp_path):
    upath = pytest.importorskip("upath")
    folder = write(tmp_path / "nih")
    local = layouts.read("nih", folder)
    remote = layouts.read("nih", f"file://{folder}")
    assert nih.recognise(upath.UPath(f"file://{folder}"))
    assert remote.frame["image_id"].tolist() == local.frame["image_id"].tolist()
    assert remote.frame["image"].iloc[0].endswith("nih/images/1_0.jpg")
