"""ReportAlignment in real Trainers with an aligner whose answers are known, and on several ranks."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from callbacks.alignment import ReportAlignment
from callbacks.metrics.alignment import between, resampled_ratios
from callbacks.metrics.bank import id_hash
from callbacks.metrics_file import MetricsFile
from tests.callbacks.chain import Images, TinyData, TinyStage, trainer


class Brightness(nn.Module):
    """The likelihood is a reading of the first pixel; every third report says nothing; one pair of twins an image."""

    name, digest = "brightness", "d" * 64

    def log_likelihood(self, image: Tensor, report: Sequence[str]) -> Tensor:
        values = -1 - image[:, 0, 0, 0]
        silent = torch.tensor([int(text.split(".")[0].removeprefix("Report ")) % 3 == 0 for text in report])
        return torch.where(silent, torch.nan, values)

    def flipped(self, image: Tensor, report: Sequence[str]) -> Tensor:
        counts = torch.zeros(len(image), 3, 2)
        counts[:, 2, 0] = 1
        counts[:, 2, 1] = (image[:, 0, 0, 0] > 0).float()
        return counts


def measured(folder: Path, aligner: nn.Module | None = None, **kwargs: object) -> tuple[dict, dict]:
    t = trainer(folder, [ReportAlignment(aligner or Brightness()), MetricsFile()], **kwargs)
    t.test(TinyStage(), TinyData(37), verbose=False)
    written = json.loads((folder / "metrics.json").read_text())
    return written, written.pop("protocol")


def test_every_figure_is_the_mean_over_reports_that_state_something(tmp_path: Path):
    got, protocol = measured(tmp_path)
    real, others = Images(37).image, Images(64, seed=1000).image
    made = TinyStage()(real).detach()
    rows = [i for i in range(37) if i % 3]
    other = others[[id_hash(f"image-{i}") % 64 for i in range(37)]]
    means = {}
    for name, images in (("real", real), ("synthetic", made), ("other", other)):
        means[name] = (-1 - images[rows, 0, 0, 0]).mean().item()
        assert got[f"generator/alignment_{name}"] == pytest.approx(means[name], rel=1e-5)
        low, high = (got[f"generator/alignment_{name}_{end}"] for end in ("low", "high"))
        assert low < means[name] < high
    share = (means["synthetic"] - means["other"]) / (means["real"] - means["other"])
    assert got["generator/alignment_share"] == pytest.approx(share, rel=1e-4)
    right = (made[rows, 0, 0, 0] > 0).float().mean().item()
    assert got["generator/alignment_synthetic/side_flipped"] == pytest.approx(right, abs=1e-6)
    assert "generator/alignment_synthetic/stated_flipped" not in got
    stated = protocol["metrics"]["generator/alignment_synthetic"]
    assert (stated["n"], stated["without_statement"], stated["twins"]["side"]) == (24, 13, 24)
    assert stated["figures"] == sorted(set(got) - {"tiny/error"})


def test_what_lacks_a_verb_or_states_nothing_is_refused(tmp_path: Path):
    class Silent(Brightness):
        def log_likelihood(self, image: Tensor, report: Sequence[str]) -> Tensor:
            return torch.full((len(image),), torch.nan)

    with pytest.raises(TypeError, match=r"aligner Linear lacks \['name', 'digest', 'log_likelihood', 'flipped'\]"):
        measured(tmp_path, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="none of 37 reports states or denies"):
        measured(tmp_path, Silent())


def test_ratios_are_those_of_drawn_patients():
    values, ones = torch.tensor([[1.0], [1.0], [5.0]]), torch.ones(3, 1)
    draws = resampled_ratios(values, ones, groups=torch.tensor([7, 7, 9]), resamples=400)
    # Two draws of two patients: both the first, both the second, or one of each.
    assert {round(value, 6) for value in draws[:, 0].tolist()} == {1.0, 5.0, round(7 / 3, 6)}
    assert between(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(5.0)) == 0.25
    assert math.isnan(between(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(1.0)))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_equal_one(tmp_path: Path, ranks: int):
    one, _ = measured(tmp_path / "one")
    many, _ = measured(tmp_path / "many", devices=ranks, strategy="ddp_spawn", use_distributed_sampler=False)
    assert set(one) == set(many)
    for key, value in one.items():
        if key != "tiny/error":
            assert many[key] == pytest.approx(value, rel=1e-6, abs=1e-7), key
