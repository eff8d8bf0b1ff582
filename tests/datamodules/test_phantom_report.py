"""What the phantom says: labels that its text states, words that are true to the findings, and its manifest."""

import dataclasses
import re

import numpy as np
import pytest

from datamodules.layouts import read as read_layout
from datamodules.layouts.phantom import make_reference, parse_reference, read, split_of
from datamodules.phantom.phrases import CERTAIN, DEVICES, HEDGED
from datamodules.phantom.report import describe, report, study_labels
from datamodules.phantom.study import Finding, study
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import labels_of
from datamodules.reports.sections import split_sections

STUDIES = [study(11, i) for i in range(400)]


def test_the_labels_are_those_that_an_extractor_reads_from_the_text() -> None:
    truth = np.stack([study_labels(s) for s in STUDIES])
    read_back = np.nan_to_num(np.stack([labels_of(split_sections(report(s)).findings) for s in STUDIES]))
    agreement = (truth == read_back).mean(axis=0)
    assert (agreement > 0.97).all(), dict(zip(FINDINGS, agreement.tolist(), strict=True))


def test_labels_of_hand_made_studies() -> None:
    base = next(s for s in STUDIES if not s.findings)
    tube = Finding("Support Devices", "chest tube", "left", None, "", 0.5, True)
    fluid = Finding("Pleural Effusion", "pleural effusion", "left", "base", "small", 0.2, False)

    def stated(*findings: Finding) -> dict[str, float]:
        labels = study_labels(dataclasses.replace(base, findings=findings))
        return {name: float(value) for name, value in zip(FINDINGS, labels, strict=True) if value}

    assert stated() == {"No Finding": 1}
    assert stated(tube) == {"No Finding": 1, "Support Devices": 1}
    assert stated(fluid) == {"Pleural Effusion": -1}
    assert stated(tube, dataclasses.replace(fluid, certain=True)) == {"Support Devices": 1, "Pleural Effusion": 1}


def test_findings_hold_25_to_70_words_and_no_open_slot() -> None:
    for one in STUDIES:
        text = report(one)
        assert "{" not in text
        assert "  " not in text
        assert 25 <= len(split_sections(text).findings.split()) <= 70
        assert re.search(r"^IMPRESSION: \S", text, flags=re.MULTILINE)


def test_a_report_never_names_the_wrong_side() -> None:
    checked = 0
    for one in STUDIES:
        sides = {f.side for f in one.findings if f.side}
        if len(sides) != 1 or "bilateral" in sides:
            continue
        wrong = {"left": "right", "right": "left"}[sides.pop()]
        text = split_sections(report(one)).findings
        text = text.replace("left hemidiaphragm", "").lower()  # the stomach, where a tube ends, is always on the left
        assert not re.search(rf"\b{wrong}\b", text), text
        checked += 1
    assert checked > 60


def test_each_finding_has_six_ways_of_being_said_and_hedged() -> None:
    rng = np.random.default_rng(0)
    for key in CERTAIN:
        certain = len(set(CERTAIN[key]))
        assert certain >= 6, key
        if key != "mass":  # a mass is never so small as to be doubted
            assert len(set(HEDGED[key])) >= 6, key
    assert all(len(set(options)) >= 6 for options in DEVICES.values())
    fluid = Finding("Pleural Effusion", "pleural effusion", "bilateral", "base", "large", 0.9, True)
    said = {describe(rng, fluid, study=STUDIES[0]) for _ in range(200)}
    assert len(said) >= 12
    for sentence in said:
        assert re.search(r"\b(bilateral|both)\b", sentence, re.IGNORECASE), sentence
        assert not re.search(r"\b(left|right)\b|\ba (large|bilateral|sizeable) .*effusions", sentence), sentence


def test_every_report_of_many_is_different() -> None:
    texts = [split_sections(report(s)).findings for s in STUDIES]
    assert len(set(texts)) == len(texts)


def test_the_manifest_of_the_phantom() -> None:
    manifest = read(studies=120, seed=3)
    frame = manifest.frame
    assert len(manifest) == 120
    assert manifest.source == "phantom"
    row = frame.iloc[12]
    assert (row["image"], row["image_id"], row["patient_id"]) == (
        "phantom:3:12",
        "phantom-3-000012",
        "phantom-3-p000006",
    )
    assert row["report"] == split_sections(report(study(3, 12))).findings
    assert set(frame["report_source"]) == {"findings"}
    np.testing.assert_array_equal(manifest.labels()[12], study_labels(study(3, 12)))
    assert {box.finding for i in range(120) for box in manifest.boxes(i)} <= set(FINDINGS[1:])
    assert read(studies=120, seed=3).digest() == manifest.digest()
    assert read_layout("phantom", None, studies=120, seed=3).digest() == manifest.digest()
    assert read(studies=4, seed=3, section="impression").frame["report_source"].unique().tolist() == ["impression"]


def test_a_patients_split_does_not_depend_on_how_many_studies_there_are() -> None:
    few, many = read(studies=20).frame, read(studies=60).frame
    assert few["split"].tolist() == many["split"].tolist()[:20]
    splits = [split_of(f"phantom-0-p{k:06d}") for k in range(4000)]
    assert splits.count("train") / 4000 == pytest.approx(0.8, abs=0.03)
    assert splits.count("test") / 4000 == pytest.approx(0.1, abs=0.02)


def test_references() -> None:
    assert parse_reference(make_reference(4, index=17)) == (4, 17)
    for wrong in ("phantom:1", "phantom:1:-2", "a/b.png", "phantom:1:2:3"):
        with pytest.raises(ValueError, match="expected phantom:<seed>:<index>"):
            parse_reference(wrong)


def test_no_studies_is_refused() -> None:
    with pytest.raises(ValueError, match="studies >= 1, but got 0"):
        read(studies=0)
