"""The prompter's benchmarks reach what the README says of them. Ratios only: seconds differ between machines."""

import pytest

from tests.benchmarks import generate, packing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_writing_reuses_what_was_computed_and_is_no_slower_than_transformers() -> None:
    figures = generate.measure()
    assert figures["ratio_to_recomputing"] >= 5
    # 1.13 when it was measured; what else the machine does moves it by a tenth.
    assert figures["ratio_to_transformers"] >= 0.9


def test_packing_saves_the_padding() -> None:
    figures = packing.measure()
    assert figures["packed_filled"] >= 0.8
    assert figures["packed_filled"] > figures["padded_filled"]
