"""OpenI: Kaggle's tables and what does not fit in them; views from tables, those of the published DICOM headers too."""

from pathlib import Path

import pandas as pd
import pytest

from datamodules import layouts
from datamodules.layouts import openi
from datamodules.layouts.openi_report import picture_key
from datamodules.layouts.openi_views import merge_views
from tests.datamodules.layouts.openi_case import KAGGLE, OPENI, PROJECTIONS, ledger, write_kaggle, write_openi, xml

VIEWS = "imageid,View Position\nCXR1_a,PA\nCXR1_b,ap\nCXR3_a,Frontal\nCXR7_a,LL\n"


def test_views_come_from_a_table(tmp_path):
    documents = OPENI | {"1": xml("CXR1", {"FINDINGS": "x"}, ["normal"], ["CXR1_a", "CXR1_b"], "PA and lateral")}
    folder = write_openi(tmp_path / "openi", documents)
    (tmp_path / "v.csv").write_text(VIEWS)
    manifest = layouts.read("openi", folder, images=False, views=str(tmp_path / "v.csv"))
    views = dict(zip(manifest.frame["image_id"], manifest.frame["view"], strict=True))
    assert views == {"CXR1_a": "PA", "CXR1_b": "AP", "CXR3_a": "PA", "CXR5": "unknown", "CXR6": "unknown"}
    notes = ledger(manifest.notes)
    assert notes["a frontal picture, taken as PA"] == ("note", ("CXR3_a",))
    assert notes["named in layout_options.views and in no report"] == ("note", ("CXR7_a",))
    doubtful = "all pictures of the study are PA or AP, though its caption names a lateral"
    assert notes[doubtful] == ("warning", ("CXR1_a", "CXR1_b"))
    assert "view unknown" not in notes
    as_is = layouts.read("openi", folder, images=False, views=str(tmp_path / "v.csv"), frontal="unknown")
    assert as_is.frame.set_index("image_id").at["CXR3_a", "view"] == "unknown"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,view\nx,PA\n", r"v.csv: has no column of pictures; expected one of \['imageid', .* found \['a', 'view'\]"),
        ("image,b\nx,PA\n", r"v.csv: has no column of views; expected one of \['View Position', .* rename the column"),
        ("image,view\nx,PA\ny,oblique\n", r"v.csv: row 3: view 'oblique' is not known.*mend the row"),
        ("image,view\nx,PA\ny,PA\nx.png,AP\n", r"v.csv: row 2: picture x has several views \['AP', 'PA'\]; remove"),
    ],
)
def test_wrong_tables_of_views(tmp_path, text, message):
    (tmp_path / "v.csv").write_text(text)
    folder = write_openi(tmp_path / "openi")
    with pytest.raises(ValueError, match=message):
        layouts.read("openi", folder, views=str(tmp_path / "v.csv"))
    with pytest.raises(FileNotFoundError, match=r"none.csv does not exist; layout_options.views names a CSV"):
        layouts.read("openi", folder, views=str(tmp_path / "none.csv"))


def test_projections_hold_against_tags_that_contradict_them():
    seen = {"a": "frontal", "b": "frontal", "c": "LATERAL", "d": "LATERAL", "e": "unknown", "f": "frontal"}
    tagged = {"a": "AP", "b": "LATERAL", "c": "PA", "d": "LATERAL", "e": "PA", "g": "AP"}
    merged, wrong = merge_views(seen, tagged)
    assert merged == {
        "a": "AP",
        "b": "frontal",
        "c": "LATERAL",
        "d": "LATERAL",
        "e": "PA",
        "f": "frontal",
        "g": "AP",
    }
    assert wrong == ["b", "c"]


def test_kaggle_tables(tmp_path):
    manifest = layouts.read("openi", write_kaggle(tmp_path / "k"))
    frame = manifest.frame.set_index("image_id")
    assert frame["view"].to_dict() == {
        "CXR1_IM-0001-4001": "PA",
        "CXR1_IM-0001-3001": "LATERAL",
        "CXR2_IM-0652-1001": "PA",
    }
    assert frame["report"].tolist() == ["The heart ___ normal."] * 2 + ["Large heart."]
    assert frame.loc["CXR2_IM-0652-1001", ["Cardiomegaly", "Support Devices", "No Finding"]].tolist() == [1, 1, 0]
    assert Path(frame.at["CXR2_IM-0652-1001", "image"]).name == "2_IM-0652-1001.dcm.png"
    assert ledger(manifest.drops) == {"no section 'findings'": ("warning", ("CXR3",))}
    assert ledger(manifest.notes) == {
        "a frontal picture, taken as PA": ("note", ("CXR1_IM-0001-4001", "CXR2_IM-0652-1001")),
    }
    (tmp_path / "v.csv").write_text("imageid,View Position\nCXR2_IM-0652-1001,AP\nCXR1_1_IM-0001-3001,PA\n")
    finer = layouts.read("openi", tmp_path / "k", views=str(tmp_path / "v.csv"))
    assert finer.frame["view"].tolist() == ["PA", "LATERAL", "AP"]
    reason = "layout_options.views contradicts indiana_projections.csv, which is kept"
    assert ledger(finer.notes)[reason] == ("warning", ("CXR1_IM-0001-3001",))


