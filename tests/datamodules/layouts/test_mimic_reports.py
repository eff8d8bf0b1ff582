"""MIMIC-CXR's reports: where they are found, what is lost and why, and the rules of single studies."""

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from datamodules.layouts import mimic_reports
from datamodules.layouts.mimic_cxr import read
from datamodules.manifest import Manifest
from datamodules.phantom import disk
from datamodules.phantom.disk.mimic_cxr import manifest_of
from datamodules.reports.sections import NAMES, split_sections
from tests.datamodules.layouts.mimic_case import SEED, STUDIES, plans, remark, save, table
from tests.datamodules.roundtrip import assert_same


def text_file(root: Path, row: pd.Series) -> Path:
    return root / "files" / row["patient_id"][:3] / row["patient_id"] / f"{row['study_id']}.txt"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_faults_of_the_reports_are_in_the_ledger(mimic_copy: Path, mimic: tuple[Path, Manifest], kind: str) -> None:
    studies = mimic[1].frame.drop_duplicates("study_id")
    files = [text_file(mimic_copy, studies.iloc[n]) for n in range(4)]
    files[0].unlink()
    files[1].write_bytes(b"FINDINGS: caf\xe9")
    files[2].write_bytes(b" \n")
    orphan = files[0].with_name("s59999999.txt")
    orphan.write_text("FINDINGS: Clear.")
    (mimic_copy / "files" / "notes.txt").write_text("mine")
    if kind == "zip":
        with zipfile.ZipFile(mimic_copy / mimic_reports.ARCHIVE, "w") as archive:
            for path in sorted(mimic_copy.rglob("*.txt")):
                archive.write(path, path.relative_to(mimic_copy))
                if path == files[3]:
                    archive.write(path, "again" / path.relative_to(mimic_copy))
                path.unlink()
    found = read(mimic_copy)
    for n, reason in enumerate(("no report of this study", "report is not UTF-8", "report is empty")):
        lost = remark(found.drops, reason)
        rows = mimic[1].frame[mimic[1].frame["study_id"] == studies.iloc[n]["study_id"]]
        assert lost.ids == tuple(rows["image_id"])
        assert lost.level == "error"
        assert "fetch" in lost.mend
    place = f"{orphan.parent.parent.name}/{orphan.parent.name}/s59999999.txt"
    names = remark(found.notes, "report of a study that no table names").ids
    assert set(names) == {place, "files/notes.txt" if kind == "zip" else "notes.txt"}
    if kind == "zip":
        assert remark(found.notes, "second report of a study, the first was taken").count == 1
    kept = read(mimic_copy, without_report="keep")
    assert {r.reason for r in kept.drops} == set()
    row = kept.frame[kept.frame["study_id"] == studies.iloc[0]["study_id"]].iloc[0]
    assert (row["report"], row["report_source"]) == ("", "none")
    assert remark(kept.notes, "no report of this study").level == "error"


def test_a_damaged_member_of_the_zip_is_lost_alone(tmp_path: Path) -> None:
    out = tmp_path / "data"
    manifest = disk.write("mimic_cxr", out, studies=4, seed=SEED, size=32, reports="zip")
    archive = out / mimic_reports.ARCHIVE
    study = manifest.frame["study_id"].iloc[0]
    with zipfile.ZipFile(archive) as file:
        info = next(i for i in file.infolist() if i.filename.endswith(f"{study}.txt"))
    data = bytearray(archive.read_bytes())
    for offset in range(info.header_offset + 80, info.header_offset + 100):
        data[offset] ^= 255
    archive.write_bytes(data)
    found = read(out)
    rows = manifest.frame[manifest.frame["study_id"] == study]
    assert remark(found.drops, "report is damaged").ids == tuple(rows["image_id"])
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"mimic-cxr-reports\.zip: is not a readable zip .*fetch"):
        read(out)


def test_studies_without_the_section_are_dropped_or_kept_with_their_ids(mimic: tuple[Path, Manifest]) -> None:
    root, _ = mimic
    without = {
        dicom_id
        for done in plans()
        if not done.sections["findings"] and not done.sections["last_paragraph"]
        for dicom_id, _ in done.images
    }
    assert without
    dropped = remark(read(root).drops, "report has no section 'findings'")
    assert (set(dropped.ids), dropped.level) == (without, "warning")
    assert "section: first" in dropped.mend
    kept = read(root, without_report="keep")
    assert set(kept.frame.loc[kept.frame["report_source"] == "none", "image_id"]) == without
    assert set(remark(kept.notes, dropped.reason).ids) == without


