"""The callback costs little more than its extractor. Ratios only: seconds differ from machine to machine."""

import pytest

from tests.benchmarks import callback_cost


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_callback_adds_at_most_a_tenth_to_the_bare_forward_passes() -> None:
    figures = callback_cost.measure(n=96, many=1000)
    assert figures["ratio"] <= 1.1
    assert figures["ratio"] > 0.95  # what was made does go through the extractor


def test_it_measures_the_whole_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_cost, "in_tuned_process", lambda *_: None)
    monkeypatch.setattr(callback_cost, "write", lambda name, figures: figures)
    figures = callback_cost.measure(n=6, size=64, rounds=1, many=12)
    # Real, reference and blurred images go through it too at first, and are kept then.
    assert figures["first_test_s"] > 2 * figures["callback_s"] > 2 * 0.5 * figures["forward_s"] > 0
    assert figures["added_ms_an_image"] == pytest.approx(1000 * (figures["callback_s"] - figures["forward_s"]) / 6)
