"""Iterative proportional fitting of sets and modifiers, against shares worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.reports.fitting import fit_modifiers, fit_sets
from datamodules.reports.keywords import parse

# Sets: none, A, B, A and B.
HAS = {"A": np.array([False, True, False, True]), "B": np.array([False, False, True, True])}


def test_one_share_leaves_the_rest_in_proportion() -> None:
    fitted = fit_sets(np.array([0.4, 0.3, 0.2, 0.1]), has={"A": HAS["A"]}, shares={"A": 0.8})
    # With A .3 : .1 of .8; without it .4 : .2 of .2.
    np.testing.assert_allclose(fitted, [0.4 / 3, 0.6, 0.2 / 3, 0.2])


def test_two_shares_keep_the_odds_ratio() -> None:
    before = np.array([0.4, 0.3, 0.2, 0.1])
    fitted = fit_sets(before, has=HAS, shares={"A": 0.5, "B": 0.5})
    assert fitted[HAS["A"]].sum() == pytest.approx(0.5)
    assert fitted[HAS["B"]].sum() == pytest.approx(0.5)
    odds = [w[0] * w[3] / (w[1] * w[2]) for w in (before, fitted)]
    assert odds[1] == pytest.approx(odds[0])


@given(
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    st.floats(0.02, 0.98),
    st.floats(0.02, 0.98),
)
def test_any_two_shares_of_a_full_table_are_reached(weights: list[float], a: float, b: float) -> None:
    fitted = fit_sets(np.array(weights) / sum(weights), has=HAS, shares={"A": a, "B": b})
    assert fitted.min() >= 0
    assert fitted.sum() == pytest.approx(1)
    assert fitted[HAS["A"]].sum() == pytest.approx(a, abs=0.002)
    assert fitted[HAS["B"]].sum() == pytest.approx(b, abs=0.002)


def test_shares_that_the_sets_do_not_allow_are_refused() -> None:
    only = {"A": np.array([False, True]), "B": np.array([False, True])}
    with pytest.raises(ValueError, match=r"these finding shares cannot be had together \(.*asked 0\.2, near it 0\.7"):
        fit_sets(np.array([0.5, 0.5]), has=only, shares={"B": 0.2, "A": 0.7})


FORMS = {
    word: {parse(text): count for text, count in forms.items()}
    for word, forms in {
        "nodule": {"left nodule": 3.0, "right nodule": 1.0, "small left nodule": 1.0, "nodule": 5.0},
        "opacity": {"bilateral opacity": 2.0, "right opacity": 1.0, "severe right opacity": 1.0},
    }.items()
}


def test_sides_and_severities_are_shares_of_those_that_name_one() -> None:
    rates = {"nodule": 0.4, "opacity": 0.2}
    fitted = fit_modifiers(FORMS, rates=rates, sides={"left": 0.25, "right": 0.5}, severities={"severe": 0.3})
    assert {word: sum(forms.values()) for word, forms in fitted.items()} == pytest.approx(rates)
    side = {
        s: sum(w for forms in fitted.values() for k, w in forms.items() if k.side == s)
        for s in ("left", "right", "bilateral")
    }
    total = sum(side.values())
    assert {s: w / total for s, w in side.items()} == pytest.approx(
        {"left": 0.25, "right": 0.5, "bilateral": 0.25}, abs=1e-3
    )
    graded = {
        s: sum(w for forms in fitted.values() for k, w in forms.items() if k.severity == s) for s in ("small", "severe")
    }
    assert graded["severe"] / sum(graded.values()) == pytest.approx(0.3, abs=1e-3)


def test_modifiers_without_a_rate_are_left_out_and_without_a_target_scaled() -> None:
    fitted = fit_modifiers(FORMS, rates={"opacity": 0.2})
    assert fitted.keys() == {"opacity"}
    assert sorted(fitted["opacity"].values()) == pytest.approx([0.05, 0.05, 0.1])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"sides": {"middle": 0.5}}, r"side shares: \{'middle': 0\.5\}; expected shares in \[0, 1\] of some of"),
        ({"severities": {"mild": -1}}, r"severity shares: \{'mild': -1\}"),
        ({"sides": {"left": 0.7, "right": 0.7}}, r"sum to 1\.4; expected at most 1"),
        ({"sides": {"left": 0.2, "right": 0.2, "bilateral": 0.2}}, r"sum to 0\.6; expected at most 1, or 1 where all"),
        ({"severities": {"large": 0.5}}, r"severity shares cannot be had together \(large: asked 0\.5, near it 0\)"),
    ],
)
def test_wrong_targets_are_refused(targets: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_modifiers(FORMS, rates={"nodule": 0.4, "opacity": 0.2}, **targets)