def test_the_option_names_the_place_of_the_reports(mimic_copy: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    disk.write("mimic_cxr", elsewhere, studies=STUDIES, seed=SEED, size=32, reports="sectioned")
    texts = Path(shutil.copytree(mimic_copy / "files", tmp_path / "texts" / "files"))
    for path in mimic_copy.rglob("*.txt"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no reports; expected .*s50414267\.txt.*reports: none"):
        read(mimic_copy)
    for place in (texts, texts.parent, elsewhere / "mimic_cxr_sectioned.csv"):
        assert_same(read(mimic_copy, reports=str(place)), manifest_of(plans(), mimic_copy))
    with pytest.raises(FileNotFoundError, match=r"reports .*nowhere does not exist"):
        read(mimic_copy, reports=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no"):
        read(mimic_copy, reports=tmp_path / "empty")


def zipped(root: Path) -> int:
    """Pack the texts as the published zip; how many they are."""
    texts = sorted(root.rglob("s*.txt"))
    with zipfile.ZipFile(root / mimic_reports.ARCHIVE, "w") as archive:
        for path in texts:
            archive.write(path, path.relative_to(root))
    return len(texts)


def test_a_zip_that_is_unpacked_in_part_is_read_itself(mimic_copy: Path, mimic: tuple[Path, Manifest]) -> None:
    packed = zipped(mimic_copy)
    whole = read(mimic_copy)
    assert_same(whole, manifest_of(plans(), mimic_copy))
    equal = remark(whole.notes, f"files/ holds {packed} reports and mimic-cxr-reports.zip {packed}: files/ was read")
    assert (equal.level, equal.ids) == ("note", (mimic_reports.ARCHIVE,))
    for path in sorted(mimic_copy.rglob("s*.txt"))[2:]:
        path.unlink()
    found = read(mimic_copy)
    assert_same(found, manifest_of(plans(), mimic_copy))
    assert [r for r in (*found.drops, *found.notes) if r.level == "error"] == []
    fuller = remark(found.notes, f"files/ holds 2 reports and mimic-cxr-reports.zip {packed}: the zip was read")
    assert (fuller.level, fuller.ids) == ("warning", ("files/",))
    assert fuller.mend == (
        "unpack mimic-cxr-reports.zip whole, or name the place that you mean with layout_options.reports"
    )
    assert len(read(mimic_copy, reports=mimic_copy / "files").frame["study_id"].unique()) <= 2


def test_a_zip_that_cannot_be_read_leaves_the_texts(mimic_copy: Path) -> None:
    zipped(mimic_copy)
    file = mimic_copy / mimic_reports.ARCHIVE
    file.write_bytes(file.read_bytes()[:200])
    found = read(mimic_copy)
    assert_same(found, manifest_of(plans(), mimic_copy))
    (note,) = [r for r in found.notes if "not a readable zip" in r.reason]
    assert (note.level, note.ids) == ("warning", (mimic_reports.ARCHIVE,))
    assert note.reason.startswith("files/ was read: mimic-cxr-reports.zip beside it is not a readable zip (")


def test_texts_come_before_the_table_and_so_does_the_zip(mimic_copy: Path) -> None:
    texts = [str(p.relative_to(mimic_copy / "files")) for p in mimic_copy.rglob("*.txt")]
    (mimic_copy / "mimic_cxr_sectioned.csv.gz").write_bytes(b"")
    assert mimic_reports.locate(mimic_copy, named=None, texts=texts).kind == "folder"
    (mimic_copy / mimic_reports.ARCHIVE).write_bytes(b"")
    assert mimic_reports.locate(mimic_copy, named=None, texts=[]).kind == "zip"
    (mimic_copy / mimic_reports.ARCHIVE).unlink()
    assert mimic_reports.locate(mimic_copy, named=None, texts=[]).path.name == "mimic_cxr_sectioned.csv.gz"


def test_faults_of_the_table_of_sections(tmp_path: Path) -> None:
    out = tmp_path / "data"
    manifest = disk.write("mimic_cxr", out, studies=6, seed=SEED, size=32, reports="sectioned")
    path = out / "mimic_cxr_sectioned.csv"
    sections = pd.read_csv(path, dtype=str, keep_default_na=False)
    study = manifest.frame["study_id"].iloc[0]
    rest = sections[sections["study"] != study]
    stranger = rest.iloc[[0]].assign(study="s59999999")
    table = pd.concat([rest, rest.iloc[[0]], stranger])
    path.unlink()
    path.with_name("mimic_cxr_sectioned.csv.gz").write_bytes(gzip.compress(table.to_csv(index=False).encode()))
    found = read(out)
    lost = remark(found.drops, "no row of this study in the table of sections")
    assert lost.ids == tuple(manifest.frame.loc[manifest.frame["study_id"] == study, "image_id"])
    assert "mimic-cxr-reports.zip" in lost.mend
    assert remark(found.notes, "report of a study that no table names").ids == ("s59999999",)
    assert remark(found.notes, "second report of a study, the first was taken").ids == (rest.iloc[0]["study"],)


def test_the_published_rules_are_readable_and_apply() -> None:
    rules = mimic_reports.rules()
    names = [rule["section"] for rule in rules.values() if "section" in rule]
    spans = [rule["span"] for rule in rules.values() if "span" in rule]
    assert (len(names), len(spans), spans.count([0, 0])) == (23, 31, 8)
    assert set(names) <= set(NAMES)
    assert all(0 <= start < end or (start, end) == (0, 0) for start, end in spans)
    assert all(set(rule) in ({"section"}, {"span"}) for rule in rules.values())
    file = Path(mimic_reports.__file__).parents[1] / "reports" / "mimic_rules.json"
    assert set(json.loads(file.read_text())) == {"source", "licence", "meaning", "rules"}
    text = " FINAL REPORT\n INDICATION:  Cough.  The lungs are clear.\n \n COMPARISON:  None.\n"
    assert mimic_reports.of_text(text, study="s57936451", section="findings") == (
        "Cough. The lungs are clear.",
        "rule:indication",
    )
    long = "x" * 201 + "  The heart\n is large. ".ljust(148) + "y" * 99
    assert mimic_reports.of_text(long, study="s50525523", section="impression") == ("The heart is large.", "rule:span")
    # A report that was changed and no longer has the section is read as any other.
    other = " FINDINGS: Clear."
    assert mimic_reports.of_text(other, study="s57936451", section="findings") == ("Clear.", "findings")
    assert split_sections(text).findings == ""


def test_rules_are_applied_by_study_with_provenance(mimic_copy: Path) -> None:
    metadata, split, labels = (table(mimic_copy, name) for name in ("metadata", "split", "chexpert"))
    studies = list(dict.fromkeys(metadata["study_id"]))
    for old, new, text in (
        (studies[0], "57936451", " INDICATION:  The lungs are clear.\n"),
        (studies[1], "58235663", " FINDINGS: Clear.\n"),
    ):
        file = next(mimic_copy.rglob(f"s{old}.txt"))
        (file.parent / f"s{old}").rename(file.parent / f"s{new}")
        file.rename(file.with_name(f"s{new}.txt")).write_text(text)
        for frame in (metadata, split, labels):
            frame["study_id"] = frame["study_id"].replace(old, new)
    for name, frame in (("metadata", metadata), ("split", split), ("chexpert", labels)):
        save(mimic_copy, name, frame)
    found = read(mimic_copy)
    rows = found.frame[found.frame["study_id"] == "s57936451"]
    assert set(zip(rows["report"], rows["report_source"], strict=True)) == {("The lungs are clear.", "rule:indication")}
    assert remark(found.notes, "report taken by a published rule of its study").ids == tuple(rows["image_id"])
    silent = remark(found.drops, "report states nothing, as the published rules say")
    assert silent.level == "warning"
    assert set(silent.ids) == set(metadata.loc[metadata["study_id"] == "58235663", "dicom_id"])


def test_every_variant_of_the_reports_gives_the_same_manifest(tmp_path: Path) -> None:
    digests = set()
    for reports in ("folder", "zip", "sectioned"):
        out = tmp_path / "data"
        disk.write("mimic_cxr", out, studies=STUDIES, seed=SEED, size=32, reports=reports)
        digests.add(read(out).digest())
        shutil.rmtree(out)
    assert len(digests) == 1


def test_nothing_left_is_an_error_that_says_why(mimic_copy: Path) -> None:
    for path in mimic_copy.rglob("*.txt"):
        path.write_text(" IMPRESSION: Normal.")
    with pytest.raises(FileNotFoundError, match=r"no picture of .* is left \(\d+ × report has no section 'findings'\)"):
        read(mimic_copy)
