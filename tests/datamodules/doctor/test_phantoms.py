"""A freshly written phantom set of each layout and variant is clean, and is recognised for what it is."""

import pytest

from datamodules import layouts
from datamodules.doctor.examine import examine
from datamodules.doctor.recognise import NAMES, needs, recognise
from datamodules.phantom import disk

VARIANTS: list[tuple[str, dict]] = [
    ("chexpert", {}),
    ("chexpert", {"small": False, "test": True}),
    ("chexpert_plus", {}),
    ("chexpert_plus", {"pictures": "jpg"}),
    ("mimic_cxr", {}),
    ("mimic_cxr", {"reports": "folder", "gz": False}),
    ("mimic_cxr", {"reports": "sectioned"}),
    ("nih", {}),
    ("nih", {"folders": 1, "jpeg": True, "v2020": False}),
    ("openi", {}),
    ("openi", {"kaggle": True}),
    ("padchest", {}),
    ("padchest", {"flat": True, "gz": False}),
    ("table", {}),
    ("table", {"parquet": True}),
    ("table", {"gz": True}),
    ("vindr", {}),
    ("vindr", {"kaggle": True}),
]


@pytest.mark.parametrize(("layout", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("seed", [0, 7])
def test_a_fresh_set_is_clean(tmp_path, layout, options, seed):
    if layout == "vindr":
        pytest.importorskip("pydicom")
    root = tmp_path / "set"
    written = disk.write(layout, root, studies=14, seed=seed, size=80, **options)
    diagnosis = examine(str(root), state=tmp_path / "state")
    assert diagnosis.layout == layout
    assert [f for f in diagnosis.findings if f.level == "error"] == []
    assert all(f.mend for f in diagnosis.findings if f.level == "warning")
    assert len(diagnosis.manifest) == len(written)
    # All pictures were looked at, decoded too, and each is what its suffix says.
    on_disk = (written.frame["image"] != "").sum()
    assert (len(diagnosis.looked.images), diagnosis.looked.examined) == (on_disk, on_disk)
    decoded = examine(str(root), state=tmp_path / "state", decode=True)
    assert {code for issues in decoded.looked.issues.values() for code, _ in issues} <= {"deep", "inverted"}
    assert decoded.looked.decoded.all()


def test_every_writer_has_a_variant():
    assert {layout for layout, _ in VARIANTS} == set(disk.NAMES)


def test_every_layout_on_disk_is_asked():
    assert {*NAMES, "phantom", "joined"} == set(layouts.NAMES)
    assert NAMES[-1] == "table"
    assert all(f"  {name}: " in needs() for name in NAMES)


def test_nothing_is_recognised_in_an_empty_folder(tmp_path):
    assert recognise(tmp_path) == []
