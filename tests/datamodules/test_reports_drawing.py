"""Side, severity, place and background of drawn studies."""

import numpy as np
import pytest

from datamodules.reports.drawing import NOWHERE, Drawer, Study, forms_of
from datamodules.reports.keywords import Keyword, Keywords, parse
from datamodules.reports.vocabulary import Vocabulary, mine

LINKED = [
    "Left consolidation in the left lower lobe, consistent with left pneumonia in the left lower lobe.",
    "Right consolidation in the right upper lobe, consistent with right pneumonia in the right upper lobe.",
]
FREE = ["Left granuloma. Left nodule.", "Left granuloma. Right nodule.", "Right granuloma. Left nodule."]
FREE += ["Right granuloma. Right nodule."]
HEART = ["Mild cardiomegaly.", "The heart is normal. Lungs are clear."]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return mine([*LINKED * 5, *FREE * 5, *HEART * 5], min_count=1)


def studies(vocabulary: Vocabulary, words: tuple[str, ...], n: int = 200, **options: object) -> list[Study]:
    return [
        vocabulary.drawer.study(words, rng=np.random.default_rng(seed), **options)  # type: ignore[arg-type]
        for seed in range(n)
    ]


def test_sides_and_places_agree_where_the_reports_do(vocabulary: Vocabulary) -> None:
    # On one side in all ten reports, where chance has five: (10 - 5) / (1 - 0.5) of 10 and two more.
    assert vocabulary.drawer.agreement == {
        ("consolidation", "pneumonia"): pytest.approx(10 / 12),
        ("pneumonia", "consolidation"): pytest.approx(10 / 12),
    }
    drawn = studies(vocabulary, ("consolidation", "pneumonia"), n=400)
    lobes = {"left": "left lower lobe", "right": "right upper lobe"}
    assert all(s.places == tuple(lobes[k.side or ""] for k in s.pathology) for s in drawn)
    same = np.mean([len({k.side for k in s.pathology}) == 1 for s in drawn])
    # 10 of 12 by agreement, half of the rest by chance; four standard deviations.
    assert abs(same - 11 / 12) < 0.056


def test_sides_are_independent_where_the_reports_have_them_so(vocabulary: Vocabulary) -> None:
    drawn = studies(vocabulary, ("granuloma", "nodule"), n=400)
    same = np.mean([len({k.side for k in s.pathology}) == 1 for s in drawn])
    # Four standard deviations of 400 fair coins.
    assert abs(same - 0.5) < 0.1


def test_normal_anatomy_is_not_drawn_beside_what_denies_it(vocabulary: Vocabulary) -> None:
    assert vocabulary.background == {"heart": 5, "lung": 5}
    sick = studies(vocabulary, ("cardiomegaly",))
    assert {word for s in sick for word in s.background} == {"lung"}
    assert {word for s in studies(vocabulary, ()) for word in s.background} == {"lung", "heart"}


def test_a_place_is_on_the_side_of_its_finding_and_no_accident() -> None:
    many = ["Left nodule in the left upper lobe."] * 99 + ["Left nodule in the left upper lobe and near the spine."]
    found = mine([*many, "Right nodule in the right upper lobe.", "Possible nodule."], min_count=1)
    assert found.places["nodule"]["spine"] == 1
    places = found.drawer.places
    assert places(parse("left nodule")) == {"left upper lobe": 100}
    # 1 of 103 sentences: fewer than two in a hundred.
    assert places(parse("right nodule")) == {}
    assert places(parse("left nodule"), view="LATERAL") == {"upper lobe": 100}
    drawn = found.drawer.study(("nodule",), rng=np.random.default_rng(0), possible={"nodule": True})
    assert drawn.pathology == (Keyword("nodule", "pathology", possible=True),)


def test_the_lot_decides_the_side_in_its_order(vocabulary: Vocabulary) -> None:
    def at(lot: float) -> str | None:
        return vocabulary.drawer.keyword("nodule", lot=lot, pick=lambda _: 0.0, possible=None, view=None).side

    assert [at(lot) for lot in (0.0, 0.49, 0.5, 0.999)] == ["left", "left", "right", "right"]


def test_forms_without_the_possible_are_added_up() -> None:
    found = mine(["Left nodule.", "Possible left nodule."], min_count=1)
    assert forms_of(found)["nodule"] == {parse("left nodule"): 1, parse("possible left nodule"): 1}
    assert forms_of(found, possible=False)["nodule"] == {parse("left nodule"): 2}
    drawer = Drawer(found, forms={"nodule": {parse("right nodule"): 1.0}})
    assert drawer.study(("nodule",), rng=np.random.default_rng(0)).pathology == (parse("right nodule"),)


def test_each_anatomy_word_is_asked_once() -> None:
    study = Study((parse("left nodule"), parse("opacity")), ("left lung", NOWHERE), ("heart", "left lung"))
    assert study.keywords == Keywords(("left lung", "heart"), ("left nodule", "opacity"))
