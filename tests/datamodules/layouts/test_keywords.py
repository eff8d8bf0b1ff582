"""Keyword sets as a data set: what a row holds, what is refused, what takes a file for one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import layouts
from datamodules.__main__ import main
from datamodules.cxr import CXRDataModule
from datamodules.doctor.recognise import recognise
from datamodules.reports.counterfactuals import Counterfactual
from datamodules.reports.drawing import Study
from datamodules.reports.keyword_rows import keywords_of_prompt, row, write_rows
from datamodules.reports.keywords import Keywords, parse
from datamodules.reports.labels import FINDINGS

KEYWORDS = Keywords(("heart", "left lung base"), ("small left pleural effusion", "possible pneumonia"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    changed = Counterfactual(Study((parse("mass"),), ("",), ()), "removed", "possible pneumonia", None)
    common = {"seed": 3, "vocabulary": "abc"}
    rows = [
        row(KEYWORDS, index=7, view="LATERAL", **common),
        row(changed.study.keywords, index=7, view="LATERAL", counterfactual=changed, **common),
        row(Keywords(), index=8, **common),
    ]
    write_rows(rows, tmp_path / "keywords.jsonl")
    return tmp_path / "keywords.jsonl"


def test_a_set_is_a_study_whose_report_is_what_is_asked(file: Path) -> None:
    manifest = layouts.read("keywords", file)
    frame = manifest.frame
    assert frame["study_id"].tolist() == ["keywords-3-000007", "keywords-3-000007-removed", "keywords-3-000008"]
    assert frame["patient_id"].tolist() == ["keywords-3-000007", "keywords-3-000007", "keywords-3-000008"]
    assert frame["report"].tolist() == [
        "small left pleural effusion ; possible pneumonia ; heart ; left lung base", "mass", "no acute findings",
    ]  # fmt: skip
    assert [keywords_of_prompt(text) for text in frame["report"]][::2] == [KEYWORDS, Keywords()]
    assert set(frame["report_source"]) == {"keywords"}
    assert frame["view"].tolist() == ["LATERAL", "LATERAL", "unknown"]
    assert set(frame["split"]) == {"test"}
    labels = dict(zip(FINDINGS, manifest.labels()[0], strict=True))
    assert (labels["Pleural Effusion"], labels["Pneumonia"], labels["Edema"]) == (1, -1, 0)
    assert np.isnan(labels["Lung Opacity"])
    # Served as any other text, also from the folder.
    data = CXRDataModule(layout="keywords", root=str(file.parent), text_only=True, cache_dir=str(file.parent / "cache"))
    (batch,) = data.predict_dataloader()
    assert batch["report"] == frame["report"].tolist()
    assert batch["patient_id"] == frame["patient_id"].tolist()


def test_labels_and_pairs_that_nothing_bears_out_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    labels: dict[str, int | None] = dict.fromkeys(FINDINGS, 0) | {"Lung Lesion": 1, "Lung Opacity": 1, "Fracture": None}
    first = {"study_id": "a", "anatomy": [], "pathology": ["left nodule"]}

    def write(**second: object) -> None:
        path.write_text(json.dumps(first) + "\n\n" + json.dumps(first | {"study_id": "b"} | second) + "\n")

    # What the keywords leave open may be known, and what they settle may be left open.
    write(labels=labels, pair={"study_id": "a"})
    frame = layouts.read("keywords", path).frame
    assert frame["Lung Opacity"].iat[1] == 1
    assert frame["patient_id"].tolist() == ["a", "a"]
    write(labels=labels | {"Edema": 1})
    with pytest.raises(ValueError, match=r"mine.jsonl, line 3: the label Edema is 1, expected 0 by the pathology"):
        layouts.read("keywords", path)
    write(pair={"study_id": "z"})
    with pytest.raises(ValueError, match=r"mine.jsonl, line 3: pair names the study 'z', expected one of the 2 of"):
        layouts.read("keywords", path)


def test_the_doctor_finds_nothing_wrong_in_drawn_sets(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(file)]) == 0
    said = capsys.readouterr().out
    assert "nothing is wrong" in said
    assert "next: python main.py predict -c configs/base.yaml -c configs/prompter.yaml -c configs/exp" in said
    assert f"prompter-keywords.yaml --data.root={file} --ckpt_path=<prompter>" in said
    assert "vocabulary" not in said


def test_a_keyword_set_without_a_text_is_refused(tmp_path: Path) -> None:
    sets = tmp_path / "keywords.jsonl"
    sets.write_text("".join(json.dumps({"study_id": s, "anatomy": [], "pathology": []}) + "\n" for s in "abc"))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"study_id": "b", "report": "No acute findings."}\n')
    given: dict[str, Any] = {
        "layout": "keywords",
        "text_only": True,
        "cache_dir": str(tmp_path / "cache"),
        "prompts": str(prompts),
    }
    with pytest.raises(ValueError, match=r"prompts.jsonl: 2 of 3 keyword sets have no text in it \(first: a\)"):
        _ = CXRDataModule(root=str(sets), **given).manifest
    prompts.write_text("".join(json.dumps({"study_id": s, "report": f"Text {s}."}) + "\n" for s in "cba"))
    data = CXRDataModule(root=str(sets), **given)
    assert data.manifest.frame["report"].tolist() == ["Text a.", "Text b.", "Text c."]


def test_a_part_that_is_no_keyword_is_named() -> None:
    with pytest.raises(ValueError, match=r"keyword 'The heart is normal\.' is not"):
        keywords_of_prompt("mass ; The heart is normal.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keywords.jsonl: no keyword set in it; draw some with `python -m datamodules keywords`"),
        ('{"study_id": "a", "anatomy": [], "pathology": ["hat"]}', "keywords.jsonl, line 1: keyword 'hat' is not"),
        ('{"study_id": "a", "anatomy": [], "pathology": [], "pair": "b"}', "line 1: pair is 'b', expected null or "),
        ('{"study_id": "a\\tb", "anatomy": [], "pathology": []}', "keywords.jsonl: keywords: image 'a"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keywords.jsonl").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        layouts.read("keywords", tmp_path / "keywords.jsonl")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.jsonl does not exist; it should hold a JSON Lines file"):
        layouts.read("keywords", tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match=r"keywords.jsonl does not exist; draw it with"):
        layouts.read("keywords", tmp_path)


def test_the_file_is_recognised_and_prompts_are_not(file: Path) -> None:
    assert recognise(file) == ["keywords"]
    prompts = file.parent / "prompts.jsonl"
    for text in (json.dumps({"study_id": "a", "report": "x"}), "no JSON", "", "[1]"):
        prompts.write_text(text)
        assert recognise(prompts) == []
