"""What is asked for a study: from its report, its labels, or what can be drawn of its report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.reports.keywords import Keywords, parse, verify
from datamodules.reports.labels import FINDINGS, VIEWS
from datamodules.reports.vocabulary import Vocabulary, mine
from lightning_modules.networks.requests import (
    drawable_keywords,
    finished,
    often_missing,
    studies_of,
    study_of,
    unlearnt_words,
    unlearnt_words_text,
    write_prompts,
)
from lightning_modules.networks.written import Request, read_back

REPORTS = [
    "Small left pleural effusion. The heart is normal.",
    "Mild cardiomegaly. The lungs are clear.",
    "Possible pneumonia in the right lower lobe.",
    "Possible consolidation. No pneumothorax.",
]
RAW = (
    "Comparison is made with the prior film. Small left pleural effusion, unchanged since yesterday. "
    "Opacity in the right lower lobe may represent pneumonia. The heart is normal. Recommend CT of the chest."
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return mine([*REPORTS, RAW], min_count=1)


def batch(report: str, view: str = "AP", **labels: float) -> dict:
    row = torch.full((1, 14), float("nan"))
    for name, value in labels.items():
        row[0, FINDINGS.index(name)] = value
    return {"report": [report], "labels": row, "view": torch.tensor([VIEWS.index(view)]), "study_id": ["s1"]}


def asked(vocabulary: Vocabulary, mode: str, given: dict) -> tuple[Request, dict] | None:
    found = study_of(given, 0, mode=mode, vocabulary=vocabulary, seed=3)
    return None if found is None else (found.request, found.row)


def test_keywords_come_from_the_report(vocabulary: Vocabulary) -> None:
    for mode in ("auto", "keywords"):
        request, row = asked(vocabulary, mode, batch(REPORTS[0], Cardiomegaly=1))
        assert request == Request(Keywords(("heart",), ("small left pleural effusion",)), view="AP", source=REPORTS[0])
        assert (row["keywords_from"], row["view"], row["seed"]) == ("report", "AP", 3)


def test_labels_become_keywords_whatever_the_report_says(vocabulary: Vocabulary) -> None:
    request, row = asked(vocabulary, "labels", batch(REPORTS[0], Cardiomegaly=1, Pneumonia=-1, Edema=0))
    words = {parse(text).word: parse(text).possible for text in request.keywords.pathology}
    assert words == {"cardiomegaly": False, "pneumonia": True}
    assert row["keywords_from"] == "labels"
    assert request.source == ""
    assert asked(vocabulary, "auto", batch("", Cardiomegaly=1))[1]["keywords_from"] == "labels"


def test_a_study_of_which_nothing_is_known_is_left_out(vocabulary: Vocabulary) -> None:
    assert asked(vocabulary, "labels", batch(REPORTS[0])) is None
    assert asked(vocabulary, "auto", batch("")) is None
    assert asked(vocabulary, "keywords", batch("", Cardiomegaly=1)) is None
    assert asked(vocabulary, "rewrite", batch("", Cardiomegaly=1)) is None


def test_a_rewritten_report_keeps_what_is_seen_and_where(vocabulary: Vocabulary) -> None:
    request, row = asked(vocabulary, "rewrite", batch(RAW))
    assert row["keywords_from"] == "rewrite"
    assert request.drawable
    assert request.source == RAW
    assert "small left pleural effusion" in request.keywords.pathology
    assert {"right lower lobe", "heart"} <= set(request.keywords.anatomy)
    assert not any(parse(text).possible for text in request.keywords.pathology)
    assert drawable_keywords("Possible pneumonia.", vocabulary) == (Keywords(), ())
    assert row["dropped"] == []
    # What compares or advises is a fault of what is written, even if every keyword is there.
    text = "Small left pleural effusion, unchanged. The heart is normal."
    plain = Request(Keywords(("heart",), ("small left pleural effusion",)), view="AP")
    assert read_back(text, plain).verified
    strict = read_back(text, Request(plain.keywords, view="AP", drawable=True))
    assert strict.check.verified
    assert strict.faults == ("comparison: unchanged",)
    assert not strict.verified


def test_what_is_seen_and_not_asked_for_is_listed(vocabulary: Vocabulary) -> None:
    report = "Small left pleural effusion. Hiatal hernia. Possible mass. The scapula and the heart are normal."
    assert not {"hernia", "scapula"} & vocabulary.words
    request, row = asked(vocabulary, "rewrite", batch(report))
    assert request.keywords == Keywords(("heart",), ("small left pleural effusion",))
    assert row["dropped"] == ["hernia", "scapula"]
    assert "dropped" not in asked(vocabulary, "keywords", batch(report))[1]


@pytest.mark.parametrize(
    ("report", "pathology", "dropped"),
    [
        ("No pleural effusion. The heart is normal.", (), ()),
        # The effusion is on one side, and not on the other.
        ("Small left pleural effusion. No right pleural effusion.", ("small left pleural effusion",), ()),
        # Two sentences that cannot both be true of one picture.
        ("Small left pleural effusion. No pleural effusion.", (), ("small left pleural effusion",)),
        (
            "Left pleural effusion. Right pleural effusion. No left pleural effusion.",
            ("right pleural effusion",),
            ("left pleural effusion",),
        ),
    ],
)
def test_nothing_is_asked_for_that_the_report_denies(
    report: str, pathology: tuple[str, ...], dropped: tuple[str, ...], vocabulary: Vocabulary
) -> None:
    found = drawable_keywords(report, vocabulary)
    assert (found.keywords.pathology, found.dropped) == (pathology, dropped)
    assert verify(report, found.keywords).contradicting == ()


def test_a_text_of_another_view_is_not_verified() -> None:
    keywords = Keywords(("heart",), ())
    portable = "Portable chest radiograph. The heart is normal."
    assert read_back(portable, Request(keywords, view="AP")).verified
    assert read_back(portable, Request(keywords, view="PA")).faults == ("view: Portable",)
    assert read_back("PA and lateral views. The heart is normal.", Request(keywords, view="AP")).faults


def test_rows_are_written_sorted_and_what_is_missing_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keywords = Keywords(("heart",), ())
    rows = {
        name: finished({"study_id": name, "keywords": keywords.as_dict()}, read_back(text, Request(keywords)))
        for name, text in (("b", "The heart is normal."), ("a", "Lungs."), ("c", ""))
    }
    write_prompts(tmp_path / "runs" / "prompts.jsonl", rows, unasked={"z", "y"})
    lines = [json.loads(line) for line in (tmp_path / "runs/prompts.jsonl").read_text().splitlines()]
    assert [line["study_id"] for line in lines] == ["a", "b"]
    assert lines[0]["verified"] is False
    assert lines[0]["missing"] == ["heart"]
    assert lines[1] == {
        "study_id": "b", "keywords": {"anatomy": ["heart"], "pathology": []},
        "report": "The heart is normal.", "verified": True, "attempts": 1, "guided": False,
        "copied": 0,
        "missing": [], "contradicting": [], "unasked": [], "faults": [],
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "wrote 2 reports" in out
    assert "33.3% verified (asked for and most often missing: heart 2 of 3); 1 left out because " in out
    assert "nothing was written (first: c)" in out
    assert "2 because nothing was known to ask for (first: y)" in out
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_words_that_were_missing_most_often_are_named_with_counts() -> None:
    def row(asked: list[str], missing: list[str]) -> dict:
        return {"keywords": {"anatomy": ["heart"], "pathology": asked}, "missing": missing}

    rows = [
        row(["small left pleural effusion", "hernia"], ["small left pleural effusion"]),
        row(["large right pleural effusion", "right pleural effusion"], ["large right pleural effusion"]),
        row(
            ["hernia", "mass", "nodule", "pneumonia", "fracture"], ["hernia", "mass", "nodule", "pneumonia", "fracture"]
        ),
    ]
    assert often_missing(rows) == [
        "pleural effusion 2 of 3", "fracture 1 of 1", "hernia 1 of 2", "mass 1 of 1", "nodule 1 of 1",
    ]  # fmt: skip
    assert often_missing([row(["hernia"], [])]) == []


def test_words_that_were_not_learnt_are_counted_once_a_set(vocabulary: Vocabulary) -> None:
    rows = [
        {"keywords": {"anatomy": ["scapula", "heart"], "pathology": ["left hernia", "right hernia"]}},
        {"keywords": {"anatomy": ["scapula"], "pathology": ["small left pleural effusion"]}},
    ]
    words = unlearnt_words(rows, vocabulary)
    assert list(words.items()) == [("scapula", 2), ("hernia", 1)]
    text = unlearnt_words_text(words, vocabulary, of=2)
    assert "since fewer than 1 of its training reports say them: scapula (2), hernia (1); " in text
    assert unlearnt_words(rows[1:], mine([*REPORTS, "The scapula is intact."], min_count=1)) == {}


def test_the_same_labels_draw_the_same_words(vocabulary: Vocabulary) -> None:
    given = batch("", **{"Pleural Effusion": 1, "Cardiomegaly": 1})
    assert asked(vocabulary, "labels", given)[0] == asked(vocabulary, "labels", given)[0]
    assert np.isnan(given["labels"].numpy()).sum() == 12


def test_words_drawn_for_labels_are_what_the_view_shows() -> None:
    sides = {}
    vocabulary = mine(["Small left pleural effusion. Right pneumothorax. The sternum is intact."] * 9, min_count=1)
    for view in ("PA", "LATERAL"):
        given = batch("", view, **{"Pleural Effusion": 1, "Pneumothorax": 1})
        sides[view] = {parse(text).side for text in asked(vocabulary, "labels", given)[0].keywords.pathology}
        words = asked(vocabulary, "labels", given)[0].keywords.anatomy
        assert ("sternum" in words) == (view == "LATERAL")
    assert sides == {"PA": {"left", "right"}, "LATERAL": {None}}


def test_a_device_is_asked_for_without_the_severity_that_a_report_gives_it() -> None:
    report = "Large right chest tube. Small left pleural effusion."
    vocabulary = mine([report], min_count=1)
    assert set(vocabulary.entries["chest tube"].forms) == {"right chest tube"}
    for mode in ("keywords", "rewrite"):
        keywords = asked(vocabulary, mode, batch(report))[0].keywords
        assert set(keywords.pathology) == {"right chest tube", "small left pleural effusion"}


def test_a_keyword_set_is_asked_as_it_is(vocabulary: Vocabulary) -> None:
    keywords = Keywords(("scapula",), ("large right chest tube", "possible pneumonia"))
    assert not {"scapula", "chest tube"} & vocabulary.words
    given = batch(keywords.prompt(), Pneumonia=float("nan")) | {"patient_id": ["s0"]}
    request, row = asked(vocabulary, "asked", given)
    stated = {"Pneumonia": -1, "Support Devices": 1, "Consolidation": None, "Lung Opacity": None}
    assert request == Request(keywords, view="AP")
    assert row == {
        "study_id": "s1",
        "keywords": {"anatomy": ["scapula"], "pathology": ["large right chest tube", "possible pneumonia"]},
        "keywords_from": "asked",
        "labels": [stated.get(finding, 0) for finding in FINDINGS],
        "view": "AP",
        "seed": 3,
        "pair": "s0",
    }
    assert asked(vocabulary, "asked", given | {"patient_id": ["s1"]})[1]["pair"] is None
    for patient in ("s0", "s1"):  # a counterfactual is drawn as its study is
        study = study_of(given | {"patient_id": [patient]}, 0, mode="asked", vocabulary=vocabulary, seed=3)
        assert study is not None
        assert study.key == patient
    with pytest.raises(ValueError, match=r"study s1: mode 'asked' writes from keyword sets .* has 'Small left pleural"):
        asked(vocabulary, "asked", batch(REPORTS[0]) | {"patient_id": ["s1"]})


def test_each_new_study_of_a_batch_is_asked_once(vocabulary: Vocabulary) -> None:
    given = {
        "report": [REPORTS[0], REPORTS[1], REPORTS[0], ""],
        "labels": torch.full((4, 14), float("nan")),
        "view": torch.zeros(4, dtype=torch.int64),
        "study_id": ["a", "b", "a", "c"],
    }
    found = studies_of(given, done={"b"}, mode="auto", vocabulary=vocabulary, seed=3)
    assert list(found) == ["a", "c"]
    assert found["a"] == study_of(given, 0, mode="auto", vocabulary=vocabulary, seed=3)
    assert found["c"] is None
