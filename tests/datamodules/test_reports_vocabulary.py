"""Vocabulary and keywords: counts by hand, round trips, sampling."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.reports.keywords import Keyword, Keywords, keywords_of, parse, verify
from datamodules.reports.labels import FINDINGS
from datamodules.reports.vocabulary import Vocabulary, mine

REPORTS = [
    "Small left pleural effusion at the left base. The heart is normal.",
    "Small left effusion. Mild cardiomegaly. No pneumothorax.",
    "Heart size is normal. Lungs are clear.",
    "Possible right pneumonia in the right lower lobe. Small left pleural effusion.",
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return mine(REPORTS, min_count=1)


def test_counts_of_four_reports_by_hand(vocabulary: Vocabulary) -> None:
    effusion = vocabulary.entries["pleural effusion"]
    assert (effusion.kind, effusion.label, effusion.count) == ("pathology", "Pleural Effusion", 3)
    assert effusion.variants == {"pleural effusion": 2, "effusion": 1}
    assert effusion.forms == {"small left pleural effusion": 3}
    assert effusion.findings == {"Pleural Effusion": 3, "Cardiomegaly": 1, "Pneumonia": 1}
    # Counted whatever the status: denied twice, stated once.
    assert vocabulary.entries["cardiomegaly"].count == 3
    assert vocabulary.entries["cardiomegaly"].forms == {"mild cardiomegaly": 1}
    assert vocabulary.entries["pneumothorax"].forms == {}
    assert vocabulary.entries["heart"].findings == {"Pleural Effusion": 1}
    assert vocabulary.sets == {
        "": 1,
        "pleural effusion": 1,
        "cardiomegaly ; pleural effusion": 1,
        "pleural effusion ; pneumonia": 1,
    }
    assert vocabulary.places == {
        "pleural effusion": {"left lung base": 1, "": 2},
        "cardiomegaly": {"": 1},
        "pneumonia": {"right lower lobe": 1},
    }
    assert vocabulary.background == {"heart": 2, "lung": 1}
    assert vocabulary.background_sizes == {1: 1, 0: 2, 2: 1}
    assert vocabulary.digest == hashlib.sha256("\0".join(REPORTS).encode()).hexdigest()


def test_min_count_and_max_words_keep_the_frequent() -> None:
    assert "pneumonia" not in mine(REPORTS, min_count=2).entries
    few = mine(REPORTS, min_count=1, max_words=1)
    assert set(few.entries) == {"cardiomegaly", "heart"}  # three reports each way: ties by name


def test_round_trip_is_exact_readable_and_checked(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "vocabulary.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    lines = path.read_text().splitlines()
    assert len(lines) > 100
    words = [line.split('"')[1] for line in lines if line.startswith("  ") and line.endswith("{") and line[2] == '"']
    assert words == sorted(words[: len(vocabulary.entries)]) + words[len(vocabulary.entries) :]
    data = json.loads(path.read_text()) | {"schema": 99}
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"vocabulary\.json is not a vocabulary of schema 1 \(found schema 99\)"):
        Vocabulary.load(path)
    path.write_text("words")
    with pytest.raises(ValueError, match="is not JSON"):
        Vocabulary.load(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        vocabulary.save(tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "folder"]
    with pytest.raises(FileNotFoundError, match="python -m datamodules vocabulary"):
        Vocabulary.load(tmp_path / "none.json")


def test_no_reports_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 empty ones"):
        mine(["", " "], min_count=1)


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("small left pleural effusion", Keyword("pleural effusion", "pathology", "small", "left")),
        ("possible pneumonia", Keyword("pneumonia", "pathology", possible=True)),
        ("bilateral opacity", Keyword("opacity", "pathology", side="bilateral")),
    ],
)
def test_keyword_text_round_trip(text: str, keyword: Keyword) -> None:
    assert parse(text) == keyword
    assert str(keyword) == text


def test_unknown_keyword_names_the_form() -> None:
    with pytest.raises(ValueError, match=r"keyword 'large left cat' is not '\[possible\]"):
        parse("large left cat")


def test_keywords_merge_and_leave_out_the_denied() -> None:
    report = "Possible left effusion. Small left effusion in the left base. No pneumonia. Right nodule."
    assert keywords_of(report) == Keywords(("left lung base",), ("small left pleural effusion", "right nodule"))
    assert keywords_of(report, words={"nodule"}) == Keywords((), ("right nodule",))
    assert keywords_of("Lungs are clear.").prompt() == "no acute findings ; lung"


def test_verification_names_what_is_missing_denied_and_added() -> None:
    asked = Keywords(("heart",), ("small left pleural effusion", "possible pneumonia"))
    assert verify("Small left effusion. Possible pneumonia. The heart is normal.", asked).verified
    check = verify("No effusion. Pneumonia. Right nodule.", asked)
    assert check.missing == ("heart", "small left pleural effusion", "possible pneumonia")
    assert check.contradicting == ("small left pleural effusion",)
    assert check.unasked == ("right nodule",)
    assert verify(
        "Small left effusion and small right effusion.", Keywords((), ("small left pleural effusion",))
    ).unasked
    both = Keywords((), ("bilateral pleural effusion",))
    assert verify("Left effusion. Right effusion.", both).verified


def test_sampling_is_deterministic_and_never_contradicts(vocabulary: Vocabulary) -> None:
    drawn = vocabulary.sample(np.random.default_rng(3), n=200)
    assert drawn == vocabulary.sample(np.random.default_rng(3), n=200)
    assert drawn != vocabulary.sample(np.random.default_rng(4), n=200)
    assert drawn == Vocabulary.from_json(vocabulary.to_json()).sample(np.random.default_rng(3), n=200)
    for keywords in drawn:
        words = [parse(text).word for text in keywords.pathology]
        assert len(words) == len(set(words))
        assert " ; ".join(sorted(words)) in vocabulary.sets
        assert set(keywords.anatomy) <= vocabulary.words


def test_target_marginals_are_reached(vocabulary: Vocabulary) -> None:
    sets, weights = vocabulary.set_weights({"Pneumonia": 0.6, "Pleural Effusion": 0.8})
    share = {w: sum(p for s, p in zip(sets, weights, strict=True) if w in s) for w in ("pneumonia", "pleural effusion")}
    assert share == pytest.approx({"pneumonia": 0.6, "pleural effusion": 0.8}, abs=1e-6)
    with pytest.raises(ValueError, match="'Fracture': no training report states it"):
        vocabulary.set_weights({"Fracture": 0.5})


def test_keywords_from_labels(vocabulary: Vocabulary) -> None:
    labels = np.zeros(14, dtype=np.float32)
    labels[FINDINGS.index("Pleural Effusion")] = 1
    labels[FINDINGS.index("Pneumonia")] = -1
    labels[FINDINGS.index("Fracture")] = 1  # not in these reports: the bare word
    labels[FINDINGS.index("Edema")] = np.nan
    keywords = vocabulary.from_labels(labels, np.random.default_rng(0))
    assert keywords.pathology == ("possible right pneumonia", "small left pleural effusion", "fracture")
    assert vocabulary.from_labels(np.zeros(14), np.random.default_rng(0)).pathology == ()
    assert dataclasses.asdict(keywords) == dataclasses.asdict(vocabulary.from_labels(labels, np.random.default_rng(0)))
