"""What one report's sentence says of the image of another report."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.phantom.report import report
from datamodules.phantom.study import study
from datamodules.reports.entailment import Fact, facts, holds, silent
from datamodules.reports.sections import choose, split_sections

NAN = float("nan")
# A sentence, the report of an image, and whether the sentence holds of it.
CASES = [
    ("Left pleural effusion.", "Small left pleural effusion.", 1.0),
    ("Left pleural effusion.", "Bilateral pleural effusions.", 1.0),
    ("Left pleural effusion.", "Right pleural effusion.", 0.0),
    ("Left pleural effusion.", "Pleural effusion.", NAN),
    ("Left pleural effusion.", "Possible left pleural effusion.", NAN),
    ("Left pleural effusion.", "Possible right pleural effusion.", 0.0),
    ("Left pleural effusion.", "The lungs are clear.", 0.0),
    ("Bilateral pleural effusions.", "Left pleural effusion.", 0.0),
    ("Bilateral pleural effusions.", "Left pleural effusion. Right pleural effusion.", 1.0),
    ("Bilateral pleural effusions.", "Left pleural effusion. Possible right pleural effusion.", NAN),
    ("No pleural effusion bilaterally.", "Left pleural effusion.", 0.0),
    ("Pleural effusion.", "Left pleural effusion.", 1.0),
    ("Small left pleural effusion.", "Large left pleural effusion.", 0.0),
    ("Small left pleural effusion.", "Mild left pleural effusion.", 1.0),
    ("Small left pleural effusion.", "Left pleural effusion.", 1.0),
    ("There is an opacity in the left upper lung.", "There is an opacity in the left lower lung.", 0.0),
    ("There is an opacity in the left lower lung.", "There is an opacity at the left base.", NAN),
    ("There is an opacity in the left upper lung.", "There is an opacity in the left upper lung.", 1.0),
    ("No pleural effusion.", "The heart is enlarged.", 1.0),
    ("No pleural effusion.", "No pleural effusion.", 1.0),
    ("No pleural effusion.", "Left pleural effusion.", 0.0),
    ("No pleural effusion.", "Possible pleural effusion.", NAN),
    ("No left pleural effusion.", "Right pleural effusion.", 1.0),
    ("Possible left pleural effusion.", "Possible left pleural effusion.", 1.0),
    ("Possible left pleural effusion.", "Possible right pleural effusion.", 0.0),
    ("Possible left pleural effusion.", "Left pleural effusion.", NAN),
    ("Possible left pleural effusion.", "No pleural effusion.", 0.0),
    ("No pleural effusion or pneumothorax.", "Left pleural effusion.", 0.0),
    ("Cardiomegaly with a left pleural effusion.", "Cardiomegaly. Possible left pleural effusion.", NAN),
    ("Cardiomegaly with a left pleural effusion.", "Possible left pleural effusion.", 0.0),
]


def all_hold(sentence: str, text: str) -> float:
    """0.0 if a fact of the sentence does not hold, else NaN if one is not known, else 1.0."""
    values = [holds(fact, facts(text)) for fact in facts(sentence)]
    if 0.0 in values:
        return 0.0
    return NAN if any(math.isnan(value) for value in values) else 1.0


@pytest.mark.parametrize(("sentence", "text", "expected"), CASES)
def test_a_sentence_of_one_report_on_the_image_of_another(sentence: str, text: str, expected: float) -> None:
    found = all_hold(sentence, text)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_a_report_that_tells_nothing() -> None:
    assert silent("")
    assert silent("Comparison with the prior radiograph.")
    assert not silent("Lungs are clear.")
    assert not silent("No pneumothorax.")


def test_degrees_may_be_left_out_of_the_question() -> None:
    (small,), large = facts("Small left pleural effusion."), facts("Large left pleural effusion.")
    assert holds(small, large) == 0.0
    assert holds(small, large, severity=False) == 1.0


def stated_by(index: int) -> frozenset[Fact]:
    """The facts of a phantom's findings and impression; its indication tells of what was, not of what is."""
    return facts(choose(split_sections(report(study(0, index))), "both")[0])


@given(st.integers(0, 5000))
def test_every_report_holds_of_its_own_image(index: int) -> None:
    stated = stated_by(index)
    for fact in stated:
        # A report may say "effusion" and, later, "no effusion on the right"; it never denies what it states.
        assert holds(fact, stated) != 0.0, fact


@given(st.integers(0, 5000))
def test_the_other_side_of_what_is_on_one_side_does_not_hold(index: int) -> None:
    stated = stated_by(index)
    for fact in stated:
        sides = {other.side for other in stated if other.word == fact.word and other.status != "absent"}
        if fact.status == "present" and sides in ({"left"}, {"right"}):
            turned = fact._replace(side="left" if fact.side == "right" else "right")
            assert holds(turned, stated) == 0.0
            assert holds(turned._replace(status="absent"), stated) == 1.0
