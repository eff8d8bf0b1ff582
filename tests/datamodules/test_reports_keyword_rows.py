"""keywords.jsonl: what a line holds, the round trip, what is refused."""

import json
from pathlib import Path

import pytest

from datamodules.reports.counterfactuals import Counterfactual
from datamodules.reports.drawing import Study
from datamodules.reports.keyword_rows import KEYS, SCHEMA, labels_of_keywords, read_rows, row, write_rows
from datamodules.reports.keywords import Keywords, parse
from datamodules.reports.labels import FINDINGS

KEYWORDS = Keywords(("heart",), ("small left pleural effusion", "possible left pneumonia", "left pacemaker"))


def test_labels_of_a_complete_set() -> None:
    labels = labels_of_keywords(KEYWORDS)
    assert tuple(labels) == FINDINGS
    assert {k: v for k, v in labels.items() if v} == {"Pleural Effusion": 1, "Pneumonia": -1, "Support Devices": 1}
    assert labels_of_keywords(Keywords())["No Finding"] == 1
    assert labels_of_keywords(Keywords((), ("left pacemaker",)))["No Finding"] == 1
    assert labels["Consolidation"] is labels["Lung Opacity"] is None
    assert labels["Edema"] == 0
    both = labels_of_keywords(Keywords((), ("possible opacity", "atelectasis")))
    assert (both["Lung Opacity"], both["Atelectasis"], both["Consolidation"]) == (-1, 1, 0)
    # A hernia has no label of its own, and is a finding.
    assert set(labels_of_keywords(Keywords((), ("hernia",))).values()) == {0}
    assert labels_of_keywords(Keywords((), ("mass", "possible nodule")))["Lung Lesion"] == 1


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keywords.jsonl"
    changed = Counterfactual(Study((parse("mass"),), ("",), ()), "added", None, "mass")
    common = {"seed": 3, "index": 7, "vocabulary": "abc", "view": "PA"}
    rows = [row(KEYWORDS, **common), row(changed.study.keywords, counterfactual=changed, **common)]
    assert write_rows(rows, path) == 2
    assert read_rows(path) == rows
    assert rows[0].keys() == {"schema", *KEYS}
    assert (rows[0]["schema"], rows[0]["study_id"], rows[0]["pair"]) == (SCHEMA, "keywords-3-000007", None)
    assert rows[1]["study_id"] == "keywords-3-000007-added"
    assert rows[1]["pair"] == {"study_id": "keywords-3-000007", "change": "added", "before": None, "after": "mass"}


def test_a_line_of_a_user_needs_little(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"study_id": "a", "anatomy": [], "pathology": ["left nodule"]}\n\n')
    (only,) = read_rows(path)
    assert only["labels"]["Lung Lesion"] == 1
    assert (only["view"], only["seed"], only["pair"]) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "line 2: found schema 2, expected 1"),
        ({"study_id": 5}, "line 2: study_id is 5, expected a name"),
        ({"study_id": "a"}, "line 2: the study 'a' stands there twice"),
        ({"pathology": "left nodule"}, "line 2: pathology is 'left nodule', expected a list"),
        ({"pathology": ["left cat"]}, "line 2: keyword 'left cat' is not"),
        ({"pathology": ["nodule", "left nodule"]}, "line 2: the keywords 'nodule' and 'left nodule' contradict"),
        ({"pathology": ["heart"]}, r"line 2: \['heart'\] stand under pathology and are none"),
        ({"view": "side"}, "line 2: view is 'side'"),
        ({"labels": {"Edema": 1}}, r"line 2: labels is \{'Edema': 1\}, expected 1, 0, -1 or null for each of"),
    ],
)
def test_faults_name_file_and_line(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    first = {"study_id": "a", "anatomy": [], "pathology": []}
    path.write_text(json.dumps(first) + "\n" + json.dumps(first | {"study_id": "b"} | change) + "\n")
    with pytest.raises(ValueError, match=message) as error:
        read_rows(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m datamodules keywords"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").write_text("keywords\n")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 1 is not JSON"):
        read_rows(tmp_path / "x.jsonl")
