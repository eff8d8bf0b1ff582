"""Mentions against what people tagged in OpenI's reports: findings, sides; odd reports were tuned on, even ones not."""

from pathlib import Path

import pytest

from tests.benchmarks import mesh, negex

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.parametrize("odd", [True, False], ids=["odd", "even"])
def test_findings_and_sides_are_those_that_people_tagged(real_data: Path, *, odd: bool) -> None:
    reports = mesh.read(real_data / "openi", odd=odd)
    assert len(reports) > 1800
    figures = mesh.score(reports)
    assert figures["macro_f1"] >= 0.88
    for name, one in figures["findings"].items():
        assert one["f1"] >= 0.75, (name, one)
    sides = mesh.sides(reports)
    assert sides["sides"] > 400
    assert sides["side_accuracy"] >= 0.95
    assert sides["zone_accuracy"] >= 0.9


def test_a_public_list_with_plain_negex_finds_less(real_data: Path) -> None:
    reports = mesh.read(real_data / "openi", odd=True)
    theirs = mesh.score(reports, negex.finder(real_data / "rules"))
    assert mesh.score(reports)["macro_f1"] - theirs["macro_f1"] > 0.1