def test_kaggle_tables_that_do_not_fit(tmp_path):
    folder = write_kaggle(
        tmp_path / "k",
        reports=KAGGLE + "2,normal,normal,,,,Again.,\n4,normal,normal,,,,No picture.,\n",
        projections=PROJECTIONS + "1,1_IM-0001-4001.dcm.png,Frontal\n9,9_IM-0001-1001.dcm.png,Frontal\n",
    )
    (folder / "images" / "images_normalized" / "2_IM-0652-1001.dcm.png").unlink()
    manifest = layouts.read("openi", folder, section="first")
    assert ledger(manifest.drops) == {
        "a report of this uid stands in indiana_reports.csv already": ("error", ("CXR2",)),
        "a picture stands in indiana_projections.csv already": ("error", ("CXR1_IM-0001-4001",)),
        "a picture's uid is not in indiana_reports.csv": ("error", ("CXR9_IM-0001-1001",)),
        "no file of the picture that a report names": ("error", ("CXR2_IM-0652-1001",)),
    }
    assert manifest.frame["study_id"].tolist() == ["CXR1", "CXR1", "CXR3", "CXR4"]
    assert manifest.frame["image"].iloc[3] == ""
    assert len(layouts.read("openi", folder, images=False)) == 4


@pytest.mark.parametrize(
    ("reports", "projections", "message"),
    [
        (KAGGLE.replace("findings", "text"), PROJECTIONS, r"indiana_reports.csv: column 'findings' is missing"),
        (KAGGLE, PROJECTIONS.replace("projection", "view"), r"projections.csv: column 'projection' is missing"),
        (KAGGLE, PROJECTIONS.replace("Lateral", "Top"), r"projections.csv: row 3: view 'Top' is not known"),
        (KAGGLE + ",normal,,,,,x,\n", PROJECTIONS, r"indiana_reports.csv: row 5: no uid \(1 rows\); mend or remove"),
        (KAGGLE, PROJECTIONS + "1,,Frontal\n", r"projections.csv: row 6: no filename \(1 rows\)"),
    ],
)
def test_wrong_kaggle_tables(tmp_path, reports, projections, message):
    with pytest.raises(ValueError, match=message):
        layouts.read("openi", write_kaggle(tmp_path / "k", reports, projections))


def test_kaggle_needs_its_second_table(tmp_path):
    folder = write_kaggle(tmp_path / "k")
    (folder / "indiana_projections.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no indiana_projections.csv; it should hold indiana_reports.csv"):
        layouts.read("openi", folder)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("CXR1_1_IM-0001-3001", "1_IM-0001-3001"),
        ("images/images_normalized/1_IM-0001-3001.dcm.png", "1_IM-0001-3001"),
        ("CXR10_IM-0002-1001.JPG", "10_IM-0002-1001"),
        ("./2_IM-0652-1001-0001.dcm", "2_IM-0652-1001-0001"),
        ("CXR1_a.png", "CXR1_a"),
    ],
)
def test_picture_keys(name, key):
    assert picture_key(name) == key


@pytest.fixture(scope="module")
def tables() -> Path:
    return Path(pytest.importorskip("torchxrayvision").__file__).parent / "data"


def test_the_dicom_views_of_all_7470_pictures(tables):
    archive, csv = tables / "NLMCXR_reports.tgz", tables / "nlmcxr_dicom_metadata.csv.gz"
    manifest = layouts.read("openi", archive, images=False, without_report="keep", views=str(csv))
    frame = manifest.frame
    pictures = frame[frame["image_id"] != frame["study_id"]]
    plain = pd.read_csv(csv, usecols=["imageid", "View Position"])
    # Two pictures of the first report are named CXR1_1_IM... in the XML and CXR1_IM... in the table.
    names = pictures["image_id"].str.replace("CXR1_1_", "CXR1_")
    joined = pictures.assign(imageid=names).merge(plain, on="imageid", how="left")
    assert {"images": len(pictures), "reports": frame["study_id"].nunique()} == openi.PUBLISHED
    expected = {"PA": "PA", "AP": "AP", **dict.fromkeys(("LL", "RL", "LATERAL", "LARGE LATERAL"), "LATERAL")}
    assert joined["view"].tolist() == joined["View Position"].map(expected).fillna("unknown").tolist()
    assert pictures["view"].value_counts().to_dict() == {"PA": 3593, "unknown": 2587, "LATERAL": 867, "AP": 423}
    counts = {remark.reason: remark.count for remark in manifest.notes}
    assert counts == {
        "a report that names no picture: a row of text alone": 104,
        "view unknown": 2587,
        "all pictures of the study are PA or AP, though its caption names a lateral": 2289,
        "no MeSH tag, or tagged 'No Indexing': the labels are unknown": 95,
        "tagged as of unsatisfactory technical quality, kept": 86,
    }
    assert manifest.drops == ()
    several = pictures.groupby("study_id")["view"].agg(lambda views: len(views) > 1 and views.isin(["PA", "AP"]).all())
    sizes = pictures.groupby("study_id").size()
    assert (int(several.sum()), int((sizes > 1).sum())) == (1314, 3405)


def test_why_a_frontal_picture_is_taken_as_pa(tables):
    # The pictures that another group sorted by their look, against the views in their DICOM headers.
    looks = pd.read_csv(tables / "nlmcxr_tsne_pa.csv.gz")
    tags = pd.read_csv(tables / "nlmcxr_dicom_metadata.csv.gz", usecols=["imageid", "View Position"])
    frontal = looks[looks["tsne-view"] == "PA"].merge(tags, on="imageid")["View Position"].dropna()
    assert frontal.value_counts().to_dict() == {"PA": 1994, "AP": 146}
