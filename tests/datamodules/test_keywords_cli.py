"""`python -m datamodules keywords`: from a vocabulary to keywords.jsonl."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from datamodules.__main__ import main
from datamodules.reports.keyword_rows import read_rows
from datamodules.reports.keywords import parse
from datamodules.reports.vocabulary import mine

REPORTS = [
    "Small left pleural effusion. The heart is normal.",
    "Small right effusion. Mild cardiomegaly.",
    "Lungs are clear.",
    "Possible right pneumonia in the right lower lobe. Large left pleural effusion.",
    "Left pneumonia in the left lower lobe.",
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("v") / "vocabulary.json"
    mine(REPORTS, min_count=1).save(path)
    return path


def test_shares_are_reached_and_said(vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "keywords.jsonl"
    targets = ["--uniform", "Pneumonia, Cardiomegaly", "--normal", "0.2", "--sides", '{"left": 0.75}']
    command = ["keywords", "--vocabulary", str(vocabulary), "--n", "500", "--seed", "1"]
    assert main([*command, *targets, "--certain", "--out", str(out)]) == 0
    rows = read_rows(out)
    counts = Counter(name for row in rows for name, value in row["labels"].items() if value)
    assert (len(rows), counts["Pneumonia"], counts["Cardiomegaly"], counts["No Finding"]) == (500, 200, 200, 100)
    assert all(row["vocabulary"] == hashlib.sha256(vocabulary.read_bytes()).hexdigest() for row in rows)
    assert not [text for row in rows for text in row["pathology"] if parse(text).possible]
    said = capsys.readouterr().out
    assert "Pneumonia: asked 40.0%, drawn 40.0%" in said
    assert "No Finding: asked 20.0%, drawn 20.0%" in said
    assert "left: asked 75.0%, drawn 7" in said
    assert "variety: as of " in said
    assert f"configs/experiment/prompter-keywords.yaml --data.root={out} --ckpt_path=<prompter>" in said
    again = tmp_path / "again.jsonl"
    assert main([*command, *targets, "--certain", "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_counterfactuals_follow_their_study(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs.jsonl"
    command = ["keywords", "--vocabulary", str(vocabulary), "--n", "40", "--out", str(out)]
    assert main([*command, "--counterfactual", "removed", "severity", "--view", "PA"]) == 0
    rows = read_rows(out)
    drawn = [row for row in rows if row["pair"] is None]
    assert len(drawn) == 40
    by_id = {row["study_id"]: row for row in rows}
    changes = Counter(row["pair"]["change"] for row in rows if row["pair"])
    for row in rows:
        assert row["view"] == "PA"
        if row["pair"]:
            source = by_id[row["pair"]["study_id"]]
            gone = set(source["pathology"]) - set(row["pathology"])
            assert gone == {row["pair"]["before"]}
    said = capsys.readouterr().out
    for change in ("removed", "severity"):
        count = changes[change]
        assert count
        assert f"{change}: {count} counterfactuals; {40 - count} sets cannot be changed so" in said


def test_what_is_asked_is_in_each_set(vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "asked.jsonl"
    command = ["keywords", "--vocabulary", str(vocabulary), "--n", "30", "--out", str(out)]
    assert main([*command, "--ask", "large left effusion; no cardiomegaly; left pneumonia; left lower lobe"]) == 0
    rows = read_rows(out)
    assert {tuple(row["pathology"]) for row in rows} == {("large left pleural effusion", "left pneumonia")}
    assert all(row["anatomy"][0] == "left lower lobe" for row in rows)
    # Clear lungs would deny the pneumonia.
    assert {tuple(row["anatomy"][1:]) for row in rows} == {(), ("heart",)}
    assert "variety" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ask", "no effusion; large effusion"], "the keywords 'no effusion' and 'large effusion' contradict"),
        (["--ask", " ; "], "--ask is ' ; ' and states nothing; expected keywords"),
        (["--ask", "small green cat"], "the keyword 'small green cat' holds no anatomy or pathology"),
        (["--ask", "left nodule"], "the vocabulary does not hold 'nodule' (no report mentions it)"),
        (["--ask", "left pneumonia", "--view", "LATERAL"], "a LATERAL view does not show 'left pneumonia'"),
        (["--ask", "left pneumonia", "--normal", "0.5"], "--ask says what is stated; give it without shares"),
        (["--n", "0"], "--n is 0; expected 1 or more"),
        (["--share", "0.2"], "--share goes with --uniform"),
        (["--uniform", "Edema"], "'Edema': no training report states it, so it cannot be drawn"),
        (["--uniform", "edema"], "uniform over ['edema']: ['edema'] are none; expected some of ['Enlarged Cardiomed"),
        (["--uniform", "Edema,Edema"], "['Edema'] stand there twice; expected some of"),
        (["--uniform", "Pneumonia", "--marginals", '{"Pneumonia": 0.5}'], "stand in --uniform and in --marginals"),
        (["--marginals", '{"Pneumonia": 0.9, "Cardiomegaly": 0.9}'], "these finding shares cannot be had together"),
        (["--severities", '{"severe": 0.5}'], "severity shares cannot be had together"),
    ],
)
def test_faults_are_said_in_a_line(
    more: list[str], message: str, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "keywords.jsonl"
    assert main(["keywords", "--vocabulary", str(vocabulary), "--n", "5", "--out", str(out), *more]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["Edema", "[1]", '{"Edema": "much"}', '{"Edema": true}'])
def test_shares_are_a_json_object_of_numbers(
    text: str, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["keywords", "--vocabulary", str(vocabulary), "--n", "5", "--out", "x", "--marginals", text])
    assert repr(text) in capsys.readouterr().err


def test_a_vocabulary_of_another_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"schema": 1, "entries": {}}))
    assert main(["keywords", "--vocabulary", str(old), "--n", "5", "--out", str(tmp_path / "x")]) == 1
    assert "old.json is not a vocabulary of schema 2 (found schema 1); make it again" in capsys.readouterr().err
