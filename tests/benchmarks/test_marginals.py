"""Shares of findings by hand, and those of texts that a small prompter wrote through the real command line."""

import json
from pathlib import Path
from typing import Any

import pytest

import datamodules.__main__ as datamodules_command
from datamodules.reports.keyword_rows import labels_of_keywords, read_rows
from datamodules.reports.keywords import Keywords
from tests.benchmarks import marginals, record
from tests.chain import Chain
from tests.processes import run_python

EFFUSION, EDEMA, NORMAL = ("left pleural effusion",), ("pulmonary edema",), ()


def one(study: str, pathology: tuple[str, ...], pair: str | None = None) -> dict[str, Any]:
    keywords = Keywords(("heart",), pathology)
    other = None if pair is None else {"study_id": pair}
    return {"study_id": study, **keywords.as_dict(), "labels": labels_of_keywords(keywords), "pair": other}


def text(study: str, pathology: tuple[str, ...], report: str, *, verified: bool = True) -> dict[str, Any]:
    return {
        "study_id": study,
        "keywords": {"anatomy": ["heart"], "pathology": list(pathology)},
        "report": report,
        "verified": verified,
    }


SETS = [
    one("a", EFFUSION),
    one("b", EFFUSION),
    one("c", EDEMA),
    one("d", ("possible pulmonary edema",)),
    one("e", NORMAL),
    one("a-removed", NORMAL, pair="a"),
]
TEXTS = [
    text("a", EFFUSION, "Small left pleural effusion. The heart is normal."),
    text("b", EFFUSION, "No pleural effusion. The heart is normal.", verified=False),
    text("c", EDEMA, "Pulmonary edema and a left pleural effusion. The heart is normal.", verified=False),
    text("d", ("possible pulmonary edema",), "Possible pulmonary edema. The heart is normal."),
    text("a-removed", NORMAL, "The heart is normal."),
]


def test_shares_and_deviations_by_hand() -> None:
    asked = {"Pleural Effusion": 0.45, "Edema": 0.4, "No Finding": 0.2}
    figures = marginals.measure(SETS, TEXTS, asked=asked)
    assert {name: figures[name] for name in ("sets", "counterfactuals_left_out", "texts", "sets_without_text")} == {
        "sets": 5, "counterfactuals_left_out": 1, "texts": 4, "sets_without_text": 1,
    }  # fmt: skip
    assert figures["verified"] == 2
    # Two of five sets ask for each; of four texts a and c state an effusion, c and d an edema; a and d are verified.
    assert figures["findings"]["Pleural Effusion"] == pytest.approx(
        {
            "asked": 0.45, "sets": 0.4, "texts": 0.5, "verified": 0.5,
            "texts_off_points": 5, "verified_off_points": 5, "texts_off_sets_points": 0,
        }
    )  # fmt: skip
    assert figures["findings"]["Edema"]["texts_off_points"] == pytest.approx(10)
    # b states nothing, and the normal set has no text.
    assert figures["findings"]["No Finding"] == pytest.approx(
        {
            "asked": 0.2, "sets": 0.2, "texts": 0.25, "verified": 0,
            "texts_off_points": 5, "verified_off_points": -20, "texts_off_sets_points": 25,
        }
    )  # fmt: skip
    assert figures["findings"]["Pneumonia"]["asked"] is figures["findings"]["Pneumonia"]["texts_off_points"] is None
    assert figures["findings"]["Pneumonia"]["texts"] == 0
    assert figures["largest_texts_off_points"] == pytest.approx(10)
    assert figures["largest_verified_off_points"] == pytest.approx(20)
    assert "Edema                          40.0%   40.0%   50.0%  +10.00     50.0%  +10.00" in marginals.table(figures)


def test_without_a_verified_text_nothing_is_said_of_those() -> None:
    figures = marginals.measure(SETS[1:2], TEXTS[1:2], asked={"Edema": 0.1})
    assert figures["findings"]["Edema"]["verified"] is None
    assert figures["largest_verified_off_points"] is None
    assert figures["largest_texts_off_points"] == pytest.approx(10)


def test_texts_of_other_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"none of 1 sets has one of the 1 texts"):
        marginals.measure(SETS[4:5], TEXTS[:1], asked={"Edema": 0.1})
    with pytest.raises(ValueError, match=r"study a: the text was written for .*edema.* and the set is .*effusion"):
        marginals.measure(SETS[:1], [text("a", EDEMA, "x")], asked={"Edema": 0.1})
    with pytest.raises(ValueError, match="'Oedema' is no finding; expected of"):
        marginals.measure(SETS, TEXTS, asked={"Oedema": 0.1})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_keyword_sets_to_the_shares_of_written_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank and two write the same texts; their shares are what the texts say."""
    chain = Chain(tmp_path / "chain")
    chain.run("fit", "prompter")
    vocabulary, keywords = tmp_path / "vocabulary.json", tmp_path / "keywords.jsonl"
    shares = ["--uniform", "Edema,Pneumothorax,Pleural Effusion", "--normal", "0.1"]
    for command in (
        ["vocabulary", "--layout", "phantom", "--studies", "120", "--min-count", "2", "--out", str(vocabulary)],
        ["keywords", "--vocabulary", str(vocabulary), "--n", "20", "--view", "PA", "--counterfactual", "removed",
         *shares, "--out", str(keywords)],
    ):  # fmt: skip
        assert datamodules_command.main(command) == 0
    written = {}
    for ranks, several in ((1, ()), (2, ("--trainer.devices=2", "--trainer.strategy=ddp"))):
        given = chain.arguments("predict", "prompter", configs=("configs/experiment/prompter-keywords.yaml",))
        given = [a for a in given if "layout_options" not in a and not a.startswith("--run_dir")]
        folder = tmp_path / f"ranks{ranks}"
        given += [f"--run_dir={folder}", f"--data.root={keywords}", "--data.init_args.batch_size=4", *several]
        result = run_python(["main.py", *given], timeout=240)
        assert result.returncode == 0, result.stderr[-6000:]
        written[ranks] = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    sets = {row["study_id"]: row for row in read_rows(keywords)}
    assert len(sets) > 20
    assert [row["study_id"] for row in written[1]] == [row["study_id"] for row in written[2]]
    assert {row["study_id"] for row in written[1]} <= sets.keys()
    for row in written[1]:
        asked = sets[row["study_id"]]
        assert row["keywords"] == {kind: asked[kind] for kind in ("anatomy", "pathology")}
        assert row["labels"] == list(asked["labels"].values())
        assert row["pair"] == (asked["pair"] and asked["pair"]["study_id"])
        assert (row["view"], row["keywords_from"], row["seed"]) == ("PA", "asked", 0)
        assert row["report"]
    monkeypatch.setattr(record, "FOLDER", tmp_path / "benchmarks")
    figures = marginals.main(
        ["--keywords", str(keywords), "--prompts", str(tmp_path / "ranks1/prompts.jsonl"), *shares]
    )
    saved = json.loads((tmp_path / "benchmarks/marginals.json").read_text())
    assert saved["findings"] == figures["findings"]
    assert saved["sets"] == 20
    assert saved["counterfactuals_left_out"] == len(sets) - 20
    assert saved["findings"]["Edema"]["asked"] == pytest.approx(0.3)
    assert saved["keywords_seed"] == saved["prompts_seed"] == [0]
