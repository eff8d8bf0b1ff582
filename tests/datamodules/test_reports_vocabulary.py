"""Vocabulary and keywords: counts by hand, round trips, sampling."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.reports.keywords import Keyword, Keywords, keywords_of, parse, verify
from datamodules.reports.labels import FINDINGS, VIEWS
from datamodules.reports.stop_words import StopList
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
    assert (vocabulary.entries["cardiomegaly"].count, vocabulary.entries["cardiomegaly"].stated) == (3, 1)
    # "The heart is normal" is no way to write cardiomegaly.
    assert vocabulary.entries["cardiomegaly"].variants == {"cardiomegaly": 1}
    assert vocabulary.entries["pneumothorax"].variants == {"pneumothorax": 1}
    assert (vocabulary.entries["pneumothorax"].count, vocabulary.entries["pneumothorax"].stated) == (1, 0)
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
    assert vocabulary.cooccurrence == {
        "left lung base": {"pleural effusion": {"": 1, "Pleural Effusion": 1}},
        "right lower lobe": {"pneumonia": {"": 1, "Pneumonia": 1, "Pleural Effusion": 1}},
    }
    assert vocabulary.agreement == {"pleural effusion ; pneumonia": {"sided": 1, "same": 0}}
    assert vocabulary.left_out == {}
    assert vocabulary.background == {"heart": 2, "lung": 1}
    assert vocabulary.background_sizes == {1: 1, 0: 2, 2: 1}
    assert vocabulary.digest == hashlib.sha256("\0".join(REPORTS).encode()).hexdigest()


def test_min_count_and_max_words_keep_the_frequent() -> None:
    assert "pneumonia" not in mine(REPORTS, min_count=2).entries
    few = mine(REPORTS, min_count=1, max_words=1)
    assert set(few.entries) == {"cardiomegaly", "heart"}  # three reports each way: ties by name
    assert few.left_out["pleural effusion"] == {"reports": 3, "reason": "not among the 1 most frequent"}
    assert mine(REPORTS, min_count=2).left_out["pneumonia"] == {"reports": 1, "reason": "in fewer than 2 reports"}


def test_words_left_out_are_in_no_table() -> None:
    stop = StopList({"pneumonia": "a diagnosis", "lung base": "too coarse"}, {"pleural effusion": "no grade"})
    found = mine(REPORTS, min_count=1, stop_words=stop)
    assert found.left_out["pneumonia"] == {"reports": 1, "reason": "a diagnosis"}
    # A word goes with its sides.
    assert found.left_out["left lung base"] == {"reports": 1, "reason": "too coarse"}
    text = json.dumps({**json.loads(found.to_json()), "left_out": {}})
    assert "pneumonia" not in text
    assert "lung base" not in text
    assert found.sets == {"": 1, "pleural effusion": 2, "cardiomegaly ; pleural effusion": 1}
    assert found.places["pleural effusion"] == {"": 3}
    assert found.entries["pleural effusion"].forms == {"left pleural effusion": 3}
    # Its finding is still counted for the words that are kept.
    assert found.entries["pleural effusion"].findings["Pneumonia"] == 1


def test_equal_reports_count_each() -> None:
    once, thrice = mine(REPORTS, min_count=1), mine(REPORTS * 3, min_count=1)
    for name in ("places", "background", "sets", "background_sizes"):
        assert getattr(thrice, name) == {
            key: {k: 3 * n for k, n in value.items()} if isinstance(value, dict) else 3 * value
            for key, value in getattr(once, name).items()
        }
    assert {w: (3 * e.count, 3 * e.stated) for w, e in once.entries.items()} == {
        w: (e.count, e.stated) for w, e in thrice.entries.items()
    }


def test_round_trip_is_exact_readable_and_checked(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "vocabulary.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    lines = path.read_text().splitlines()
    assert len(lines) > 100
    names = [line.split('"')[1] for line in lines if line.startswith(' "')]
    assert names == sorted(names)
    start = lines.index(' "entries": {')
    words = [line.split('"')[1] for line in lines[start : lines.index(" },", start)] if line.startswith('  "')]
    assert words == sorted(vocabulary.entries)
    data = json.loads(path.read_text()) | {"schema": 99}
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"vocabulary\.json is not a vocabulary of schema 2 \(found schema 99\)"):
        Vocabulary.load(path)
    path.write_text(json.dumps({k: v for k, v in data.items() if k != "places"} | {"schema": 2}))
    with pytest.raises(ValueError, match=r"lacks, or should not have, the keys \['places'\]; make it again"):
        Vocabulary.load(path)
    path.write_text(json.dumps(data | {"schema": 2, "entries": {"heart": {"kind": "anatomy"}}}))
    with pytest.raises(ValueError, match="its entries or background sizes are damaged"):
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
    with pytest.raises(ValueError, match="of 2 given none has a text"):
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
    assert check.contradicting == ("small left pleural effusion", "possible pneumonia")
    assert check.unasked == ("right nodule",)
    assert verify(
        "Small left effusion and small right effusion.", Keywords((), ("small left pleural effusion",))
    ).unasked
    both = Keywords((), ("bilateral pleural effusion",))
    assert verify("Left effusion. Right effusion.", both).verified


def test_target_marginals_are_reached(vocabulary: Vocabulary) -> None:
    sets, weights = vocabulary.set_weights({"Pneumonia": 0.6, "Pleural Effusion": 0.8})
    share = {w: sum(p for s, p in zip(sets, weights, strict=True) if w in s) for w in ("pneumonia", "pleural effusion")}
    assert share == pytest.approx({"pneumonia": 0.6, "pleural effusion": 0.8}, abs=1e-6)
    with pytest.raises(ValueError, match="'Fracture': no training report states it"):
        vocabulary.set_weights({"Fracture": 0.5})
    with pytest.raises(ValueError, match=r"'Edema': 1\.5 is not a share"):
        vocabulary.set_weights({"Edema": 1.5})


def test_sets_that_no_chest_has_are_not_drawn() -> None:
    found = mine(["Hyperinflation. Low lung volumes.", "Hyperinflation.", "Hyperinflation."], min_count=1)
    assert found.sets == {"hyperinflation ; hypoinflation": 1, "hyperinflation": 2}
    sets, weights = found.set_weights()
    assert (sets, weights.tolist()) == ([("hyperinflation",)], [1.0])


def test_shares_that_exclude_each_other_are_an_error(vocabulary: Vocabulary) -> None:
    # Pneumonia is stated with an effusion only.
    with pytest.raises(ValueError, match=r"cannot be had together \(.*Pneumonia: asked 0\.5, near it 0\."):
        vocabulary.set_weights({"Pneumonia": 0.5, "Pleural Effusion": 0.2})
    with pytest.raises(ValueError, match="No Finding: asked 0"):
        vocabulary.set_weights({"No Finding": 0.6, "Pleural Effusion": 0.6})


def test_normal_sets_are_those_of_devices_only(vocabulary: Vocabulary) -> None:
    devices = mine([*REPORTS, "Left pacemaker. The heart is normal."], min_count=1)
    assert devices.findings_of(()) == {"No Finding"}
    assert devices.findings_of(("pacemaker",)) == {"No Finding", "Support Devices"}
    assert devices.findings_of(("pacemaker", "pneumonia")) == {"Support Devices", "Pneumonia"}
    sets, weights = devices.set_weights({"No Finding": 0.7})
    assert sum(w for s, w in zip(sets, weights, strict=True) if s in ((), ("pacemaker",))) == pytest.approx(0.7)


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


def test_a_view_is_not_contradicted(vocabulary: Vocabulary) -> None:
    labels = np.zeros(14, dtype=np.float32)
    labels[FINDINGS.index("Pleural Effusion")] = 1
    labels[FINDINGS.index("Pneumonia")] = 1
    for seed in range(20):
        lateral = vocabulary.from_labels(labels, np.random.default_rng(seed), view="LATERAL")
        assert {parse(text).side for text in (*lateral.pathology, *lateral.anatomy)} == {None}
        assert lateral.pathology == ("pneumonia", "small pleural effusion")
        assert {"lower lobe"} <= set(lateral.anatomy)
    sternum = mine(["The sternum is intact."], min_count=1)
    drawn = {view: sternum.from_labels(np.zeros(14), np.random.default_rng(0), view=view).anatomy for view in VIEWS}
    assert drawn == {"PA": (), "AP": (), "LATERAL": ("sternum",), "unknown": ("sternum",)}
