"""The ladders' own parts by hand; that all measures move as they must is what the benchmark itself measures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.reports.labels import FINDINGS, VIEWS
from tests.benchmarks.fidelity_ladders import charts, climbs, verdicts
from tests.benchmarks.ladders import LADDERS, Images, damaged, jpeg, scaled, with_copies
from tests.benchmarks.line_charts import Chart, draw


def pool(count: int = 60) -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(count, 1, 16, 16, generator=generator) * 2 - 1
    labels = torch.zeros(count, len(FINDINGS))
    labels[torch.arange(count), torch.arange(count) % 3 * 2] = 1.0
    labels[:, FINDINGS.index("No Finding")] = (labels.sum(dim=1) == 0).float()
    labels[::2] = 0.0
    labels[::2, FINDINGS.index("No Finding")] = 1.0
    views = torch.where(torch.arange(count) % 3 == 0, VIEWS.index("AP"), VIEWS.index("PA"))
    return Images(pixels, labels, views, [f"i{n}" for n in range(count)])


def test_the_first_step_of_every_ladder_damages_nothing() -> None:
    first = [damaged(kind, ladder.steps[0], pool(), count=20) for kind, ladder in LADDERS.items() if kind != "copies"]
    for made in first:
        torch.testing.assert_close(made.pixels, first[0].pixels)
        assert torch.equal(made.labels, first[0].labels)


def test_steps_replace_the_share_that_they_name() -> None:
    whole = damaged("dropped findings", 0.0, pool(), count=20)
    healthy = whole.labels[:, FINDINGS.index("No Finding")] == 1
    half, none = (damaged("dropped findings", step, pool(), count=20) for step in (0.5, 1.0))
    ill = int((~healthy).sum())
    assert ill > 3
    assert int((half.labels[:, FINDINGS.index("No Finding")] == 0).sum()) == ill - round(ill / 2)
    assert bool((none.labels[:, FINDINGS.index("No Finding")] == 1).all())
    assert len(set(none.ids)) == 20
    with pytest.raises(ValueError, match="spare images for"):
        damaged("dropped findings", 1.0, pool(), count=55)
    no_portables = damaged("dropped view", 1.0, pool(), count=20)
    assert bool((whole.views == VIEWS.index("AP")).any())
    assert not bool((no_portables.views == VIEWS.index("AP")).any())
    shuffled = damaged("shuffled labels", 0.5, pool(), count=20)
    assert torch.equal(shuffled.labels[:10], whole.labels.roll(1, dims=0)[:10])
    assert torch.equal(shuffled.labels[10:], whole.labels[10:])


def test_copies_are_added_and_are_the_same_at_every_step() -> None:
    new, training = pool(20), pool(40)
    none, half, whole = (with_copies(step, new, training) for step in (0.0, 0.5, 1.0))
    assert none.ids == new.ids
    torch.testing.assert_close(none.pixels, new.pixels)
    assert len(half.ids) == len(half.pixels) == len(half.labels) == len(half.views) == 30
    assert half.ids == whole.ids[:30]
    torch.testing.assert_close(half.pixels, whole.pixels[:30])
    for at, name in enumerate(whole.ids[20:], start=20):
        row = training.ids.index(name.removeprefix("copy-"))
        brighter = (training.pixels[row : row + 1] * 0.95 + 0.03).clamp(-1, 1)
        torch.testing.assert_close(whole.pixels[at : at + 1], jpeg(brighter, quality=75))
        assert torch.equal(whole.labels[at], training.labels[row])


def test_blur_takes_detail_and_keeps_the_mean() -> None:
    given = pool(3).pixels
    half = scaled(given, 0.5)
    assert half.shape == given.shape
    assert half.std() < 0.7 * given.std()
    assert half.mean().item() == pytest.approx(given.mean().item(), abs=0.02)


def test_a_climb_is_strict() -> None:
    assert climbs([1.0, 2.0, 3.0], 1)
    assert climbs([3.0, 2.0, 1.0], -1)
    assert not climbs([1.5, 1.5, 2.0], 1)
    assert not climbs([1.0, 3.0, 2.0], 1)
    assert climbs([0.5, 0.0, 0.0], -1)  # a share cannot fall below 0
    assert not climbs([0.5, 0.3, 0.3], -1)
    found = verdicts({"a/fid": [1.0, 2.0], "b/fid": [2.0, 1.0], "auroc": [1.0, 0.5]}, {"fid": 1, "auroc": -1})
    assert found == {"a/fid": True, "b/fid": False, "auroc": True}
    assert verdicts({"a/kid": [1.0, 2.0]}, {"fid": 1}) == {}


def test_every_figure_has_a_chart_with_a_line_for_each_ladder(tmp_path: Path) -> None:
    ladders = {
        "blur": {"steps": [0, 1], "curves": {"a/fid": [1.0, 2.0]}},
        "copies": {"steps": [0, 1], "curves": {"flagged": [0.0, 0.5]}},
    }
    drawn = charts({"ladders": ladders})
    assert [chart.title for chart in drawn] == ["a/fid", "flagged"]
    assert all(list(chart.lines) == ["blur", "copies"] for chart in drawn)
    assert drawn[1].lines["copies"] == [0.0, 0.5]
    draw(drawn, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_charts_draw_each_line_in_its_colour(tmp_path: Path) -> None:
    draw([Chart("fid", {"blur": [0.0, 1.0], "noise": [1.0, float("nan"), 0.0]})] * 3, tmp_path / "a.png")
    picture: Any = Image.open(tmp_path / "a.png")
    assert picture.size == (900, 440)
    colours = {colour for _, colour in picture.getcolors(100_000)}
    assert {(213, 94, 0), (0, 114, 178)} <= colours
