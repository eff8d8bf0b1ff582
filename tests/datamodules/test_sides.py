"""Left and right change places in a report, and nothing else changes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.phantom.report import report
from datamodules.phantom.study import study
from datamodules.reports.sides import (
    ABBREVIATIONS,
    AFTER_LETTER,
    GIROS,
    IRRADIATED,
    SWAP,
    TURNS,
    WORD,
    swap_sides,
    unresolved,
)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("Left pleural effusion.", "Right pleural effusion."),
        ("RIGHT LOWER LOBE", "LEFT LOWER LOBE"),
        ("left-sided PICC, right/left, rightward shift", "right-sided PICC, left/right, leftward shift"),
        ("LLL and RUL opacities, lll", "RLL and LUL opacities, rll"),
        ("RML collapse in the right middle lobe", "LML collapse in the left lingula"),
        ("L middle lobe and R lingula", "R lingula and L middle lobe"),
        ("Lingular opacity. LINGULA", "Middle lobar opacity. MIDDLE LOBE"),
        ("The Middle Lobe, middle lobes and sublingular", "The Middle Lobe, middle lobes and sublingular"),
        ("the left mid lung", "the right mid lung"),
        ("LV enlargement, left ventricle", "RV enlargement, right ventricle"),
        ("mild dextroscoliosis; Levocurvature", "mild levoscoliosis; Dextrocurvature"),
        ("R IJ line, L-sided chest tube", "L IJ line, R-sided chest tube"),
        ("effusions, L > R", "effusions, R > L"),
        ("effusions (R>L)", "effusions (L>R)"),
        ("Rt. base, lt base", "Lt. base, rt base"),
        ("RT LOWER LOBE, LT PICC, RT > LT", "LT LOWER LOBE, RT PICC, LT > RT"),
        ("effusions, R greater than L; R and L bases", "effusions, L greater than R; L and R bases"),
        ("pneumothorax (R), drain [L]", "pneumothorax (L), drain [R]"),
        ("opacity on the R, shift to the L.", "opacity on the L, shift to the R."),
        ("L. lower lobe, R effusion, R mainstem", "R. lower lobe, L effusion, L mainstem"),
        ("Dextrocardia, dextro curvature, dextro-convex", "Levocardia, levo curvature, levo-convex"),
        ("situs inversus", "situs solitus"),
        ("RCA and LMSB; right-hand side, leftside", "LCA and RMSB; left-hand side, rightside"),
        # Spanish, in full, stemmed as in PadChest, and shortened.
        ("Derrame pleural derecho, base izquierda.", "Derrame pleural izquierdo, base derecha."),
        ("HEMITÓRAX DERECHO. Izquierdos", "HEMITÓRAX IZQUIERDO. Derechos"),
        ("pinzamient sen costofren derech . lsi y lid", "pinzamient sen costofren izquierd . lsd y lii"),
        ("pulmon dcho., base izq, LSD, hti", "pulmon izdo., base dch, LSI, htd"),
        ("izqda drcho", "drcha izqdo"),
        ("Escoliosis dextroconvexa, levoescoliosis", "Escoliosis levoconvexa, dextroescoliosis"),
        ("escoliosis sinistroconvexa, dextrorrotación", "escoliosis destroconvexa, levorrotación"),
        ("Dextrocardia con situs inversus", "Levocardia con situs solitus"),
        # The sentence is not understood: these are swapped though no side is meant.
        ("The patient left; all right.", "The patient right; all left."),
        ("___left", "___right"),
    ],
)
def test_swapped(text, swapped):
    assert swap_sides(text) == swapped
    assert swap_sides(swapped) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Upright view, bright bone, leftover contrast, alright, cleft, lefty.",
        "Compression of L1, L 2 and 2.5 L of fluid, R/O pneumonia, vitamin R.",
        "Bilateral, contralateral, ipsilateral, midline.",
        "Opacity behind the aortic knob.",
        "Status post RT, RA 95 %, LT 4, RT chest for breast cancer.",
        "L-spine, L spine films, R/O L4 fracture, on the L1 level.",
        "levofloxacin, levo 750 mg, dextrose, levothyroxine, dextro",
        "levofloxacino, levotiroxina, dextrosa, der, VI, d, lm, el derrame, situación",
        "corazón, cayado aórtico, língula, bilateral, contralateral, lóbulo medio",
        "rIGHT lEFT",
    ],
)
def test_left_alone(text):
    assert swap_sides(text) == text


CONTEXT = ["L", "R", "LT", "RT", " and ", " to ", " > ", ">", " ", "(", ")", "on the ", "spine", "lung", "base", ". "]


@pytest.mark.parametrize(
    "text",
    [
        *("Small L effusion, R clear.", "L small pleural effusion.", "R central venous line.", "L lat", "L ICD"),
        *("R hydro-PTX", "L->R shunt", "Dr. R. Smith", "Clear on L.", "___L base", "RT 4", "s/p RT", "LT"),
        # Numbers beside them that may count ribs or sort lines.
        *(
            "L 2nd rib",
            "L4 rib fracture",
            "L4-6 ribs",
            "L 5, 6 and 7 ribs",
            "R6",
            "L12",
            "ribs 5 and 6 L.",
            "1. L clear",
        ),
        "Left effusion, L1 normal, L clear.",
    ],
)
def test_capitals_that_may_be_a_side_are_unresolved(text):
    assert unresolved(text)
    assert unresolved(swap_sides(text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "Small left effusion.",
            "RLL opacity, LUL clear.",
            "R>L effusions",
            "R IJ line",
            "(R)",
            "lt base, Rt base",
        ),
        *("R PICC tip in SVC.", "on the R", "effusions, R greater than L", "RT LOWER LOBE", "L upper lobe"),
        *("Compression of L1.", "L4-5, L5-S1, L1 and L2", "L-spine", "L spine films", "R/O pneumonia", "vitamin R"),
        *("2.5 L of fluid", "2.5L drained", "1-1.5 L", "on 3 L NC", "2 L of fluid", "5L O2", "4 L/min", "2 L per min"),
    ],
)
def test_what_is_swapped_or_no_side_is_resolved(text):
    assert not unresolved(text)
    assert not unresolved(swap_sides(text))


@given(st.lists(st.sampled_from([*CONTEXT, "2.5 ", "1", " of ", "rib", "/O"]), max_size=14).map("".join))
def test_a_text_and_the_swapped_one_are_alike_unresolved(text):
    assert unresolved(swap_sides(text)) == unresolved(text)


SPANISH = ["derech", "izquierda", "Dcho", "IZDA", "izq", "lsd", "LII", "dextro", "convexa", "derrame", "ó"]
PIECES = [*SWAP, "L", "R", "L1", "5L", ">", " ", "-", "/", "_", ".", "\n", "upright", "ı", "É", *AFTER_LETTER[:12]]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(alphabet="LRlr <>=-lung1_.é", max_size=30))
def test_swapping_twice_gives_the_text_back(text):
    assert swap_sides(swap_sides(text)) == text


@given(st.lists(st.sampled_from([*SPANISH, *SWAP, " ", ",", ".", "-"]), max_size=14).map(" ".join))
def test_spanish_is_given_back(text):
    assert swap_sides(swap_sides(text)) == text
    assert [word.islower() for word in text.split()] == [word.islower() for word in swap_sides(text).split()]


@given(st.lists(st.sampled_from(CONTEXT), max_size=14).map("".join))
def test_letters_that_their_neighbours_explain_are_given_back(text):
    assert swap_sides(swap_sides(text)) == text


@given(st.text(max_size=60))
def test_any_text_is_given_back(text):
    assert swap_sides(swap_sides(text)) == text


@given(st.integers(0, 10_000))
def test_phantom_reports_change_their_sides_alone(index):
    before = report(study(0, index))
    after = swap_sides(before)
    counts = [
        [len(re.findall(rf"\b{side}\b", t, re.IGNORECASE)) for side in ("left", "right")] for t in (before, after)
    ]
    assert counts[0] == counts[1][::-1]
    neutral = re.compile(r"left|right|lingula|middle lobe", re.IGNORECASE)
    assert neutral.sub("*", before) == neutral.sub("*", after)


def test_the_table_is_its_own_inverse_and_holds_single_words():
    assert all(SWAP[SWAP[word]] == word for word in SWAP)
    assert all(WORD.fullmatch(word) for word in SWAP)
    assert len(set(ABBREVIATIONS)) == len(ABBREVIATIONS)
    # A word that decides whether a letter is a side must not change with it.
    assert not {word for word in (*AFTER_LETTER, *TURNS, *GIROS) if word in SWAP}
    assert set(IRRADIATED) <= set(AFTER_LETTER)
