"""The quantisers are not slower than those that one could install instead. Ratios only: above 1 ours is faster."""

import pytest

from tests.benchmarks import quantizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# Medians of alternating rounds on a busy machine still differ by this much from run to run.
MARGIN = 0.9


def test_ours_are_not_slower_than_the_libraries():
    pytest.importorskip("vector_quantize_pytorch")
    pytest.importorskip("monai")
    figures = quantizer.measure()
    ratios = {name: value for name, value in figures.items() if "_ratio_" in name}
    assert len(ratios) == 2 * 2 * (2 + 1 + 1)
    assert {name: value for name, value in ratios.items() if value < MARGIN} == {}
