"""Findings from the tables alone: the ledger, published counts, gaps."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from datamodules.doctor.examine import examine
from datamodules.doctor.finding import Finding, by_level
from datamodules.doctor.recognise import published
from datamodules.doctor.tables import count, gaps, ledger, published_counts
from datamodules.manifest import Box, Level, Manifest, Remark, encode_boxes, make_manifest
from datamodules.reports.labels import FINDINGS

TEXTS = ("The heart is large.", "Lungs are clear today.", "No effusion is seen.", "A small nodule remains.")


def manifest(rows: int = 40, *, drops=(), notes=(), **columns) -> Manifest:
    """A whole data set: each finding is positive in train, each split has rows, each study a report of its own."""
    table = []
    for n in range(rows):
        row = {
            "image": f"{n}.png",
            "image_id": f"i{n}",
            "study_id": f"s{n}",
            "patient_id": f"p{n}",
            "view": "PA",
            "split": ("validate", "test")[n] if n < 2 else "train",
            "report": f"{TEXTS[n % 4]} Number {n}.",
            "report_source": "findings",
            **dict.fromkeys(FINDINGS, 1.0),
        }
        table.append(row | {name: values[n] for name, values in columns.items()})
    return make_manifest(table, source="test", drops=list(drops), notes=list(notes))


def only(found: list[Finding], *, what: str) -> Finding:
    matching = [f for f in found if what in f.what]
    assert len(matching) == 1, found
    return matching[0]


def test_nothing_is_wrong_with_a_whole_data_set():
    assert gaps(manifest()) == []


def test_the_ledger_is_passed_on():
    drops = [Remark("no image file", ("a", "b"), "error", "fetch them"), Remark("no section", ("c",))]
    notes = [Remark("age cleared", ("d",), "note")]
    found = ledger(manifest(drops=drops, notes=notes))
    assert found[0] == Finding("error", "left out: no image file", 2, ("a", "b"), "fetch them")
    assert (found[1].level, found[1].count) == ("warning", 1)
    assert "source" in found[1].mend
    assert found[2] == Finding("note", "age cleared", 1, ("d",), "")


def test_a_finding_without_a_mend_is_refused():
    with pytest.raises(ValueError, match="level warning needs a mend: odd"):
        Finding("warning", "odd")


def test_errors_come_first():
    found = [Finding("note", "a"), Finding("error", "b", mend="x"), Finding("warning", "c", mend="x")]
    assert [f.what for f in by_level(found)] == ["b", "c", "a"]


def test_counts():
    boxes = ["", encode_boxes([Box("Edema", 0, 0, 1, 1)]), encode_boxes([Box("Edema", 0, 0, 1, 1)] * 3)] + [""] * 37
    numbers = [0, 1, 2, 2, *range(4, 40)]
    ids = {"study_id": [f"s{n}" for n in numbers], "patient_id": [f"p{n}" for n in numbers]}
    found = count(manifest(boxes=boxes, image=["", *["x.png"] * 39], **ids))
    assert found == {
        "images": 39, "studies": 39, "patients": 39, "reports": 39, "train": 38, "validate": 1, "test": 1, "boxes": 4,
    }  # fmt: skip


def test_published_counts():
    assert published_counts(manifest(), {}) == []
    assert published_counts(manifest(), {"images": 40, "patients": 40, "train": 38}) == []
    subset = published_counts(manifest(), {"images": 112_120, "patients": 30_805})
    assert [(f.level, f.what) for f in subset] == [
        ("note", "a subset of the published data set: images 40 of 112,120, patients 40 of 30,805")
    ]
    partial = published_counts(manifest(), {"images": 45, "patients": 40, "test": 3})
    assert [(f.level, f.count) for f in partial] == [("warning", 5), ("warning", 2)]
    assert partial[0].what == "images: 40, published are 45: partial download or subset"
    assert "fetch" in partial[0].mend
    more = published_counts(manifest(), {"images": 39})
    assert "another release" in more[0].mend
    # Five left out by a rule account for five that are missing; a broken file does not.
    rule = manifest(drops=[Remark("no findings", tuple("abcde"))])
    assert [f.level for f in published_counts(rule, {"images": 45})] == ["note"]
    assert [f.level for f in published_counts(rule, {"images": 46})] == ["warning"]
    broken = manifest(drops=[Remark("no image file", tuple("abcde"), "error", "fetch")])
    assert [f.level for f in published_counts(broken, {"images": 45})] == ["warning"]


def left_out(count: int, *, level: Level = "warning") -> list[Remark]:
    return [Remark("no section 'findings'", tuple(f"gone{n}" for n in range(count)), level, "fetch")]


def test_what_a_rule_left_out_makes_no_subset():
    # 40 rows are read of 100 published: 11 left out by rule make it 51, more than half; 10 make it 50, not under half.
    whole = published_counts(manifest(drops=left_out(60)), {"images": 100, "patients": 100})
    rule = "the 60 that the ledger says were left out by rule account for it"
    assert [(f.level, f.count, f.what) for f in whole] == [
        ("note", 60, f"images: 40, published are 100; {rule}"),
        ("note", 60, f"patients: 40, published are 100; {rule}"),
    ]
    assert [f.level for f in published_counts(manifest(drops=left_out(10)), {"images": 100})] == ["warning"]
    (subset,) = published_counts(manifest(drops=left_out(9)), {"images": 100})
    assert (subset.level, subset.what) == ("note", "a subset of the published data set: images 40 of 100")
    # A file that is missing is no rule.
    (subset,) = published_counts(manifest(drops=left_out(60, level="error")), {"images": 100})
    assert "a subset" in subset.what


def test_a_reading_of_text_alone_is_compared_by_its_studies():
    texts = manifest(image=[""] * 40)
    assert published_counts(texts, {"images": 75, "reports": 40}) == []
    # 40 of 81 are under half; the images were not asked for, so nothing is said of them.
    (subset,) = published_counts(texts, {"images": 150, "studies": 81, "reports": 81})
    assert subset.what == "a subset of the published data set: studies 40 of 81, reports 40 of 81"
    (partial,) = published_counts(texts, {"images": 150, "reports": 41})
    assert (partial.level, partial.count) == ("warning", 1)
    # Pictures alone, of a set that has reports too.
    assert published_counts(manifest(report=[""] * 40), {"images": 40, "reports": 30}) == []
    assert published_counts(manifest(image=[""] * 40), {"images": 70}) == []


def test_a_study_that_was_left_out_accounts_for_its_images():
    # OpenI's ledger names reports: 50 images are published for 45 reports, so 5 reports stand for up to 10 images.
    rule = manifest(drops=left_out(5))
    assert [f.level for f in published_counts(rule, {"images": 51, "studies": 40})] == ["warning"]
    several = published_counts(rule, {"images": 50, "reports": 45})
    assert [f.what for f in several] == [
        "images: 40, published are 50; the 5 that the ledger says were left out by rule (studies of several images) "
        "account for it",
        "reports: 40, published are 45; the 5 that the ledger says were left out by rule account for it",
    ]


def test_ids_that_a_spreadsheet_rewrote():
    # As Excel shows PadChest's ids of 39 digits, and as pandas writes a column of numbers with a gap.
    patients = ["3.02359738614893E+38", "3,2E+38", "1e+16", "17.0", "18.0", *[f"p{n}" for n in range(35)]]
    found = gaps(manifest(patient_id=patients, study_id=["1.0", *[f"1.{n}E" for n in range(39)]], split=["train"] * 40))
    assert [(f.level, f.ids, f.what.split()[0]) for f in found[:3]] == [
        ("error", tuple(patients[:3]), "patient_id"),
        ("warning", ("17.0", "18.0"), "patient_id"),
        ("warning", ("1.0",), "study_id"),
    ]
    published = ["302359738614892837147861483149052840743", "000123", "1.2.840.10008", "50414267", "CXR1.0", "12E"]
    assert not any("_id" in f.what for f in gaps(manifest(study_id=[*published, *[f"s{n}" for n in range(34)]])))


def test_other_splits_of_a_whole_data_set():
    found = published_counts(manifest(), {"images": 40, "train": 38, "test": 4})
    assert [(f.level, f.count, f.what) for f in found] == [
        ("note", 3, "test: 1, published are 4; nothing is missing, the splits are drawn otherwise")
    ]
    assert [f.level for f in published_counts(manifest(), {"images": 41, "test": 4})] == ["warning", "warning"]


def test_real_openi_is_no_subset(real_data, tmp_path):
    found = examine(str(real_data / "openi"), state=tmp_path).findings
    (reports,) = [f for f in found if "published" in f.what]
    assert (reports.level, reports.count, reports.what[:40]) == (
        "note",
        530,
        "reports: 3,425, published are 3,955; the",
    )


def test_empty_splits():
    found = gaps(manifest(300, split=["train"] * 300))
    assert [(f.level, f.ids) for f in found] == [("error", ("validate", "test"))]
    few = gaps(manifest(10, split=["train"] * 10))
    assert [(f.level, f.ids) for f in few] == [("warning", ("validate", "test"))]
    assert "only 10 patients" in few[0].what
    assert only(gaps(manifest(10, split=["test"] * 10)), what="split").level == "error"


def test_label_gaps():
    some = {f: [np.nan, np.nan, *[1.0] * 38] for f in FINDINGS}
    found = only(gaps(manifest(**some)), what="without any label")
    assert (found.level, found.ids) == ("warning", ("i0", "i1"))
    none = gaps(manifest(**{f: [np.nan] * 40 for f in FINDINGS}))
    assert [(f.level, f.what) for f in none] == [("note", "no row has a label")]
    never = gaps(manifest(Fracture=[np.nan] * 40))
    assert [(f.level, f.ids) for f in never] == [("note", ("Fracture",))]
    # Positive in test only is not enough; uncertain is not positive.
    lacking = gaps(manifest(Edema=[1.0, 1.0, *[0.0] * 38], Pneumonia=[-1.0] * 40))
    assert [(f.level, f.ids) for f in lacking] == [("warning", ("Edema", "Pneumonia"))]


@pytest.mark.parametrize(
    ("source", "mend", "none"),
    [
        ("table", "fill the label columns of these rows in; or take these rows out", "--option 'label_columns={"),
        ("openi", "MeSH tags of a report, and there is nothing to fetch where it has none; or take", "MeSH tags"),
        ("padchest", "see what these rows have in the column Labels; or take these rows out", "the column Labels"),
        ("nih", "fetch the label table again where it is cut off; or take these rows out", "fetch the label table"),
        ("chexpert+nih", "fetch the label table again where it is cut off; or", "fetch the label table again"),
    ],
)
def test_missing_labels_are_mended_where_the_layout_has_them(source, mend, none):
    some = replace(manifest(**{f: [np.nan, *[1.0] * 39] for f in FINDINGS}), source=source)
    assert mend in only(gaps(some), what="without any label").mend
    unlabelled = replace(manifest(**{f: [np.nan] * 40 for f in FINDINGS}), source=source)
    found = only(gaps(unlabelled), what="no row has a label")
    assert found.level == "note"
    assert none in found.mend
    assert "a classifier cannot be trained on it" in found.mend


def test_labels_as_the_mend_names_them(tmp_path):
    rows = [{"patient": f"p{n}", "report": f"This is number {n}.", "oedema": n % 2} for n in range(4)]
    pd.DataFrame(rows).to_csv(tmp_path / "studies.csv", index=False)
    texts = {"image_column": None}
    mend = only(list(examine(str(tmp_path), options=texts, state=tmp_path / "s").findings), what="no row has").mend
    given = re.search(r"--option 'label_columns=(.*?), \.\.\.}'", mend)
    labels = {"label_columns": json.loads(f"{given[1]}}}")}
    assert labels == {"label_columns": {"Edema": "oedema"}}
    found = examine(str(tmp_path), options=texts | labels, state=tmp_path / "s")
    assert found.manifest.frame["Edema"].tolist() == [0, 1, 0, 1]


def test_view_gaps():
    few = gaps(manifest(view=["unknown"] * 4 + ["PA"] * 36))
    assert [(f.level, f.count) for f in few] == [("note", 4)]
    many = gaps(manifest(view=["unknown"] * 5 + ["PA"] * 35))
    assert [(f.level, f.count, f.ids[0]) for f in many] == [("warning", 5, "i0")]
    assert gaps(manifest(view=["unknown"] * 40, image=[""] * 40)) == []


def test_report_gaps():
    texts = manifest().frame["report"].tolist()
    assert [f.what for f in gaps(manifest(report=[""] * 40))] == ["no study has a report"]
    found = gaps(manifest(report=["", "", "Normal chest.", *texts[3:]]))
    assert [(f.level, f.count, f.ids) for f in found] == [("warning", 2, ("s0", "s1")), ("warning", 1, ("s2",))]
    same = gaps(manifest(report=["Normal chest today."] * 9 + texts[9:]))
    assert [(f.level, f.count) for f in same] == [("warning", 9)]
    assert "22% of the studies: 'Normal chest today.'" in same[0].what
    assert gaps(manifest(report=["Normal chest today."] * 8 + texts[8:])) == []


def test_published_counts_are_those_of_the_edition(tmp_path):
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding\n"
    (tmp_path / "train.csv").write_text(header)
    assert published("chexpert", tmp_path)["images"] == 223_648
    (tmp_path / "test_labels.csv").write_text(header)
    assert published("chexpert", tmp_path) == {"images": 224_316, "studies": 188_341, "patients": 65_240}
    (tmp_path / "indiana_reports.csv").write_text("uid\n")
    assert published("openi", tmp_path) == {"images": 7466, "reports": 3851}
    assert published("openi", tmp_path / "elsewhere")["reports"] == 3955
    assert published("vindr", tmp_path / "elsewhere") == {"images": 18_000, "test": 3_000}
    assert published("vindr", tmp_path) == {"images": 15_000}
    # A root may be the archive itself.
    (tmp_path / "NLMCXR_reports.tgz").touch()
    assert published("openi", tmp_path / "NLMCXR_reports.tgz") == {"images": 7470, "reports": 3955}
    assert published("nih", tmp_path)["boxes"] == 984
    assert published("table", tmp_path) == published("phantom", tmp_path) == published("joined", tmp_path) == {}
