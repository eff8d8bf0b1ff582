"""What contradicts what, and what somebody may type for a keyword."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.reports.consistency import check_consistent, read_keywords
from datamodules.reports.keywords import Keywords, keywords_of

CLASHES = [
    ("no effusion", "large effusion", "pleural effusion is both denied and stated"),
    ("no pleural effusion", "small left pleural effusion", "denied and stated"),
    ("possible left pneumonia", "left pneumonia", "pneumonia is both certain and possible on one side"),
    ("possible pneumonia", "right pneumonia", "certain and possible"),
    ("left opacity", "bilateral opacity", "opacity is given for left side and for bilateral side"),
    ("opacity", "left opacity", "opacity is given for no side and for left side"),
    ("small left nodule", "large left nodule", "nodule is given twice for one side"),
    ("left nodule", "left nodule", "nodule is given twice for one side"),
    ("the heart is normal", "moderate cardiomegaly", "cardiomegaly is both denied and stated"),
    ("normal heart", "cardiomegaly", "cardiomegaly is both denied and stated"),
    ("no acute findings", "left consolidation", "consolidation is a finding"),
    ("no acute findings", "possible hernia", "hernia is a finding"),
    ("lungs are clear", "right consolidation", "consolidation is a finding"),
    ("no large effusion", "large effusion", "denied and stated"),
    ("hyperinflation", "hypoinflation", "no chest has"),
    ("no opacity", "pneumonia", "pneumonia is a kind of opacity, which is denied"),
    ("no opacity", "possible left nodule", "nodule is a kind of opacity, which is denied"),
    ("no left infiltrate", "left consolidation", "consolidation is a kind of opacity, which is denied"),
    ("no consolidation", "pneumonia", "pneumonia is a kind of consolidation, which is denied"),
]


@pytest.mark.parametrize(("a", "b", "why"), CLASHES)
def test_contradictions_name_both(a: str, b: str, why: str) -> None:
    for pair in ((a, b), (b, "heart", a)):
        with pytest.raises(ValueError, match="contradict each other") as error:
            check_consistent(pair)
        for part in (repr(a), repr(b)):
            assert part in str(error.value)
    with pytest.raises(ValueError, match=why):
        check_consistent([a, b])


@pytest.mark.parametrize(
    "texts",
    [
        ["small left pleural effusion", "large right pleural effusion"],
        ["left pneumonia", "possible right pneumonia"],
        ["no left effusion", "right effusion"],
        ["no large effusion", "small effusion"],
        ["no effusion", "no pneumothorax", "no acute findings"],
        ["lungs are clear", "cardiomegaly", "left pacemaker"],
        ["heart", "heart", "cardiomegaly"],
        ["no pneumonia", "opacity"],
        ["no left opacity", "right pneumonia"],
        ["no infiltrate", "atelectasis"],
        ["no large opacity", "pneumonia"],
        ["no widened mediastinum", "cardiomegaly"],
        [],
    ],
)
def test_what_goes_together_is_kept(texts: list[str]) -> None:
    check_consistent(texts)


def test_typed_keywords_become_those_of_the_vocabulary() -> None:
    typed = ["Large left effusion", "no pneumothorax", "opacity in the right upper lobe", "heart", "possible pneumonia"]
    assert read_keywords(typed) == Keywords(
        ("right upper lobe", "heart"), ("large left pleural effusion", "right opacity", "possible pneumonia")
    )
    assert read_keywords(["no acute findings"]) == Keywords()
    with pytest.raises(ValueError, match="the keyword 'large left cat' holds no anatomy or pathology"):
        read_keywords(["large left cat"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("left cardiomegaly", "gives a side to cardiomegaly, which has none; write 'cardiomegaly'"),
        ("possible mild right emphysema", "gives a side to emphysema, which has none; write 'possible mild emphysema'"),
        (
            "severe left central venous catheter",
            "gives a degree to central venous catheter: a device has no grade; write 'left central venous catheter'",
        ),
        ("a large PICC line", "gives a degree to central venous catheter: a device has no grade; write"),
    ],
)
def test_a_side_or_degree_of_what_has_none_is_refused_with_what_to_write(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"the keyword '{text}' {why}"):
        read_keywords(["heart", text])


STATEMENTS = ["No effusion.", "Small left effusion.", "Possible pneumonia.", "Right opacity.", "The heart is enlarged."]


@given(st.lists(st.sampled_from(STATEMENTS), unique=True))
def test_what_is_mined_from_a_report_is_consistent_and_read_back(sentences: list[str]) -> None:
    keywords = keywords_of(" ".join(sentences))
    assert read_keywords([*keywords.pathology, *keywords.anatomy]) == keywords


def test_order_does_not_matter() -> None:
    for a, b, _ in CLASHES:
        for texts in itertools.permutations([a, b, "left rib"]):
            with pytest.raises(ValueError, match="contradict"):
                check_consistent(texts)
