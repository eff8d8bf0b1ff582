"""Precision, recall, density and coverage: by hand, against the `prdc` package, and where sets are known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torch import Tensor

from callbacks.metrics import manifold as module
from callbacks.metrics.manifold import manifold, radii, squared_distances


def draw(n: int, d: int, *, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_by_hand_on_a_line():
    # Real 0, 1, 3 have balls of radius 1, 1, 2 around them; made .5, 10, 11.5 of radius 9.5, 1.5, 1.5.
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [10.0], [11.5]])
    assert radii(real.double(), neighbours=1).sqrt().tolist() == [1.0, 1.0, 2.0]
    assert radii(fake.double(), neighbours=1).sqrt().tolist() == [9.5, 1.5, 1.5]
    found = manifold(real, fake, neighbours=1)
    # .5 lies in the balls of 0 and 1 (of 3: 2.5 > 2); all real points lie in the ball of .5.
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == 1.0
    assert found.density == pytest.approx(2 / 3)
    assert found.coverage == pytest.approx(2 / 3)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(8, 60), m=st.integers(8, 60), d=st.integers(1, 12), k=st.integers(1, 6), seed=st.integers(0, 999))
def test_equals_the_package(n: int, m: int, d: int, k: int, seed: int):
    real, fake = draw(n, d, seed=seed), draw(m, d, seed=seed + 1) * 0.8 + 0.3
    expected = compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    assert manifold(real, fake, neighbours=k)._asdict() == pytest.approx(expected, abs=1e-9)
    known = radii(real.double(), neighbours=k)
    assert manifold(real, fake, neighbours=k, real_radii=known)._asdict() == pytest.approx(expected, abs=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    real, fake = draw(50, 8, seed=0), draw(41, 8, seed=1)
    whole = manifold(real, fake)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert manifold(real, fake) == whole


def test_one_set_twice_is_perfect_and_two_far_apart_share_nothing():
    x = draw(200, 16, seed=0)
    found = manifold(x, x.clone())
    assert (found.precision, found.recall, found.coverage) == (1.0, 1.0, 1.0)
    assert manifold(x, x + 100) == (0.0, 0.0, 0.0, 0.0)


def test_dropped_modes_cost_recall_and_not_precision():
    real = torch.cat([draw(100, 8, seed=0), draw(100, 8, seed=1) + 20])
    fake = draw(200, 8, seed=2)
    found = manifold(real, fake)
    assert found.precision > 0.9
    assert found.recall <= 0.5
    assert found.coverage <= 0.5


def test_distances_of_near_copies_far_from_the_origin_survive_rounding():
    x = draw(5, 2048, seed=0).double() + 1000
    near = x + 1e-3
    found = squared_distances(x, near).diagonal()
    torch.testing.assert_close(found, (near - x).square().sum(dim=1), rtol=1e-2, atol=0)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="more than 5 images a side; there are 5 and 9"):
        manifold(draw(5, 3, seed=0), draw(9, 3, seed=1))
