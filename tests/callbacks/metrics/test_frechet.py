"""Fréchet distance and KID against closed forms, scipy and torchmetrics."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from callbacks.metrics.frechet import frechet_distance, jackknife, kid, moments


def draw(n: int, d: int, *, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def with_moments(mean: Tensor, cov: Tensor, *, n: int, seed: int) -> Tensor:
    """Samples whose sample mean and unbiased covariance are exactly these."""
    x = draw(n, len(mean), seed=seed).double()
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(cov).T + mean


def test_distance_of_commuting_gaussians_is_the_closed_form():
    # |(3,4)|² + (√4 - √1)² + (√9 - √1)² = 25 + 1 + 4
    x = with_moments(torch.zeros(2).double(), torch.diag(torch.tensor([4.0, 9.0])).double(), n=50, seed=0)
    y = with_moments(torch.tensor([3.0, 4.0]).double(), torch.eye(2).double(), n=70, seed=1)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(30.0, abs=1e-9)


def test_distance_of_two_images_by_hand():
    # One feature: x = {0, 2}: mean 1, variance 2; y = {3, 7}: mean 5, variance 8. 16 + (√2 - √8)² = 18.
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(18.0, abs=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 80, 7), (12, 9, 20), (60, 12, 20), (12, 60, 20), (20, 21, 20)])
def test_distance_equals_scipy_square_root_also_with_singular_covariance(n: int, m: int, d: int):
    x, y = draw(n, d, seed=2).double().numpy(), (draw(m, d, seed=3) @ draw(d, d, seed=4) + 0.3).double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # tr (Σx Σy)^½ = tr (Σx^½ Σy Σx^½)^½, whose eigenvalues are real and not negative
    values, vectors = scipy.linalg.eigh(cov_x)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(scipy.linalg.eigvalsh(root @ cov_y @ root).clip(0)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    got = frechet_distance(moments(torch.from_numpy(x)), moments(torch.from_numpy(y)))
    assert got == pytest.approx(expected, rel=1e-6)


class Identity(nn.Module):
    num_features = 8

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_distance_equals_torchmetrics_on_the_same_features():
    x, y = draw(100, 8, seed=5), draw(90, 8, seed=6) * 1.5 + 0.2
    reference = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    reference.update(x, real=True)
    reference.update(y, real=False)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(reference.compute().item(), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(1, 20), seed=st.integers(0, 1000))
def test_distance_properties(n: int, d: int, seed: int):
    x, y = moments(draw(n, d, seed=seed)), moments(draw(n + 3, d, seed=seed + 1) * 2)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    assert frechet_distance(x, y) > 0


@pytest.mark.parametrize("decay", [0, 6, 14])
@pytest.mark.parametrize("dead", [0, 9])
def test_distance_of_a_wide_spectrum_is_exact(decay: int, dead: int):
    """Squares of small singular values drown in rounding; `dead` features never vary."""
    torch.manual_seed(0)
    spread = torch.logspace(0, -decay / 2, 40, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64)).Q
    x, y = (torch.randn(n, 40, dtype=torch.float64) * spread @ turn for n in (300, 350))
    x, y = (torch.cat([part, torch.full((len(part), dead), 0.3, dtype=torch.float64)], dim=1) for part in (x, y))
    roots = [torch.linalg.qr((part - part.mean(0)) / math.sqrt(len(part) - 1), mode="r").R for part in (x, y)]
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + sum(root.square().sum() for root in roots) - 2 * cross
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(moments(x), moments(x)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("n", [30, 4, 3])
def test_moments_give_the_covariance(n: int):
    x = draw(n, 4, seed=7)
    found, expected = moments(x), np.cov(x.double().numpy(), rowvar=False)
    covariance = found.covariance if found.rows is None else found.rows.T @ found.rows
    assert (found.rows is None) == (n > 4)
    assert covariance is not None
    np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-12)
    assert found.variance.item() == pytest.approx(np.trace(expected))


def test_moments_refuse_what_has_none():
    x = draw(30, 4, seed=7)
    with pytest.raises(ValueError, match=r"\[1, 4\].*at least 2 images"):
        moments(x[:1])
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 30 images are not finite"):
        moments(x)
    with pytest.raises(ValueError, match="4 and 5 features"):
        frechet_distance(moments(draw(9, 4, seed=0)), moments(draw(9, 5, seed=0)))


def test_jackknife_error_is_the_spread_over_fresh_draws():
    distances, errors = [], []
    for seed in range(40):
        x, y = draw(150, 8, seed=2 * seed), draw(150, 8, seed=2 * seed + 1) * 1.3 + 0.3
        distances.append(frechet_distance(moments(x), moments(y)))
        errors.append(jackknife(x, y, torch.arange(150)).error)
    assert float(np.mean(errors)) == pytest.approx(float(np.std(distances, ddof=1)), rel=0.35)


def test_infinity_takes_away_what_few_images_add():
    """The distance of the two distributions is 1; at N = 150 the figure is two thirds higher."""
    plain, corrected = [], []
    shift = torch.zeros(12)
    shift[0] = 1.0
    for seed in range(0, 40, 2):
        x, y = draw(150, 12, seed=seed), draw(150, 12, seed=seed + 1) + shift
        plain.append(frechet_distance(moments(x), moments(y)))
        corrected.append(jackknife(x, y, torch.arange(150)).infinity)
    assert np.mean(plain) > 1.5
    assert np.mean(corrected) == pytest.approx(1.0, abs=0.15)  # whose own spread is 0.05


def test_jackknife_error_keeps_patients_together():
    # Each patient's image is there 5 times: as many independent images as patients, whatever the number of rows.
    rows = torch.arange(60).repeat_interleave(5)
    by_patient, by_image = [], []
    for seed in range(4):
        x, y = draw(60, 4, seed=2 * seed), draw(60, 4, seed=2 * seed + 1) + 0.5
        by_patient.append(jackknife(x[rows], y[rows], rows).error)
        assert by_patient[-1] == pytest.approx(jackknife(x, y, torch.arange(60)).error, rel=0.02)
        scattered = torch.randperm(300, generator=torch.Generator().manual_seed(seed))
        by_image.append(jackknife(x[rows], y[rows], scattered).error)
    # Dealt without regard to patients, the copies make the figure look more certain than it is.
    assert sum(by_image) < 0.75 * sum(by_patient)


@pytest.mark.parametrize("d", [3, 58, 70])
def test_jackknife_is_that_of_the_sets_with_each_part_left_out(d: int):
    """Of 60 rows in 20 parts of patients: more rows than features, fewer without a part, and fewer at all."""
    x, y = draw(60, d, seed=1) + 5, draw(60, d, seed=2) + 6
    part = torch.arange(60) // 3
    whole = frechet_distance(moments(x), moments(y))
    left = [frechet_distance(moments(x[part != fold]), moments(y[part != fold])) for fold in range(20)]
    pseudo = 20 * whole - 19 * torch.tensor(left, dtype=torch.float64)
    found = jackknife(x, y, part)
    assert found.distance == whole
    assert found.infinity == pytest.approx(pseudo.mean().item(), rel=1e-8)
    assert found.error == pytest.approx(math.sqrt(pseudo.var().item() / 20), rel=1e-6)


def test_jackknife_error_of_too_few_is_no_number():
    x = draw(10, 2, seed=0)
    found = jackknife(x, x + 1, torch.arange(10) // 5)
    assert found.distance == pytest.approx(2.0)  # one apart in both features
    assert math.isnan(found.error)
    assert math.isnan(found.infinity)
    assert math.isnan(jackknife(x[:4], x[:4] + 1, torch.arange(4)).error)


def test_kid_by_hand_and_against_torchmetrics():
    # D = 1: k(a, b) = (ab + 1)³. x = {0, 1}: k(0,1) = 1. y = {1, 2}: k(1,2) = 27.
    # Cross: k(0,1), k(0,2) = 1, 1; k(1,1), k(1,2) = 8, 27; mean 37/4. 1 + 27 - 2 · 37/4 = 9.5
    by_hand = kid(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]))
    assert by_hand.mean == pytest.approx(9.5, abs=1e-12)
    assert by_hand.subsets == 1
    assert by_hand.subset_size == 2
    assert math.isnan(by_hand.std)
    x, y = draw(40, 6, seed=1).double(), draw(40, 6, seed=2).double() + 0.4
    assert kid(x, y).mean == pytest.approx(poly_mmd(x, y).item(), rel=1e-9)


@pytest.mark.parametrize("subsets", [3, 60])
def test_kid_over_subsets_is_the_mean_of_their_kids(subsets: int):
    """Few subsets have their own kernels, many share one."""
    x, y = draw(90, 5, seed=0), draw(70, 5, seed=1) + 0.3
    generator = torch.Generator().manual_seed(4)
    values = []
    for _ in range(subsets):
        i, j = (torch.randperm(len(z), generator=generator)[:20] for z in (x, y))
        values.append(kid(x[i], y[j]).mean)
    found = kid(x, y, subset_size=20, subsets=subsets, seed=4)
    assert found.mean == pytest.approx(sum(values) / subsets, rel=1e-12)
    assert found.std == pytest.approx(float(np.std(values, ddof=1)), rel=1e-9)


def test_kid_over_subsets_is_unbiased_and_repeatable():
    x, y = draw(300, 5, seed=3), draw(200, 5, seed=4)
    drawn = kid(x, y, subset_size=50, subsets=200, seed=1)
    assert drawn == kid(x, y, subset_size=50, subsets=200, seed=1)
    assert abs(drawn.mean) < 4 * drawn.std / math.sqrt(200) + 0.02
    assert kid(x, y + 1, subset_size=50, subsets=20).mean > 10 * drawn.std
    # Subsets never exceed the smaller set.
    assert kid(x, y).subset_size == 200
    with pytest.raises(ValueError, match="there are 300 and 1"):
        kid(x, y[:1])
