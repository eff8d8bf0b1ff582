"""Tiles of explanations: colours, how much of the radiograph stays, rings, outlines and clue cells, pixel by pixel."""

import numpy as np
import pytest
import torch

from callbacks.overlays import (
    FAINTEST,
    OPACITY,
    OUTLINE,
    RAMP,
    WORD_COLOURS,
    clue_tile,
    colours,
    outline,
    overlay,
    probability,
    radiograph,
    strength,
    word_tile,
)
from tests.callbacks.explained import Clue, Word, hot


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours [...,3] in 0 to 255."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_equal_steps_of_the_ramp_are_equal_steps_of_lightness() -> None:
    assert colours(np.array([0.0, 1.0])).tolist() == [[13, 8, 135], [240, 249, 33]]
    assert colours(np.array(0.5 / 9)).tolist() == [42, 6, 147]  # half way between the first two points
    steps = np.diff(lightness(RAMP))
    assert (steps > 0).all()
    assert steps.max() / steps.min() < 2


def test_strength_runs_from_the_median_to_the_highest() -> None:
    heat = torch.tensor([[-0.5, 0.1, 0.2], [0.2, 0.2, 0.3], [0.4, 0.1, 0.6]])
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.25], [0.5, 0.0, 1.0]])
    torch.testing.assert_close(strength(heat), expected)
    assert strength(torch.full((3, 3), 0.7)).abs().max() == 0


def test_the_overlay_keeps_the_radiograph_where_nothing_is_and_below_the_peak() -> None:
    image = torch.linspace(-1, 1, 64).view(8, 8)
    grey = radiograph(image, size=8)
    assert grey[..., 0].flatten().tolist() == pytest.approx(np.linspace(0, 255, 64), abs=0.51)
    assert (grey == grey[..., :1]).all()
    for evidence, shown in ((0.0, 0.5), (40.0, 1.0), (-40.0, 0.0)):
        drawn = overlay(image, Word(hot(2, 3, size=8), evidence=evidence), size=8)
        elsewhere = np.ones((8, 8), dtype=bool)
        elsewhere[2, 3] = False
        assert (drawn[elsewhere] == grey[elsewhere]).all()
        alpha = OPACITY * (FAINTEST + (1 - FAINTEST) * shown)
        exact = (float(image[2, 3]) + 1) * 127.5
        assert drawn[2, 3].tolist() == pytest.approx(alpha * RAMP[-1] + (1 - alpha) * exact, abs=0.51)
    assert OPACITY < 1
    # Two pixels under the same colour keep the order of their greys.
    dark, bright = (overlay(torch.full((8, 8), v), Word(hot(2, 3, size=8)), size=8)[2, 3].sum() for v in (-1.0, 1.0))
    assert bright - dark > 255


def test_probabilities_of_any_logit() -> None:
    assert probability(0.0) == 0.5
    assert probability(np.log(3)) == pytest.approx(0.75)
    assert (probability(1e4), probability(-1e4)) == (1.0, 0.0)


def test_the_outline_is_the_inner_border_of_the_region() -> None:
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:7, 1:6] = True
    expected = region.clone()
    expected[3:6, 2:5] = False
    assert outline(region, size=8, width=1).tolist() == expected.tolist()
    # At the border of the picture it stays open.
    region[:] = False
    region[:3] = True
    assert outline(region, size=8, width=1).nonzero()[0].tolist() == [2] * 8
    doubled = outline(region, size=16, width=2)
    assert sorted(set(doubled.nonzero()[0].tolist())) == [4, 5]


def test_a_word_s_tile_has_a_ring_around_the_peak_and_the_outline() -> None:
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[10:14, 1:6] = True
    tile = np.asarray(word_tile(torch.zeros(16, 16), Word(hot(4, 8), peak=(8.5 / 16, 4.5 / 16)), region, size=160))
    white = (tile == 255).all(axis=-1)
    rows, columns = white.nonzero()
    assert (rows.mean(), columns.mean()) == (pytest.approx(45, abs=1), pytest.approx(85, abs=1))
    assert not white[43:48, 83:88].any()  # a ring, not a disc: the peak itself is seen
    cyan = (tile == OUTLINE).all(axis=-1)
    assert np.flatnonzero(cyan.any(axis=1))[[0, -1]].tolist() == [100, 139]
    assert np.flatnonzero(cyan.any(axis=0))[[0, -1]].tolist() == [10, 59]
    assert not cyan[110:130, 20:50].any()


def test_clue_cells_have_their_word_s_colour_and_their_place() -> None:
    clues = [Clue(positions=(6, 7)), Clue(positions=(12,), word="cardiomegaly"), Clue(positions=(1,))]
    tile = np.asarray(clue_tile(torch.full((16, 16), -1.0), clues, size=80)).astype(int)
    for position, ink in ((6, 0), (7, 0), (12, 1), (1, 0)):
        row, column = divmod(position, 4)
        inside = tile[20 * row + 10, 20 * column + 10]
        assert inside.tolist() == pytest.approx(np.array(WORD_COLOURS[ink]) * 110 / 255, abs=1.5)
        assert tile[20 * row, 20 * column + 10].tolist() == list(WORD_COLOURS[ink])
    assert tile[30, 10].tolist() == [0, 0, 0]  # a cell without a clue
