"""What a text says against the keywords it was asked for, and what only looks so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.reports.contradictions import Denial, denials
from datamodules.reports.keywords import Keywords, verify


def contradicting(text: str, *asked: str) -> tuple[str, ...]:
    return verify(text, Keywords((), asked)).contradicting


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("small left pleural effusion", "Small left pleural effusion. Large left pleural effusion."),
        (
            "possible right fracture",
            "Possible right fourth rib fracture. Fracture of the right lateral third rib with moderate displacement.",
        ),
        ("mild pulmonary edema", "Mild pulmonary edema. Lungs are well expanded and clear."),
        ("cardiomegaly", "Enlarged cardiac silhouette, mild. The heart is enlarged, moderate in degree."),
        ("right opacity", "Right opacity. Unremarkable study. No acute disease."),
        ("right opacity", "Right opacity. Normal chest."),
        ("left nodule", "Left nodule. The chest is normal."),
        ("right opacity", "Right opacity. The right lung is clear."),
        ("bilateral opacity", "Bilateral opacity. The right lung is clear."),
        ("mild left pleural effusion", "Mild left pleural effusion. Moderate bilateral pleural effusions."),
        ("pneumonia", "Pneumonia. Possible pneumonia."),
        ("left fracture", "The osseous structures are unremarkable. Fracture of the left fifth rib."),
        ("left fracture", "Left rib fracture. The bones are intact."),
        ("vascular congestion", "Vascular congestion. Normal pulmonary vasculature."),
        ("pulmonary edema", "Pulmonary edema. Heart size and pulmonary vascularity are within normal limits."),
        ("left pneumonia", "Left pneumonia. No acute cardiopulmonary process."),
        ("small pneumothorax", "Small pneumothorax. No evidence of active disease."),
        ("opacity", "Opacity. No opacity."),
        ("bilateral pleural effusion", "Bilateral effusions. No left effusion."),
        ("right opacity", "Right infiltrate. No focal airspace disease."),
        ("mild cardiomegaly", "Mild cardiomegaly. The heart is normal."),
    ],
)
def test_a_text_against_itself_is_refused(asked: str, text: str) -> None:
    assert contradicting(text, asked) == (asked,)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        # A text may say more than was asked, and the same degree in the word that goes with the finding.
        ("left pleural effusion", "Small left pleural effusion. Small left effusion."),
        ("mild cardiomegaly", "Mild cardiomegaly. The heart is enlarged."),
        ("small left pleural effusion", "Small left pleural effusion. Minimal left effusion. Large right effusion."),
        # Denied is another thing: a larger one, a further one, one on another side, one that fills the alveoli.
        ("small pleural effusion", "Small effusion. No large effusion."),
        ("right nodule", "Right nodule. No other nodule."),
        ("pleural effusion", "Right effusion. No left effusion."),
        ("left opacity", "Streaky opacity at the left base. No focal airspace disease."),
        # A sign and what it may be.
        ("right opacity", "Right opacity, which may represent infiltrate. This could be airspace disease."),
        # What goes with "no acute disease", with clear lungs and with a normal chest.
        ("left fracture", "Left rib fracture. No acute disease."),
        ("scoliosis", "Scoliosis. No acute cardiopulmonary abnormality."),
        ("pneumonia", "Pneumonia. No acute bony abnormality."),
        ("atelectasis", "Atelectasis at the left base. The lungs are otherwise clear."),
        ("left opacity", "Left opacity. The right lung is clear."),
        ("opacity", "Opacity in the lingula. The right lung is clear."),
        ("left granuloma", "Left granuloma. Lungs are clear."),
        ("right nodule", "Calcified right nodule. Lungs are clear."),
        ("pacemaker", "Pacemaker. Normal chest. No acute disease."),
        ("opacity", "Opacity. Normal lung volumes. The lungs are hyperinflated with normal heart size."),
        ("pneumothorax", "Pneumothorax. Chest wall is normal."),
    ],
)
def test_what_goes_together_is_accepted(asked: str, text: str) -> None:
    assert contradicting(text, asked) == ()


def test_a_denial_names_what_it_denies() -> None:
    assert list(denials("Both lungs are clear. Left lung is normal! Heart and pulmonary vasculature are normal")) == [
        Denial("lung"),
        Denial("lung", "left"),
        Denial("pulmonary vasculature"),
    ]
    assert list(denials("No acute disease.\nNegative chest x-ray.")) == [Denial("acute"), Denial("study")]
    assert list(denials("The heart is normal. Lung apices are clear. Lungs are clear of infiltrate.")) == []


def test_two_sides_are_asked_for_themselves() -> None:
    asked = ("left pneumonia", "possible right pneumonia")
    assert contradicting("Left pneumonia. Possible right pneumonia. Pneumonia.", *asked) == ()
    assert contradicting("Left pneumonia. Right pneumonia.", *asked) == ("possible right pneumonia",)
    assert contradicting("Possible bilateral pneumonia. The left lung is clear.", *asked) == ("left pneumonia",)


def test_anatomy_on_a_side_is_anatomy() -> None:
    def missing(text: str, *asked: str) -> tuple[str, ...]:
        return verify(text, Keywords(asked)).missing

    assert missing("The right lung apex is normal.", "lung apex") == ()
    assert missing("Bilateral lung apices are normal.", "lung apex") == ()
    assert missing("The lung apex is normal.", "right lung apex") == ("right lung apex",)
    assert missing("The left lung apex is normal.", "right lung apex") == ("right lung apex",)
    assert missing("The left rib and the right rib are intact.", "bilateral rib", "rib") == ()
    assert missing("The left rib is intact.", "bilateral rib") == ("bilateral rib",)


SENTENCES = (
    *("Small left effusion.", "Large left effusion.", "No effusion.", "Right infiltrate.", "Right opacity."),
    *("No focal airspace disease.", "Lungs are clear.", "No acute disease.", "This may represent infiltrate."),
)


@given(st.lists(st.sampled_from(SENTENCES), max_size=6))
def test_what_follows_takes_no_contradiction_back(sentences: list[str]) -> None:
    asked = ("small left pleural effusion", "right opacity", "possible pneumonia")
    before: set[str] = set()
    for n in range(len(sentences) + 1):
        now = set(contradicting(" ".join(sentences[:n]), *asked))
        assert before <= now
        before = now
