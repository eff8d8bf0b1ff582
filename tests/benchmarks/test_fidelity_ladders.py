"""The ladders' own parts by hand; that all measures move as they must is what the benchmark itself measures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.reports.labels import FINDINGS
from tests.benchmarks.fidelity_ladders import LADDERS, Images, climbs, damaged, scaled
from tests.benchmarks.line_charts import Chart, draw


def pool(count: int = 60) -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(count, 1, 16, 16, generator=generator) * 2 - 1
    labels = torch.zeros(count, len(FINDINGS))
    labels[torch.arange(count), torch.arange(count) % 3 * 2] = 1.0
    labels[:, FINDINGS.index("No Finding")] = (labels.sum(dim=1) == 0).float()
    labels[::2] = 0.0
    labels[::2, FINDINGS.index("No Finding")] = 1.0
    return Images(pixels, labels, [f"i{n}" for n in range(count)])


def test_the_first_step_of_every_ladder_damages_nothing() -> None:
    first = [damaged(kind, ladder.steps[0], pool(), count=20) for kind, ladder in LADDERS.items()]
    for made in first:
        torch.testing.assert_close(made.pixels, first[0].pixels)
        assert torch.equal(made.labels, first[0].labels)


def test_steps_replace_the_share_that_they_name() -> None:
    whole = damaged("dropped modes", 0.0, pool(), count=20)
    healthy = whole.labels[:, FINDINGS.index("No Finding")] == 1
    half, none = (damaged("dropped modes", step, pool(), count=20) for step in (0.5, 1.0))
    ill = int((~healthy).sum())
    assert ill > 3
    assert int((half.labels[:, FINDINGS.index("No Finding")] == 0).sum()) == ill - round(ill / 2)
    assert bool((none.labels[:, FINDINGS.index("No Finding")] == 1).all())
    assert len(set(none.ids)) == 20
    with pytest.raises(ValueError, match="spare images without a finding"):
        damaged("dropped modes", 1.0, pool(), count=55)
    shuffled = damaged("shuffled labels", 0.5, pool(), count=20)
    assert torch.equal(shuffled.labels[:10], whole.labels.roll(1, dims=0)[:10])
    assert torch.equal(shuffled.labels[10:], whole.labels[10:])


def test_blur_takes_detail_and_keeps_the_mean() -> None:
    given = pool(3).pixels
    half = scaled(given, 0.5)
    assert half.shape == given.shape
    assert half.std() < 0.7 * given.std()
    assert half.mean().item() == pytest.approx(given.mean().item(), abs=0.02)


def test_a_climb_is_strict() -> None:
    assert climbs([1.0, 2.0, 3.0], 1)
    assert climbs([3.0, 2.0, 1.0], -1)
    assert not climbs([1.0, 1.0, 2.0], 1)
    assert not climbs([1.0, 3.0, 2.0], 1)


def test_charts_draw_each_line_in_its_colour(tmp_path: Path) -> None:
    draw([Chart("fid", {"blur": [0.0, 1.0], "noise": [1.0, float("nan"), 0.0]})] * 3, tmp_path / "a.png")
    picture: Any = Image.open(tmp_path / "a.png")
    assert picture.size == (900, 440)
    colours = {colour for _, colour in picture.getcolors(100_000)}
    assert {(213, 94, 0), (0, 114, 178)} <= colours
