"""Composed explanations: what stands below a tile, how the report is marked, where the tiles are."""

import numpy as np
import pytest
import torch

from callbacks.explanation_pictures import (
    LINE,
    MAX_LINES,
    STATUS,
    Explained,
    caption,
    clue_caption,
    compose_explanations,
    report_lines,
)
from callbacks.grids import MARGIN
from callbacks.overlays import radiograph, word_tile
from tests.callbacks.explained import Clue, Word, hot

REPORT = "Left pleural effusion. No pneumothorax. The heart is normal."
EFFUSION = Word(hot(3, 3), span=(5, 21), evidence=np.log(9))
DENIED = Word(hot(0, 0), "pneumothorax", status="absent", side=None, span=(26, 38), evidence=-np.log(3))


def explained(maps: list[Word], report: str = REPORT, **options: object) -> Explained:
    image = torch.linspace(-1, 1, 256).view(16, 16)
    return Explained("image-1", image, report, maps, [None] * len(maps), **options)  # type: ignore[arg-type]


def test_captions_say_word_status_evidence_and_range() -> None:
    assert caption(EFFUSION) == ["left pleural effusion", "stated; evidence 90 %", "cosine 0.00 to 1.00"]
    assert caption(DENIED)[:2] == ["no pneumothorax", "denied; evidence 25 %"]
    doubtful = Word(torch.tensor([[0.1, 0.2, 0.42]]), "edema", status="uncertain", side=None)
    assert caption(doubtful) == ["? edema", "doubtful; evidence 50 %", "cosine 0.20 to 0.42"]
    lobe = Word(hot(0, 0), "left lower lobe", kind="anatomy", side="left")
    assert caption(lobe)[:2] == ["left lower lobe", "named; evidence 50 %"]
    clues = [Clue((0, 1), score=0.5), Clue((5,), "cardiomegaly", score=0.4), Clue((2,), score=0.75)]
    assert [text for text, _ in clue_caption(clues)[1:]] == ["pleural effusion: 3; 0.75", "cardiomegaly: 1; 0.40"]


def test_the_words_that_a_tile_shows_are_marked_in_the_report() -> None:
    lines = report_lines(explained([EFFUSION, DENIED]), width=150)
    assert " ".join(piece.text for line in lines for piece in line) == REPORT
    assert len(lines) > 1
    marked = {piece.text: piece.ink for line in lines for piece in line if piece.shown}
    absent = STATUS["absent"][0]
    assert marked == {"pleural": (0, 0, 0), "effusion.": (0, 0, 0), "pneumothorax.": absent}
    long = report_lines(explained([], "word " * 2000), width=300)
    assert len(long) == MAX_LINES
    assert long[-1][-1].text == "..."
    assert [[piece.text for piece in line] for line in report_lines(explained([], ""), width=300)] == [
        ["(no", "report)"]
    ]


@pytest.mark.parametrize("clues", [(), (Clue(),)])
def test_tiles_stand_where_the_layout_says(clues: tuple[Clue, ...]) -> None:
    one = explained([EFFUSION, DENIED], clues=clues)
    picture = np.asarray(compose_explanations([one, one], cell=64, columns=2))
    assert picture.shape[1] == 2 * (64 + MARGIN) + MARGIN
    first = radiograph(one.image, size=64)
    second = np.asarray(word_tile(one.image, EFFUSION, None, size=64))
    tops = [
        top for top in range(picture.shape[0] - 64) if (picture[top : top + 64, MARGIN : MARGIN + 64] == first).all()
    ]
    assert len(tops) == 2  # a band each
    left = 2 * MARGIN + 64
    for top in tops:
        assert (picture[top : top + 64, left : left + 64] == second).all()
        assert picture[top + 64 : top + 64 + 3 * LINE, left : left + 64].min() == 0  # its caption's ink
    third = np.asarray(word_tile(one.image, DENIED, None, size=64))
    below = [
        top for top in range(tops[0] + 64, tops[1]) if (picture[top : top + 64, MARGIN : MARGIN + 64] == third).all()
    ]
    assert len(below) == 1  # two tiles a row
    beside = picture[below[0] : below[0] + 64, left : left + 64]
    assert (beside.min() == 255) == (not clues)


def test_the_legend_names_marked_regions_only_where_there_are_any() -> None:
    region = torch.ones(16, 16, dtype=torch.bool)
    one = Explained("a", torch.zeros(16, 16), REPORT, [EFFUSION], [region])
    for shown, marked in ((one, True), (explained([EFFUSION]), False)):
        picture = np.asarray(compose_explanations([shown], cell=160, columns=4))
        legend = picture[: int(np.flatnonzero((picture == 190).all(axis=(1, 2)))[0])]
        assert (legend == (0, 255, 255)).all(axis=-1).any() == marked
        assert (legend == (13, 8, 135)).all(axis=-1).any()  # the ramp's ends
        assert (legend == (240, 249, 33)).all(axis=-1).any()
