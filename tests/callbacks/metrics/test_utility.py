"""The grid of training sets, the draws, the intervals and the shifts, by hand."""

import math

import pytest
import torch
from scipy import stats

from callbacks.metrics.labelled import ImageBank, LabelledImages
from callbacks.metrics.training import Recipe, shifted
from callbacks.metrics.utility import Cell, counts, dealt, gain_draws, gains, grid, over_seeds, training_set


def images(n: int, *, first: int = 0) -> LabelledImages:
    """Image i is all of grey level first + i."""
    values = torch.arange(first, first + n)
    pixels = values.to(torch.uint8)[:, None, None].expand(n, 2, 2).contiguous()
    return LabelledImages(pixels, torch.zeros(n, 14), values)


def test_the_grid_leaves_out_the_empty_set():
    assert [cell.name for cell in grid([1.0, 0.0], [0.5, 0])] == ["0/0.5", "1/0", "1/0.5"]
    for shares, ratios in (([1.1], [0]), ([1, 1], [0]), ([0], [0]), ([1], [-1])):
        with pytest.raises(ValueError, match=r"real_shares|synthetic_ratios"):
            grid(shares, ratios)


def test_counts_and_nested_draws():
    assert counts(Cell(0.01, 0.5), real=40) == (1, 20)
    assert counts(Cell(0.0, 1.0), real=40) == (0, 40)
    real, synthetic = images(40), images(60, first=100)
    small, large = (training_set(Cell(share, 0.5), real, synthetic, seed=3) for share in (0.1, 1.0))
    of_small, of_large = (set(one.pixels[:, 0, 0].tolist()) for one in (small, large))
    assert len(of_small) == len(small.pixels) == 4 + 20
    assert of_small < of_large
    assert {value for value in of_large if value < 100} == set(range(40))
    other = training_set(Cell(0.1, 0.5), real, synthetic, seed=4)
    assert set(other.pixels[:, 0, 0].tolist()) != of_small
    with pytest.raises(
        ValueError, match=r"2 asks for 80 synthetic images \(40 real ones\), and there are 60.*up to 1\.5"
    ):
        training_set(Cell(1.0, 2.0), real, synthetic, seed=0)


def test_intervals_are_student_s():
    values = [0.7, 0.8, 0.75, 0.72]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert over_seeds(values) == pytest.approx((sum(values) / 4, expected.low, expected.high))
    assert math.isnan(over_seeds([0.7]).low)


def test_gains_are_paired_by_seed():
    found = gains({Cell(1, 0): [0.6, 0.8], Cell(1, 1): [0.65, 0.85], Cell(0, 1): [0.5, 0.5], Cell(0.1, 1): [0.5, 0.5]})
    assert set(found) == {Cell(1, 1)}
    assert found[Cell(1, 1)] == pytest.approx((0.05, 0.05, 0.05))


def test_shifts_repeat_the_edges():
    pixels = torch.arange(6, dtype=torch.uint8).view(1, 2, 3).repeat(2, 1, 1)
    moved = shifted(pixels, torch.tensor([[1, 0], [0, -2]]))
    assert moved[0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert moved[1].tolist() == [[2, 2, 2], [5, 5, 5]]
    with pytest.raises(ValueError, match="steps 0"):
        Recipe(steps=0)


def test_a_bank_s_order_is_that_of_the_ids_and_repeats_are_dropped():
    pixels = torch.arange(4).view(4, 1, 1, 1).expand(4, 1, 2, 2) / 127.5 - 1
    ids = [f"i{k}" for k in range(4)]
    one, other = ImageBank(), ImageBank()
    one.add(pixels, torch.zeros(4, 14), ids=ids, patients=ids)
    for rows in ([2, 0], [3, 2, 1]):
        names = [ids[k] for k in rows]
        other.add(pixels[rows], torch.zeros(len(rows), 14), ids=names, patients=names)
    first, second = one.gathered(), other.gathered()
    assert first.digest() == second.digest()
    assert sorted(first.pixels[:, 0, 0].tolist()) == [0, 1, 2, 3]
    assert (first.repeated, second.repeated) == (0, 1)
    with pytest.raises(ValueError, match=r"image i1: label 2 is -1; expected 1, 0 or NaN"):
        one.add(pixels[:2], torch.tensor([[0.0] * 14, [0, 0, -1.0] + [0] * 11]), ids=ids[:2], patients=ids[:2])
    with pytest.raises(ValueError, match="of one size"):
        ImageBank().gathered()


def test_what_is_left_to_do_is_dealt_out_evenly():
    jobs = list("abcdefghij")
    # Every other one is kept: dealing before looking would leave one of two ranks with nothing to do.
    assert dealt(jobs, set("acegi"), rank=0, ranks=2) == ["b", "f", "j"]
    assert dealt(jobs, set("acegi"), rank=1, ranks=2) == ["d", "h"]
    assert dealt(jobs, jobs, rank=0, ranks=2) == []
    for ranks in (1, 2, 3, 4):
        shares = [dealt(jobs, set("abj"), rank=rank, ranks=ranks) for rank in range(ranks)]
        assert sorted(job for share in shares for job in share) == list("cdefghi")
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_gains_of_patients_are_those_of_the_same_draw():
    draws = {
        Cell(0.0, 1.0): torch.tensor([0.5, 0.5, 0.5]),
        Cell(0.1, 1.0): torch.tensor([0.9, 0.7, math.nan]),
        Cell(1.0, 0.0): torch.tensor([0.5, 0.75, 0.25]),
        Cell(1.0, 1.0): torch.tensor([0.75, 1.0, 0.5]),
        Cell(1.0, 2.0): torch.tensor([0.5, 0.5, math.nan]),
    }
    found = gain_draws(draws)
    assert set(found) == {Cell(1.0, 1.0), Cell(1.0, 2.0)}  # 10 % of the real ones are not there alone
    assert found[Cell(1.0, 1.0)].tolist() == [0.25, 0.25, 0.25]  # though each AUROC goes from draw to draw
    assert found[Cell(1.0, 2.0)].tolist()[:2] == [0.0, -0.25]
    assert found[Cell(1.0, 2.0)].isnan().tolist() == [False, False, True]
