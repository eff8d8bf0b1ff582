"""A split of the Indiana collection that the user names: by report or by picture, for both editions."""

import pytest

from datamodules import layouts
from tests.datamodules.layouts.openi_case import ledger, write_kaggle, write_openi

REASONS = "in no row of layout_options.split_file", "named in layout_options.split_file and in no report"


def test_a_file_of_reports(tmp_path):
    root = write_openi(tmp_path / "openi")
    (tmp_path / "s.csv").write_text("study_id,split\nCXR1,val\n3,test\nCXR6,train\nCXR99,train\n")
    found = layouts.read("openi", root, images=False, split_file=str(tmp_path / "s.csv"))
    rows = found.frame
    assert dict(zip(rows["image_id"], rows["split"], strict=True)) == {
        "CXR1_a": "validate",
        "CXR1_b": "validate",
        "CXR3_a": "test",
        "CXR6": "train",
    }
    assert ledger(found.drops)[REASONS[0]] == ("warning", ("CXR5",))
    assert ledger(found.notes)[REASONS[1]] == ("note", ("CXR99",))


def test_a_file_of_pictures_counts_for_the_whole_report(tmp_path):
    root = write_kaggle(tmp_path / "kaggle")
    (tmp_path / "s.csv").write_text(
        "image,split\nCXR1_1_IM-0001-4001.png,test\n2_IM-0652-1001.dcm.png,train\n3_IM-1384-1001,valid\n"
    )
    frame = layouts.read("openi", root, section="first", split_file=str(tmp_path / "s.csv")).frame
    assert dict(zip(frame["image_id"], frame["split"], strict=True)) == {
        "CXR1_IM-0001-4001": "test",
        "CXR1_IM-0001-3001": "test",
        "CXR2_IM-0652-1001": "train",
        "CXR3_IM-1384-1001": "validate",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study,part\n1,train\n", r"s.csv: column 'split' is missing; it has \['study', 'part'\]; rename the column"),
        ("name,split\n1,train\n", r"s.csv: has no column of reports or pictures; expected one of \['study_id'"),
        ("uid,split\n1,train\n2,dev set\n", r"s.csv: row 3: split 'dev set' is not known; expected one of \['train'"),
        ("uid,split\n1,train\nCXR1,test\n", r"s.csv: row 3: CXR1 is in train by an earlier row; remove the wrong"),
        ("image,split\nCXR1_a,train\nCXR1_b,test\n", r"report CXR1 is in several splits \['test', 'train'\]; give all"),
        (
            "uid,split\n77,train\n",
            r"names none of the 6 reports; its first row is of CXR77, expected for instance CXR1",
        ),
    ],
)
def test_wrong_files(tmp_path, text, message):
    root = write_openi(tmp_path / "openi")
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        layouts.read("openi", root, images=False, split_file=str(tmp_path / "s.csv"))


def test_a_missing_file(tmp_path):
    root = write_openi(tmp_path / "openi")
    with pytest.raises(FileNotFoundError, match=r"none.csv does not exist; layout_options.split_file names a CSV"):
        layouts.read("openi", root, images=False, split_file=str(tmp_path / "none.csv"))
