"""What is asked for a study: from its report, its labels, or what can be drawn of its report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.reports.keywords import Keywords, parse
from datamodules.reports.labels import FINDINGS, VIEWS
from datamodules.reports.vocabulary import Vocabulary, mine
from lightning_modules.networks.requests import drawable_keywords, finished, studies_of, study_of, write_prompts
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
    assert drawable_keywords("Possible pneumonia.", vocabulary) == Keywords()
    # What compares or advises is a fault of what is written, even if every keyword is there.
    text = "Small left pleural effusion, unchanged. The heart is normal."
    plain = Request(Keywords(("heart",), ("small left pleural effusion",)), view="AP")
    assert read_back(text, plain).verified
    strict = read_back(text, Request(plain.keywords, view="AP", drawable=True))
    assert strict.check.verified
    assert strict.faults == ("comparison: unchanged",)
    assert not strict.verified


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
        name: finished({"study_id": name}, read_back(text, Request(keywords)))
        for name, text in (("b", "The heart is normal."), ("a", "Lungs."), ("c", ""))
    }
    write_prompts(tmp_path / "runs" / "prompts.jsonl", rows, unasked={"z", "y"})
    lines = [json.loads(line) for line in (tmp_path / "runs/prompts.jsonl").read_text().splitlines()]
    assert [line["study_id"] for line in lines] == ["a", "b"]
    assert lines[0]["verified"] is False
    assert lines[0]["missing"] == ["heart"]
    assert lines[1] == {
        "study_id": "b", "report": "The heart is normal.", "verified": True, "attempts": 1, "guided": False,
        "copied": 0,
        "missing": [], "contradicting": [], "unasked": [], "faults": [],
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "wrote 2 reports" in out
    assert "33.3% verified; 1 left out because nothing was written (first: c)" in out
    assert "2 because nothing was known to ask for (first: y)" in out
    assert not list(tmp_path.rglob("*.tmp"))


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
