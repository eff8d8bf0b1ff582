"""Checks of texts beside the mention extractor's, and what weighs more in a text that fails."""

import pytest

from datamodules.reports.keywords import Keywords
from lightning_modules.networks.report_writer import Sampling
from lightning_modules.networks.text_checks import (
    faults,
    imprecise,
    is_fragment,
    restated,
    split_sentences,
    undrawable,
    view_conflicts,
    without_blanks,
)
from lightning_modules.networks.written import Request, read_back


def test_sentences_are_split_at_full_stops_only() -> None:
    text = "The heart measures 1.5 cm. No effusion. 1. Mild edema. Seen by Dr. Smith? Yes."
    assert split_sentences(text) == [
        "The heart measures 1.5 cm.", "No effusion.", "1. Mild edema.", "Seen by Dr. Smith?", "Yes.",
    ]  # fmt: skip
    assert split_sentences("") == []
    assert split_sentences("No effusion. ___ foreign body.") == ["No effusion.", "___ foreign body."]


def test_sentences_with_blanks_are_left_out_unless_all_have_one() -> None:
    assert without_blanks("No effusion. ___ foreign body. XXXX are clear. The heart is normal.") == (
        "No effusion. The heart is normal."
    )
    assert without_blanks("Normal XXXX. Compared to ___.") == "Normal XXXX. Compared to ___."
    assert without_blanks("") == ""


@pytest.mark.parametrize(
    ("text", "view", "wrong"),
    [
        ("Portable AP chest.", "PA", ["Portable", "AP"]),
        ("Portable AP chest.", "AP", []),
        ("PA and lateral views of the chest.", "AP", ["PA", "PA and lateral"]),
        ("PA and lateral views of the chest.", "PA", []),
        ("PA and lateral views of the chest.", "LATERAL", []),
        ("AP and lateral views of the chest.", "LATERAL", []),
        ("AP and lateral views of the chest.", "AP", []),
        ("Supine portable radiograph.", "LATERAL", ["Supine", "portable"]),
        ("The lateral costophrenic angle is clear.", "AP", []),
        ("Blunting is seen on the lateral view.", "AP", ["lateral view"]),
        ("Increased AP diameter of the chest.", "PA", []),
        ("Portable PA lateral.", "unknown", []),
    ],
)
def test_words_of_another_view(text: str, view: str, wrong: list[str]) -> None:
    assert view_conflicts(text, view) == wrong


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Stable cardiomegaly, unchanged since the prior examination.", {"comparison"}),
        ("Interval improvement of the effusion.", {"comparison"}),
        ("New right lower lobe opacity.", {"comparison"}),
        ("Opacity that may represent pneumonia.", {"hedge"}),
        ("History of cough.", {"history"}),
        ("Recommend CT for further evaluation.", {"advice"}),
        ("Small left pleural effusion. The heart is mildly enlarged.", set()),
        ("A tracheostomy tube ends above the carina. Old rib fractures.", set()),
    ],
)
def test_what_cannot_be_drawn(text: str, kinds: set[str]) -> None:
    assert {cue.split(":")[0] for cue in undrawable(text)} == kinds


def test_all_faults_of_a_text() -> None:
    text = "Portable chest XXXX. The lungs are clear. The lungs are clear. Unchanged."
    assert faults(text, view="PA", drawable=True) == (
        "blank: XX", "view: Portable", "repeated: The lungs are clear.", "comparison: unchanged",
    )  # fmt: skip
    assert faults("The lungs are clear.", view="AP", drawable=True) == ()
    assert faults("Unchanged.", view="AP", drawable=False) == ()
    known = {"the", "lungs", "are", "clear", "heart"}
    assert faults("The lungs are clear. The heart are.", view="AP", drawable=False, known=known) == ()
    assert faults("The lunglungs are clear.the heart. lungs are.", view="AP", drawable=False, known=known) == (
        "spelling: lunglungs", "spelling: clear.the", "spelling: lungs",
    )  # fmt: skip
    assert faults("The heart.5 lungs are.", view="AP", drawable=False, known=known) == ("spelling: heart.5",)


@pytest.mark.parametrize(
    "sentence",
    ["Left lung base.", "Since the thoracic spine.", "The heart and right hilum.", "There is noted.", "Is present."],
)
def test_places_alone_and_nothing_are_a_fragment(sentence: str) -> None:
    text = f"The lungs are clear. {sentence}"
    assert faults(text, view="AP", drawable=False) == (f"fragment: {sentence}",)


@pytest.mark.parametrize("sentence", ["Clear lungs.", "Left base opacity.", "Stable.", "Lungs: clear.", "1."])
def test_what_says_something_of_a_place_is_none(sentence: str) -> None:
    assert not is_fragment(sentence)


def test_what_is_said_twice() -> None:
    assert faults("No change change in the heart.", view="AP", drawable=False) == ("repeated: change",)
    assert faults("The heart heart is.", view="AP", drawable=False) == ("repeated: heart",)
    text = (
        "The aorta is tortuous. Mild edema. There is tortuosity of the thoracic aorta. No edema. Left and right edema."
    )
    assert restated(text) == ["tortuous aorta", "pulmonary edema"]
    assert restated("Tortuous aorta. No edema. No pneumothorax. No edema or pneumothorax.") == []


def test_what_would_have_to_be_said_again() -> None:
    asked, missing = ("severe emphysema", "left opacity", "edema"), ("severe emphysema", "left opacity")
    text = "Mild emphysema. Opacity in the right base. Mild edema. Scoliosis."
    assert imprecise(text, asked=asked, missing=missing) == ["mild emphysema", "right opacity"]
    assert imprecise(text, asked=asked, missing=()) == []
    assert imprecise("Severe emphysema. Left opacity.", asked=asked, missing=missing) == []


ASKED = Request(Keywords(("heart", "lung"), ("small left pleural effusion",)))


def test_contradictions_weigh_more_than_omissions() -> None:
    silent, wrong = read_back("The heart is normal.", ASKED), read_back("No pleural effusion. Heart and lungs.", ASKED)
    assert silent.severity < wrong.severity < read_back("", ASKED).severity
    assert not read_back("", Request(Keywords())).verified
    assert read_back("The lungs are clear.", Request(Keywords())).verified


def test_bad_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rescue -1"):
        Sampling(rescue=-1)
