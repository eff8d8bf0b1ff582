"""Many reports at once: the same mentions in the same order, in this process and in others."""

import pytest

from datamodules.reports import bulk, keywords
from datamodules.reports.mentions import Mention, extract

REPORTS = [f"No pneumothorax. Small {side} effusion {n}." for n in range(600) for side in ("left", "right")]


def test_they_come_in_order_and_are_those_of_extract() -> None:
    reports = ["", *REPORTS[:3]]
    assert bulk.extract_all(reports) == [extract(report) for report in reports]
    assert bulk.extract_all([]) == []


@pytest.mark.slow
def test_processes_find_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bulk, "IN_PROCESS", 0)
    monkeypatch.setattr(bulk, "QUICK", 0)
    assert bulk.extract_all(REPORTS, workers=2) == [extract(report) for report in REPORTS]
    assert "1200/1200" in capsys.readouterr().err  # the bar counts reports


def asked(report: str, mentions: list[Mention]) -> tuple[str, keywords.Keywords]:
    return report, keywords.of_mentions(mentions)


@pytest.mark.slow
def test_only_what_a_function_makes_of_them_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [(report, keywords.keywords_of(report)) for report in REPORTS]
    assert list(bulk.map_mentions(asked, REPORTS)) == expected
    monkeypatch.setattr(bulk, "IN_PROCESS", 0)
    assert list(bulk.map_mentions(asked, REPORTS, workers=2)) == expected


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0; expected at least 1"):
        bulk.extract_all(REPORTS, workers=0)
