"""The Fréchet distance is as fast as the README says, and the same number."""

import pytest

from tests.benchmarks import frechet


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_distance_is_faster_than_scipy_s_and_torchmetrics_and_equal() -> None:
    figures = frechet.measure(rounds=1)
    assert figures["5000_ratio_scipy"] >= 8
    assert figures["5000_ratio_torchmetrics"] >= 2.5
    assert figures["1000_ratio_scipy"] >= 40
    assert figures["1000_ratio_torchmetrics"] >= 12
    for n in (5000, 1000):
        assert figures[f"{n}_differs_scipy"] < 1e-6
        assert figures[f"{n}_differs_torchmetrics"] < 1e-6
