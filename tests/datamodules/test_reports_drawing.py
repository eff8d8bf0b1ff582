"""Side, severity, place and background of drawn studies."""

import numpy as np
import pytest

from datamodules.reports.drawing import NOWHERE, Drawer, Study, barred_side, denies, forms_of, redundant
from datamodules.reports.keywords import Keyword, Keywords, parse
from datamodules.reports.vocabulary import Vocabulary, mine

LINKED = [
    "Left consolidation in the left lower lobe, consistent with left atelectasis in the left lower lobe.",
    "Right consolidation in the right upper lobe, consistent with right atelectasis in the right upper lobe.",
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
        ("consolidation", "atelectasis"): pytest.approx(10 / 12),
        ("atelectasis", "consolidation"): pytest.approx(10 / 12),
    }
    drawn = studies(vocabulary, ("consolidation", "atelectasis"), n=400)
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


def test_a_sided_finding_is_at_the_sided_form_of_its_place() -> None:
    reports = ["Right nodule at the apex."] * 5 + ["The right lung apex is normal. The lung apex is normal."]
    found = mine(reports, min_count=1)
    assert found.places["nodule"] == {"lung apex": 5}
    assert found.drawer.places(parse("right nodule")) == {"right lung apex": 5}
    # The reports have no left lung apex; without a side, or from the side, there is none.
    assert found.drawer.places(parse("left nodule")) == {"lung apex": 5}
    assert found.drawer.places(parse("nodule")) == {"lung apex": 5}
    assert found.drawer.places(parse("right nodule"), view="LATERAL") == {"lung apex": 5}
    asked = Keywords(("lung apex",), ("right nodule",))
    assert found.drawer.complete(asked, rng=np.random.default_rng(0)).places == ("lung apex",)


@pytest.mark.parametrize(
    ("word", "asked", "wanted"),
    [
        ("lung", "opacity", True),
        ("bilateral lung", "left atelectasis", True),
        ("left lung", "right consolidation", False),
        ("left lung", "mass", True),
        ("lung", "pulmonary edema", True),
        ("lung", "granuloma", False),
        ("pulmonary vasculature", "vascular congestion", True),
        ("pulmonary vasculature", "opacity", False),
        ("heart", "cardiomegaly", True),
        ("heart", "opacity", False),
    ],
)
def test_what_anatomy_denies_when_it_is_normal(word: str, asked: str, wanted: bool) -> None:
    assert denies(word, [parse("pacemaker"), parse(asked)]) is wanted


def test_no_background_denies_a_finding_or_says_a_thing_twice() -> None:
    plain = "Lungs are clear. The pulmonary vasculature is normal. The heart is normal. Both lungs are clear."
    reports = [f"{plain} The cardiomediastinal silhouette is normal. The spine is normal."] * 5
    found = mine([*reports, "Left opacity.", "Pulmonary edema."], min_count=1)
    drawn = {words: studies(found, words, n=60) for words in ((), ("opacity",), ("pulmonary edema",))}
    for words, barred in (("opacity",), "lung"), (("pulmonary edema",), "pulmonary vasculature"):
        assert not [s for s in drawn[words] if barred in s.background]
    assert {word for s in drawn[()] for word in s.background} == set(found.background)
    for one in (s.keywords.anatomy for each in drawn.values() for s in each):
        assert not {"heart", "cardiomediastinal silhouette"} <= set(one)
        assert not {"lung", "bilateral lung"} <= set(one)


def test_left_and_right_of_one_word_are_two_things() -> None:
    assert redundant("left lung", "bilateral lung")
    assert redundant("heart", "cardiomediastinal silhouette")
    assert redundant("bony thorax", "left rib")
    assert not redundant("left lung", "right lung")
    assert not redundant("heart", "mediastinum")


def test_a_sign_and_what_it_is_the_sign_of_are_never_on_opposite_sides() -> None:
    # By chance they are in half of these reports.
    found = mine(["Left opacity. Right pneumonia.", "Right opacity. Left pneumonia."] * 5, min_count=1)
    drawn = studies(found, ("opacity", "pneumonia"), n=50)
    sides = {tuple(k.side for k in s.pathology) for s in drawn}
    assert sides == {("left", "left"), ("right", "right")}
    only = mine(["Left opacity. Right pneumonia."], min_count=1)
    assert [s.pathology for s in studies(only, ("opacity", "pneumonia"), n=1)] == [
        (parse("left opacity"), parse("pneumonia"))
    ]
    assert barred_side("pneumonia", [parse("left opacity"), parse("right nodule")]) == "right"
    assert barred_side("pneumonia", [parse("left opacity"), parse("right consolidation")]) is None
    assert barred_side("nodule", [parse("left opacity")]) is None


def test_rare_degrees_are_drawn_without_one() -> None:
    reports = ["Mild emphysema."] * 190 + ["Large emphysema."] * 2 + ["Severe emphysema."] * 8 + ["Small free air."] * 2
    emphysema = {parse("mild emphysema"): 190, parse("emphysema"): 2, parse("severe emphysema"): 8}
    forms = forms_of(mine(reports, min_count=5))
    assert forms == {"emphysema": emphysema}
    # Two of 200 are too few whatever the vocabulary needs; two of two are not, where it needs no more.
    forms = forms_of(mine(reports, min_count=2))
    assert forms == {"emphysema": emphysema, "free air": {parse("small free air"): 2}}
    few = mine([*reports, *["Free air."] * 5], min_count=5)
    assert forms_of(few)["free air"] == {parse("free air"): 7}
