"""What a text copies from training reports, counted by hand, and how often it may."""

import pytest

from lightning_modules.networks.copying import CopiedNgrams

REPORT = "one two three four five six seven eight nine"


def test_copied_runs_of_eight_words() -> None:
    copied = CopiedNgrams([REPORT])
    assert copied("Zero TWO three four five six seven eight nine ten")
    assert not copied("one two three four five six seven nine eight")
    assert not copied("one two three four five six seven")  # too short to hold eight
    assert copied.count(f"zero {REPORT} ten") == 2
    assert copied.new(f"zero {REPORT} ten") == (2, 4)
    assert copied.count("") == 0


def test_a_report_repeats_another_but_not_itself() -> None:
    twice = "a b c d e f g h a b c d e f g h"
    assert CopiedNgrams([twice, REPORT]).repeating == 0
    assert CopiedNgrams([REPORT, "z one two three four five six seven eight", "other words", twice]).repeating == 0.5
    assert CopiedNgrams([REPORT, REPORT, ""]).repeating == pytest.approx(2 / 3)
    assert CopiedNgrams([]).repeating == 0
    assert not CopiedNgrams([])(REPORT)


def test_its_state_is_all_that_it_needs() -> None:
    made = CopiedNgrams([REPORT, "zero one two three four five six seven eight", "a b"])
    again = CopiedNgrams.from_state(made.state())
    assert again.repeating == made.repeating == pytest.approx(2 / 3)
    for text in (REPORT, "a b c d e f g h", f"q {REPORT}"):
        assert again.count(text) == made.count(text)


def test_texts_may_copy_as_often_as_reports_repeat_one_another_each_by_its_own_key() -> None:
    made = CopiedNgrams([REPORT, REPORT, "other words", "more words"])
    keys = [str(i) for i in range(2000)]
    may = made.may_copy(keys, seed=0)
    assert sum(may) / len(may) == pytest.approx(0.5, abs=0.04)
    assert made.may_copy(keys[5:9], seed=0) == may[5:9]
    assert made.may_copy(keys, seed=1) != may
