"""Tables and lists cut off at the end of a line look whole: what else is on disk tells, and the ledger says it."""

from pathlib import Path

import pandas as pd
import pytest

from datamodules import layouts
from datamodules.phantom import disk

LISTS = ("train_val_list.txt", "test_list.txt")


def shorten(path: Path, *, by: int) -> int:
    """Take the last lines away; how many are left."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-by]))
    return len(lines) - by


@pytest.mark.parametrize("cut", LISTS)
def test_a_list_of_nih_that_is_too_short_is_an_error_that_counts_its_lines(tmp_path, cut):
    disk.write("nih", tmp_path, studies=40, size=16)
    missing = (tmp_path / cut).read_text().split()[-2:]
    left = {name: len((tmp_path / name).read_text().split()) for name in LISTS}
    left[cut] = shorten(tmp_path / cut, by=2)
    (drop,) = layouts.read("nih", tmp_path).drops
    first, second = (f"{name} ({left[name]} pictures)" for name in LISTS)
    assert (drop.reason, drop.level) == (f"in neither {first} nor {second}", "error")
    assert sorted(drop.ids) == sorted(name.removesuffix(".png") for name in missing)
    assert drop.mend.startswith("fetch the list that is too short again (published are 86,524 and 25,596 pictures)")


def test_a_table_of_nih_shorter_than_the_lists_may_be_a_subset(tmp_path):
    written = disk.write("nih", tmp_path, studies=40, size=16)
    left = shorten(tmp_path / "Data_Entry_2017_v2020.csv", by=5) - 1
    found = layouts.read("nih", tmp_path, boxed_patients="test")
    lost = written.frame["image_id"].iloc[left:].tolist()
    assert len(found) == left
    assert {remark.level for remark in found.notes} <= {"note", "warning"}
    notes = {remark.reason: remark.ids for remark in found.notes}
    assert notes["in a split list, but in no row of the table"] == tuple(sorted(lost))
    assert [Path(name).stem for name in notes["picture that no row of the table names"]] == sorted(lost)


@pytest.mark.parametrize(
    ("layout", "table", "options"),
    [
        ("chexpert", "CheXpert-v1.0-small/train.csv", {}),
        ("chexpert_plus", "df_chexpert_plus_240401.csv", {"section": "first"}),
    ],
)
def test_pictures_that_a_short_table_no_longer_names_are_counted(tmp_path, layout, table, options):
    disk.write(layout, tmp_path, studies=20, size=16)
    whole = layouts.read(layout, tmp_path, **options)
    rows = pd.read_csv(tmp_path / table, dtype=str, keep_default_na=False)
    rows[:-3].to_csv(tmp_path / table, index=False)
    found = layouts.read(layout, tmp_path, **options)
    (note,) = [r for r in found.notes if r.reason == "picture that no row of the table names"]
    assert note.level == "warning"
    assert note.count == len(whole) - len(found) > 0
    assert note.mend == "take it away, or fetch the table again"
