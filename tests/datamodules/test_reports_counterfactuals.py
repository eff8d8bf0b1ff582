"""Counterfactual studies: one finding changes, what belongs to it follows, all else stays."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.reports.consistency import check_consistent
from datamodules.reports.counterfactuals import CHANGES, Change, Counterfactual, counterfactual, study_of
from datamodules.reports.drawing import Study
from datamodules.reports.keyword_rows import labels_of_keywords
from datamodules.reports.keywords import parse
from datamodules.reports.vocabulary import Vocabulary, mine

REPORTS = [
    "Small left pleural effusion at the left lung base. The heart is normal.",
    "Large right pleural effusion at the right lung base. Lungs are clear.",
    "Mild cardiomegaly, the heart is enlarged. Small left effusion.",
    "Right nodule in the lingula. Left nodule in the lingula. Heart size is normal.",
    "Left pneumonia in the left lower lobe. The heart is normal.",
    "Lungs are clear. The heart is normal.",
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return mine(REPORTS, min_count=1)


def changed(study: Study, change: Change, vocabulary: Vocabulary, seed: int = 0) -> Counterfactual | None:
    return counterfactual(study, change, drawer=vocabulary.drawer, rng=np.random.default_rng(seed))


def test_a_reports_findings_are_bound_to_their_places() -> None:
    study = study_of(REPORTS[0] + " Possible pneumonia.")
    assert study.pathology == (parse("small left pleural effusion"), parse("possible pneumonia"))
    assert study.places == ("left lung base", "")
    assert study.background == ("heart",)
    assert study_of(REPORTS[0], words={"heart"}) == Study((), (), ("heart",))


def test_removed_with_its_place(vocabulary: Vocabulary) -> None:
    found = changed(study_of(REPORTS[0]), "removed", vocabulary)
    assert found == Counterfactual(Study((), (), ("heart",)), "removed", "small left pleural effusion", None)


def test_what_is_usually_described_as_normal_stays(vocabulary: Vocabulary) -> None:
    sick = Study((parse("mild cardiomegaly"),), ("heart",), ("lung",))
    found = changed(sick, "removed", vocabulary)
    assert found is not None
    assert found.study == Study((), (), ("heart", "lung"))


def test_added_takes_over_the_anatomy_that_it_is_said_of() -> None:
    # The only pathology of these reports.
    found = changed(
        Study((), (), ("lung", "heart")), "added", mine(["The heart is enlarged.", "Lungs are clear."], min_count=1)
    )
    assert found == Counterfactual(
        Study((parse("cardiomegaly"),), ("heart",), ("lung",)), "added", None, "cardiomegaly"
    )


def test_added_is_what_the_reports_have_beside_it(vocabulary: Vocabulary) -> None:
    study = Study((parse("mild cardiomegaly"),), ("heart",), ())
    for seed in range(10):
        found = changed(study, "added", vocabulary, seed)
        assert found is not None
        assert found.study.pathology[0] == study.pathology[0]
        assert found.study.pathology[1].word == "pleural effusion"


def test_another_side_takes_its_place_along(vocabulary: Vocabulary) -> None:
    found = changed(study_of(REPORTS[0]), "side", vocabulary)
    assert found is not None
    assert found.study == Study((parse("small right pleural effusion"),), ("right lung base",), ("heart",))
    assert (found.before, found.after) == ("small left pleural effusion", "small right pleural effusion")
    # An organ without sides stays; a lobe that the reports do not have on the other side does not.
    nodule = changed(Study((parse("right nodule"),), ("lingula",), ()), "side", vocabulary)
    assert nodule is not None
    assert nodule.study == Study((parse("left nodule"),), ("lingula",), ())
    both = mine([*REPORTS, "Right pneumonia."], min_count=1)
    moved = changed(study_of(REPORTS[4]), "side", both)
    assert moved is not None
    assert moved.study.keywords.anatomy == ("heart",)


def test_another_severity_changes_nothing_else(vocabulary: Vocabulary) -> None:
    found = changed(study_of(REPORTS[0]), "severity", vocabulary)
    assert found is not None
    assert found.study == Study((parse("large left pleural effusion"),), ("left lung base",), ("heart",))


def test_what_cannot_be_changed_gives_none(vocabulary: Vocabulary) -> None:
    normal = Study((), (), ("lung",))
    assert [changed(normal, change, vocabulary) for change in ("removed", "side", "severity")] == [None] * 3
    # Both nodules are a Lung Lesion: the label would not change with one of them.
    assert changed(study_of(REPORTS[3]), "removed", vocabulary) is None
    assert (
        counterfactual(
            study_of(REPORTS[0]), "side", drawer=vocabulary.drawer, rng=np.random.default_rng(0), view="LATERAL"
        )
        is None
    )
    with pytest.raises(ValueError, match="change is 'swapped'; expected one of"):
        changed(normal, "swapped", vocabulary)  # type: ignore[arg-type]


def test_a_change_leaves_nothing_that_denies_it() -> None:
    reports = ["Left opacity. The heart is normal.", "Right opacity. Right pneumonia.", "Left pneumonia."]
    found = mine([*reports, "Right lung is clear. Hyperinflation.", "Hypoinflation. Hyperinflation."], min_count=1)
    moved = changed(Study((parse("left opacity"),), ("",), ("right lung", "heart")), "side", found)
    assert moved is not None
    assert moved.study == Study((parse("right opacity"),), ("",), ("heart",))
    both = Study((parse("left opacity"), parse("left pneumonia")), ("", ""))
    assert changed(both, "side", found) is None
    for seed in range(20):
        added = changed(Study((parse("left opacity"),), ("",)), "added", found, seed)
        assert added is not None
        assert added.after == "left pneumonia"
        # With hyperinflation the reports have nothing but its opposite.
        assert changed(Study((parse("hyperinflation"),), ("",)), "added", found, seed) is None


def test_no_degree_that_the_reports_hardly_have() -> None:
    reports = ["Severe degenerative change."] * 60 + ["Mild degenerative change."] * 60
    found = mine([*reports, "Large degenerative change."], min_count=1)
    new = {c.after for seed in range(20) if (c := changed(study_of(reports[0]), "severity", found, seed))}
    assert new == {"mild degenerative change"}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(REPORTS), st.sampled_from(CHANGES), st.integers(0, 1000))
def test_exactly_one_finding_differs(vocabulary: Vocabulary, report: str, change: Change, seed: int) -> None:
    study = study_of(report)
    found = changed(study, change, vocabulary, seed)
    assert found == changed(study, change, vocabulary, seed)
    if found is None:
        return
    before, after = Counter(study.keywords.pathology), Counter(found.study.keywords.pathology)
    assert list(before - after) == ([found.before] if found.before else [])
    assert list(after - before) == ([found.after] if found.after else [])
    assert len(found.study.places) == len(found.study.pathology)
    check_consistent(found.study.keywords.pathology)
    labels = [labels_of_keywords(keywords) for keywords in (study.keywords, found.study.keywords)]
    stated = [{name for name, value in one.items() if value} - {"No Finding"} for one in labels]
    assert len(stated[0] ^ stated[1]) == (1 if change in ("removed", "added") else 0)
