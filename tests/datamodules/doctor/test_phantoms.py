"""A freshly written phantom set of each layout and variant is clean, and is recognised for what it is."""

import os

import pytest

from datamodules import layouts
from datamodules.doctor.examine import examine
from datamodules.doctor.recognise import NAMES, needs, recognise
from datamodules.layouts.source import as_path
from datamodules.phantom import disk
from tests.datamodules.doctor.damage import edit

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
ONE_EACH = [*{layout: (layout, options) for layout, options in VARIANTS}.values()]


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


@pytest.mark.parametrize(("layout", "options"), VARIANTS, ids=str)
def test_what_programs_leave_behind_changes_nothing(tmp_path, layout, options):
    if layout == "vindr":
        pytest.importorskip("pydicom")
    root = tmp_path / "set"
    disk.write(layout, root, studies=14, seed=0, size=80, **options)
    before = examine(str(root), state=tmp_path / "state").findings
    files = [file for file in root.rglob("*") if file.is_file()]
    for file in files:
        # A Mac's, Windows' and a Mac's zip archive's.
        (file.parent / "__MACOSX").mkdir(exist_ok=True)
        for place in (file.parent, file.parent / "__MACOSX"):
            (place / f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
            (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
            (place / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    # And a table as a spreadsheet saves it: a byte order mark, and other ends of lines.
    for table in (file for file in files if file.name.endswith((".csv", ".csv.gz"))):
        edit(table, lambda text: "\ufeff" + text.replace("\r\n", "\n").replace("\n", "\r\n"))
    assert examine(str(root), state=tmp_path / "state").findings == before


@pytest.mark.parametrize(("layout", "options"), ONE_EACH, ids=str)
def test_a_root_is_known_however_it_is_named(tmp_path, monkeypatch, layout, options):
    root = tmp_path / "a" / "b" / "c" / "set"
    disk.write(layout, root, studies=8, seed=0, size=80, **options)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root.parent)
    for given in (f"{root}/", "set", "./set/", str(tmp_path / "link"), "../c/set"):
        assert recognise(as_path(given)) == [layout]
    (tmp_path / "link").unlink()
    # Too high by one folder or by four.
    for high in (root.parent, tmp_path / "a", tmp_path):
        (finding,) = examine(str(high), state=tmp_path / "state").findings
        assert (finding.level, finding.ids[0].endswith(f"set ({layout})")) == ("error", True)
    # Too low: the folder of its first picture, of which no layout is the name; above it is the data set.
    picture = next(p for p in sorted(root.rglob("*")) if p.suffix in (".png", ".jpg", ".dicom") and p.parent != root)
    (finding,) = examine(os.path.relpath(picture.parent), state=tmp_path / "state").findings
    assert "is no data set, but lies in what looks like one" in finding.what
    assert finding.ids[0].endswith(f" ({layout})")


@pytest.mark.parametrize(("layout", "options"), ONE_EACH, ids=str)
def test_without_its_pictures_it_says_how_to_go_on(tmp_path, layout, options):
    root = tmp_path / "set"
    disk.write(layout, root, studies=8, seed=0, size=80, **options)
    for file in [p for p in root.rglob("*") if p.suffix in (".png", ".jpg", ".dicom")]:
        file.unlink()
    finding = examine(str(root), state=tmp_path / "state").findings[0]
    # OpenI's reports are read alone, and the finding is the ledger's.
    if layout == "openi":
        assert (finding.level, finding.mend) == ("warning", "fetch NLMCXR_png.tgz (or Kaggle's images) again")
    else:
        assert finding.level == "error"
        assert "none of the " in finding.what
        assert "--option images=false" in finding.mend


def test_every_writer_has_a_variant():
    assert {layout for layout, _ in VARIANTS} == set(disk.NAMES)


def test_every_layout_on_disk_is_asked():
    assert {*NAMES, "phantom", "joined"} == set(layouts.NAMES)
    assert NAMES[-1] == "table"
    assert all(f"  {name}: " in needs() for name in NAMES)


def test_nothing_is_recognised_in_an_empty_folder(tmp_path):
    assert recognise(tmp_path) == []
