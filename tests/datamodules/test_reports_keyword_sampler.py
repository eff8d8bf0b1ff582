"""The keyword sampler: shares, seeds, plausibility and refusals, over a thousand phantom reports."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import layouts
from datamodules.reports.consistency import check_consistent
from datamodules.reports.drawing import Study
from datamodules.reports.keyword_sampler import KeywordSampler, Strata, uniform
from datamodules.reports.keywords import parse, verify
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import labels_of
from datamodules.reports.stop_words import read_stop_words
from datamodules.reports.vocabulary import Vocabulary, mine

TEN = FINDINGS[2:12]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    train = layouts.read("phantom", None, studies=1000, seed=0).split("train").frame.drop_duplicates("study_id")
    return mine(train["report"].tolist(), min_count=2)


def measured(studies: list[Study]) -> dict[str, float]:
    """Shares of the findings, as the extractor reads them from the keywords written one a sentence."""
    labels = np.array([labels_of(". ".join((*s.keywords.pathology, "Normal heart"))) for s in studies])
    return {name: float(np.isin(labels[:, i], (1, -1)).mean()) for i, name in enumerate(FINDINGS)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uniform_over_ten_findings_within_two_points(vocabulary: Vocabulary, seed: int) -> None:
    sampler = KeywordSampler(vocabulary, seed=seed, marginals=uniform(TEN))
    shares = measured(sampler.draw(2000))
    assert {name: shares[name] for name in TEN} == pytest.approx(dict.fromkeys(TEN, 0.1), abs=0.01)


@pytest.mark.real
def test_uniform_over_ten_findings_from_published_reports(real_data: Path) -> None:
    manifest = layouts.read("openi", str(real_data / "openi" / "NLMCXR_reports.tgz"))
    train = manifest.split("train").frame.drop_duplicates("study_id")
    published = mine([text for text in train["report"] if text], min_count=5)
    assert "heart is normal" not in published.entries["cardiomegaly"].variants
    shares = measured(KeywordSampler(published, seed=0, marginals=uniform(TEN)).draw(2000))
    assert {name: shares[name] for name in TEN} == pytest.approx(dict.fromkeys(TEN, 0.1), abs=0.02)


def test_normal_studies_sides_and_severities_have_their_shares(vocabulary: Vocabulary) -> None:
    sides, severities = {"left": 0.3, "right": 0.6}, {"severe": 0.25, "mild": 0.25}
    sampler = KeywordSampler(
        vocabulary, seed=5, marginals={"Edema": 0.3}, normal=0.4, sides=sides, severities=severities
    )
    studies = sampler.draw(2000)
    shares = measured(studies)
    assert (shares["No Finding"], shares["Edema"]) == pytest.approx((0.4, 0.3), abs=0.01)
    for field, wanted in (("side", sides), ("severity", severities)):
        values = Counter(v for s in studies for k in s.pathology if (v := getattr(k, field)))
        assert {name: values[name] / values.total() for name in wanted} == pytest.approx(wanted, abs=0.02)


def test_without_targets_the_reports_shares_come_out(vocabulary: Vocabulary) -> None:
    sampler = KeywordSampler(vocabulary, seed=0)
    total = sum(vocabulary.sets.values())
    expected = {
        name: sum(n for s, n in vocabulary.sets.items() if name in vocabulary.findings_of(s.split(" ; ") if s else ()))
        / total
        for name in TEN
    }
    shares = measured(sampler.draw(2000))
    assert {name: shares[name] for name in TEN} == pytest.approx(expected, abs=0.01)
    assert all(" ; ".join(words) in vocabulary.sets for words in sampler.sets)


def test_a_draw_depends_on_the_seed_and_not_on_how_many_follow(vocabulary: Vocabulary) -> None:
    draw = KeywordSampler(vocabulary, seed=3).draw(60)
    assert KeywordSampler(Vocabulary.from_json(vocabulary.to_json()), seed=3).draw(700)[:60] == draw
    assert KeywordSampler(vocabulary, seed=4).draw(60) != draw
    sampler = KeywordSampler(vocabulary, seed=3)
    assert list(itertools.islice(sampler.draws(), 60)) == draw == sampler.draw(60)
    one = sampler.counterfactual(draw[7], "added", index=7)
    assert one == sampler.counterfactual(draw[7], "added", index=7)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, "PA", "LATERAL"]), st.booleans())
def test_each_draw_is_consistent_and_of_wanted_words(
    vocabulary: Vocabulary, seed: int, view: str | None, possible: bool
) -> None:
    stop = read_stop_words()
    for study in KeywordSampler(vocabulary, seed=seed, view=view, possible=possible).draw(30):
        check_consistent(study.keywords.pathology)
        assert len(study.places) == len(study.pathology)
        for text in (*study.keywords.pathology, *study.keywords.anatomy):
            keyword = parse(text)
            assert stop.reason(keyword.word) is None
            assert not (keyword.word in stop.without_severity and keyword.severity)
            assert not (view == "LATERAL" and keyword.side)
            assert possible or not keyword.possible
        # The extractor reads the set back as it was asked.
        text = ". ".join((*study.keywords.pathology, *study.keywords.anatomy))
        assert verify(text, study.keywords).verified, text


def test_what_is_not_wanted_has_a_share_of_nothing(vocabulary: Vocabulary) -> None:
    sampler = KeywordSampler(vocabulary, seed=0, marginals={"Edema": 0, "Pneumothorax": 1})
    assert all({"pneumothorax"} <= {k.word for k in s.pathology} for s in sampler.draw(100))
    assert measured(sampler.draw(100))["Edema"] == 0
    healthy = KeywordSampler(vocabulary, seed=0, normal=1.0)
    assert measured(healthy.draw(50))["No Finding"] == 1
    assert healthy.variety < KeywordSampler(vocabulary, seed=0).variety


def test_uniform_shares() -> None:
    assert uniform(["Edema", "Fracture"]) == {"Edema": 0.5, "Fracture": 0.5}
    assert uniform(["Edema", "Fracture"], normal=0.2) == {"Edema": 0.4, "Fracture": 0.4}
    assert uniform(["Edema"], share=0.3) == {"Edema": 0.3}
    for wrong in ([], ["Oedema"], ["Edema", "Edema"], ["No Finding"]):
        with pytest.raises(ValueError, match="expected some of"):
            uniform(wrong)


def test_wrong_requests_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        KeywordSampler(vocabulary, seed=-1)
    with pytest.raises(ValueError, match="view is 'side'; expected one of"):
        KeywordSampler(vocabulary, seed=0, view="side")
    with pytest.raises(ValueError, match="left and right lie over each other"):
        KeywordSampler(vocabulary, seed=0, view="LATERAL", sides={"left": 0.5})
    with pytest.raises(ValueError, match=r"normal is 0\.2 and the share of No Finding 0\.3"):
        KeywordSampler(vocabulary, seed=0, normal=0.2, marginals={"No Finding": 0.3})
    with pytest.raises(ValueError, match="finding shares cannot be had together"):
        KeywordSampler(vocabulary, seed=0, normal=0.9, marginals={"Edema": 0.4})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1), st.integers(1, 4))
def test_strata_fill_their_parts_evenly(seed: int, edge: float, blocks: int) -> None:
    strata = Strata(seed)
    numbers = np.array([strata("side of nodule") for _ in range(20 * blocks)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert all(sorted(np.floor(block * 20)) == list(range(20)) for block in numbers.reshape(blocks, 20))
    assert abs((numbers < edge).mean() - edge) <= 1 / 20
