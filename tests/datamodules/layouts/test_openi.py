"""OpenI: the phantom's archive and tables are read back; each quirk and fault of the archive; the real reports."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import layouts
from datamodules.layouts import openi
from datamodules.layouts.openi_report import tag_labels
from datamodules.phantom import disk
from datamodules.reports.labels import FINDINGS
from tests.datamodules.layouts.openi_case import OPENI, ledger, write_kaggle, write_openi, xml
from tests.datamodules.roundtrip import assert_same


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 9999), studies=st.integers(1, 10), kaggle=st.booleans())
def test_what_the_phantom_wrote_is_read(seed, studies, kaggle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("openi")
    written = disk.write("openi", folder, studies=studies, seed=seed, size=32, kaggle=kaggle)
    assert openi.recognise(folder)
    found = layouts.read("openi", folder)
    assert_same(found, written)
    # The archive's order is that of file names: CXR10 before CXR2.
    in_order = [
        {reason: (level, sorted(ids)) for reason, (level, ids) in ledger(m.drops).items()} for m in (found, written)
    ]
    assert in_order[0] == in_order[1]
    assert not [note for note in found.notes if note.level == "error"]


def test_the_phantoms_show_every_quirk_and_equal_seeds_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        written = disk.write("openi", tmp_path / name, studies=60, seed=0, size=32)
    a, b = (sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("a", "b"))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
    assert {drop.reason for drop in written.drops} == {
        "no section 'findings'",
        "neither findings nor an impression",
    }
    frame = written.frame
    assert frame["report"].str.contains("___").any()
    assert (frame["image"] == "").any()
    assert set(frame.groupby("study_id").size()) == {1, 2}
    assert set(frame["No Finding"].dropna()) == {0, 1}
    assert frame["No Finding"].isna().any()
    names = {p.name for p in (tmp_path / "a" / "images").iterdir()}
    assert {"CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-4001.png", "CXR5_IM-0005-1001.png"} <= names
    # Both editions hold the same: Kaggle's leaves out the reports without pictures.
    kaggle = disk.write("openi", tmp_path / "k", studies=60, seed=0, size=32, kaggle=True).frame
    texts = frame[frame["image"] != ""].groupby("study_id")[["report", "split"]].first()
    assert kaggle.groupby("study_id")[["report", "split"]].first().equals(texts)
    assert {p.name for p in (tmp_path / "k" / "images" / "images_normalized").iterdir()} >= {"1_IM-0001-4001.dcm.png"}
    assert (tmp_path / "k" / "indiana_projections.csv").read_text().splitlines()[:3] == [
        "uid,filename,projection",
        "1,1_IM-0001-4001.dcm.png,Frontal",
        "1,1_IM-0001-3001.dcm.png,Lateral",
    ]
    # The XML with Kaggle's projections for views and Kaggle's pictures gives Kaggle's views.
    (tmp_path / "k" / "NLMCXR_reports.tgz").write_bytes((tmp_path / "a" / "NLMCXR_reports.tgz").read_bytes())
    (tmp_path / "k" / "indiana_reports.csv").unlink()
    mixed = layouts.read("openi", tmp_path / "k", views=str(tmp_path / "k" / "indiana_projections.csv"))
    pictured = mixed.frame[mixed.frame["image"] != ""]
    assert pictured["view"].tolist() == [("PA", "LATERAL")["2001" in i or "3001" in i] for i in pictured["image_id"]]


def test_sections_drops_and_labels(tmp_path):
    folder = write_openi(tmp_path / "openi")
    manifest = layouts.read("openi", folder)
    frame = manifest.frame.set_index("image_id")
    assert frame["report"].to_dict() == {
        "CXR1": "Clear lungs.",
        "CXR3": "Calcified granuloma.",
        "CXR5": "Nodule.",
        "CXR6": "Mass.",
    }
    assert (frame["image"] == "").all()
    assert ledger(manifest.drops) == {
        "no section 'findings'": ("warning", ("CXR2",)),
        "neither findings nor an impression": ("warning", ("CXR4",)),
    }
    assert ledger(manifest.notes) == {
        "no picture of the set is on disk: the reports alone are read": ("warning", ("CXR1", "CXR3", "CXR5", "CXR6")),
        "no MeSH tag, or tagged 'No Indexing': the labels are unknown": ("note", ("CXR5",)),
    }
    assert frame.loc["CXR1", list(FINDINGS)].tolist() == [1] + [0] * 13
    assert frame.loc["CXR5", list(FINDINGS)].isna().all()
    granuloma = frame.loc["CXR3", list(FINDINGS)].astype(float)
    assert np.isnan(granuloma["No Finding"])
    assert (granuloma.drop("No Finding") == 0).all()
    nodule = frame.loc["CXR6", list(FINDINGS)].astype(float)
    assert (nodule["Lung Lesion"], nodule["Lung Opacity"], nodule["No Finding"]) == (1, 1, 0)
    assert np.isnan(nodule["Pleural Effusion"])
    # The archive itself is a root too, and so is what was unpacked from it; each gives the same rows.
    assert layouts.read("openi", folder / "NLMCXR_reports.tgz").digest() == manifest.digest()
    (tmp_path / "unpacked" / "ecgen-radiology").mkdir(parents=True)
    for name, data in OPENI.items():
        (tmp_path / "unpacked" / "ecgen-radiology" / f"{name}.xml").write_bytes(data)
    for root in (tmp_path / "unpacked", tmp_path / "unpacked" / "ecgen-radiology"):
        assert openi.recognise(root)
        assert layouts.read("openi", root).digest() == manifest.digest()


def test_reports_without_the_section_can_stay(tmp_path):
    kept = layouts.read("openi", write_openi(tmp_path / "openi"), without_report="keep")
    assert kept.drops == ()
    assert len(kept) == 6
    rows = kept.frame.set_index("study_id").loc[["CXR2", "CXR4"]]
    assert rows["report"].tolist() == ["", ""]
    assert rows["report_source"].tolist() == ["none", "none"]
    with pytest.raises(ValueError, match=r"option without_report is 'no'; expected one of 'drop', 'keep'"):
        layouts.read("openi", tmp_path / "openi", without_report="no")
    with pytest.raises(ValueError, match=r"option frontal is 'AP'; expected one of 'PA', 'unknown'"):
        layouts.read("openi", tmp_path / "openi", frontal="AP")


def test_first_falls_back_and_finds_images(tmp_path):
    folder = write_openi(tmp_path / "openi")
    (folder / "images").mkdir()
    Image.new("L", (8, 8)).save(folder / "images" / "CXR1_b.png")
    Image.new("L", (8, 8)).save(folder / "images" / "CXR9_a.png")
    Image.new("L", (8, 8)).save(folder / "CXR1_b.jpg")
    manifest = layouts.read("openi", folder, section="first")
    frame = manifest.frame.set_index("image_id")
    assert (frame.at["CXR2", "report"], frame.at["CXR2", "report_source"]) == ("Effusion.", "impression")
    assert frame.at["CXR2", "Pleural Effusion"] == 1
    assert np.isnan(frame.at["CXR2", "Lung Opacity"])
    # Both files are one picture: the first by name is taken.
    assert Path(frame.at["CXR1_b", "image"]).name == "CXR1_b.jpg"
    assert sorted(frame.index) == ["CXR1_b", "CXR2", "CXR5", "CXR6"]
    assert ledger(manifest.drops) == {
        "neither findings nor an impression": ("warning", ("CXR4",)),
        "no file of the picture that a report names": ("error", ("CXR1_a", "CXR3_a")),
    }
    notes = ledger(manifest.notes)
    assert notes["a second file of one picture; the first is taken"] == ("warning", ("images/CXR1_b.png",))
    assert notes["a picture that no report names"] == ("warning", (str(folder / "images" / "CXR9_a.png"),))
    assert notes["a report that names no picture: a row of text alone"] == ("note", ("CXR2", "CXR5", "CXR6"))
    assert notes["view unknown"] == ("warning", ("CXR1_b",))
    assert "images=false" in next(d.mend for d in manifest.drops if d.level == "error")
    both = layouts.read("openi", folder, section="both").frame.set_index("study_id")["report"]
    assert (both["CXR1"], both["CXR2"]) == ("Clear lungs. Normal.", "Effusion.")
    alone = layouts.read("openi", folder, images=False)
    assert alone.frame["image_id"].tolist() == ["CXR1_a", "CXR1_b", "CXR3_a", "CXR5", "CXR6"]
    assert (alone.frame["image"] == "").all()


def test_a_section_whose_pictures_are_all_missing(tmp_path):
    documents = {"1": OPENI["1"], "3": xml("CXR3", {"IMPRESSION": "Clear."}, ["normal"], ["CXR3_a"])}
    folder = write_openi(tmp_path / "openi", documents)
    Image.new("L", (8, 8)).save(folder / "CXR3_a.png")
    with pytest.raises(FileNotFoundError, match=r"no report with the section 'findings' has a pic.*images to false"):
        layouts.read("openi", folder)
    with pytest.raises(ValueError, match=r"none of the 1 reports has the section 'findings'; set layout_options.sec"):
        layouts.read("openi", write_openi(tmp_path / "other", {"3": documents["3"]}))


def test_repeated_reports_pictures_and_odd_tags(tmp_path):
    text = {"FINDINGS": "Clear."}
    documents = {
        "1": xml("CXR1", text, ["normal", "Cardiomegaly"], ["CXR1_a"]),
        "2": xml("CXR1", {"FINDINGS": "Another."}, ["normal"], []),
        "3": xml("CXR3", text, ["Technical Quality of Image Unsatisfactory "], ["CXR1_a", "CXR3_a"]),
    }
    folder = write_openi(tmp_path / "openi", documents)
    for name in ("CXR1_a", "CXR3_a"):
        Image.new("L", (8, 8)).save(folder / f"{name}.png")
    manifest = layouts.read("openi", folder)
    assert manifest.frame["image_id"].tolist() == ["CXR1_a", "CXR3_a"]
    assert ledger(manifest.drops) == {
        "a report of this uId was read already": ("error", ("ecgen-radiology/2.xml",)),
        "a picture that an earlier report names too": ("error", ("CXR1_a",)),
    }
    notes = ledger(manifest.notes)
    assert notes["tagged 'normal' beside other tags: No Finding is not 1"] == ("warning", ("CXR1",))
    assert notes["tagged as of unsatisfactory technical quality, kept"] == ("note", ("CXR3",))
    assert manifest.frame.set_index("study_id").at["CXR1", "No Finding"] == 0


def test_broken_archives_are_named(tmp_path):
    path = tmp_path / "NLMCXR_reports.tgz"
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"NLMCXR_reports.tgz is not a readable tar archive"):
        layouts.read("openi", path)
    whole = (write_openi(tmp_path / "whole") / path.name).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"NLMCXR_reports.tgz is not a readable tar archive"):
        layouts.read("openi", path)
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(FileNotFoundError, match=r"NLMCXR_reports.tgz holds no \*.xml; expected ecgen-radiology"):
        layouts.read("openi", path)
    (tmp_path / "empty" / "ecgen-radiology").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no reports"):
        layouts.read("openi", tmp_path / "empty")
    (tmp_path / "empty" / "ecgen-radiology" / "9.xml").write_text("<eCitation>")
    with pytest.raises(ValueError, match=r"9.xml is not readable XML"):
        layouts.read("openi", tmp_path / "empty")
    (tmp_path / "empty" / "ecgen-radiology" / "9.xml").write_text("<eCitation><uId/></eCitation>")
    with pytest.raises(ValueError, match=r"9.xml has no <uId id=...>"):
        layouts.read("openi", tmp_path / "empty")


def test_roots_may_be_urls(tmp_path):
    folder = write_openi(tmp_path / "openi")
    Image.new("L", (8, 8)).save(folder / "CXR3_a.png")
    for root in (folder, write_kaggle(tmp_path / "k")):
        here, there = layouts.read("openi", root), layouts.read("openi", f"file://{root}")
        assert here.frame["image_id"].tolist() == there.frame["image_id"].tolist()
        assert [i.removeprefix("file://") for i in there.frame["image"]] == here.frame["image"].tolist()
        assert openi.recognise(root)


def test_what_is_recognised(tmp_path):
    assert openi.recognise(write_openi(tmp_path / "a"))
    assert openi.recognise(tmp_path / "a" / "NLMCXR_reports.tgz")
    assert not openi.recognise(tmp_path)
    (tmp_path / "x.csv").write_text("a\n1\n")
    assert not openi.recognise(tmp_path / "x.csv")


def test_tags_of_a_report():
    labels = tag_labels(("cardiomegaly/mild", "pleural effusion/left/small"))
    assert {f for f, v in labels.items() if v == 1} == {"Cardiomegaly", "Pleural Effusion"}
    assert {f for f, v in labels.items() if v != v} == {"Enlarged Cardiomediastinum"}


@pytest.mark.real
def test_real_openi(real_data):
    archive = real_data / "openi" / "NLMCXR_reports.tgz"
    findings = layouts.read("openi", archive)
    # 3,955 reports: 3,425 have findings, 502 only an impression, 28 neither.
    assert len(findings) == 3425
    assert {d.reason: d.count for d in findings.drops} == {
        "no section 'findings'": 502,
        "neither findings nor an impression": 28,
    }
    first = layouts.read("openi", real_data / "openi", section="first")
    assert (len(first), [d.count for d in first.drops]) == (3927, [28])
    assert (first.frame["No Finding"] == 1).sum() > 1300
    assert len(layouts.read("openi", archive, without_report="keep")) == 3955


def test_the_archive_is_a_gzipped_tar_of_its_folder(tmp_path):
    disk.write("openi", tmp_path / "a", studies=2, seed=0, size=32)
    data = gzip.decompress((tmp_path / "a" / "NLMCXR_reports.tgz").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["ecgen-radiology", "ecgen-radiology/1.xml", "ecgen-radiology/2.xml"]
