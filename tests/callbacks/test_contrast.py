"""FindingContrast in real Trainers, on squares whose contrast is known."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.contrast import FindingContrast
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import SIZE, Images, TinyData, TinyStage, trainer

EFFUSION, OPACITY = FINDINGS.index("Pleural Effusion"), FINDINGS.index("Lung Opacity")


class Squares(Images):
    """Bright effusions in even images, dark opacities in every third, on a ground of ± .1 by turns."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        at = torch.arange(SIZE)
        self.image[:] = 0.1 * (1 - 2 * ((at[:, None] + at[None]) % 2))
        self.masks = torch.zeros(n, len(FINDINGS), SIZE, SIZE, dtype=torch.bool)
        self.masks[::2, EFFUSION, 6:10, 6:10] = True
        self.masks[::3, OPACITY, 0:3, 0:3] = True
        self.image[::2, 0, 6:10, 6:10] = 0.6
        self.image[::3, 0, 0:3, 0:3] = -0.4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"masks": self.masks[index]}


class MaskedData(TinyData):
    def images(self) -> Images:
        return Squares(self.n)


class Halved(TinyStage):
    """Effusions keep half of their contrast, opacities lose all of it, and the ground keeps its noise."""

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        made = batch["image"].clone()
        made[batch["masks"][:, EFFUSION, None]] *= 0.5
        made[batch["masks"][:, OPACITY, None]] = 0.0
        return {"reconstruction": made}


def test_each_finding_has_its_own_figure_with_its_n(tmp_path: Path):
    callback = FindingContrast(prefix="tiny", ring=2 / 16)
    t = trainer(tmp_path, [callback])
    t.test(Halved(), MaskedData(20), verbose=False)
    got = {key: float(value) for key, value in t.callback_metrics.items()}
    assert got["tiny/cnr_n/pleural_effusion"] == 10
    assert got["tiny/cnr_n/lung_opacity"] == 7
    assert got["tiny/cnr_findings"] == 2
    assert got["tiny/cnr_real/pleural_effusion"] == pytest.approx(6.0, rel=1e-4)
    assert got["tiny/cnr_retained/pleural_effusion"] == pytest.approx(0.5, rel=1e-4)
    assert got["tiny/contrast_retained/pleural_effusion"] == pytest.approx(0.5, rel=1e-4)
    # The ring in the corner has an odd number of pixels, so its mean is not quite that of the ground.
    assert got["tiny/contrast_retained/lung_opacity"] == pytest.approx(0.0, abs=0.02)
    assert got["tiny/cnr_retained"] == pytest.approx(0.25, abs=0.01)
    stated = callback.protocol()["tiny/cnr_retained"]
    assert stated["included"] == {"Lung Opacity": 7, "Pleural Effusion": 10}
    assert stated["left_out"]["Pneumonia"] == 0
    assert stated["n"] == 20


def test_too_few_masks_are_nan_with_a_reason(tmp_path: Path):
    callback = FindingContrast(min_cases=11)
    t = trainer(tmp_path, [callback])
    t.test(Halved(), MaskedData(20), verbose=False)
    assert math.isnan(t.callback_metrics["codebook/cnr_retained"])
    reason = "no finding has 11 masks that can be measured among 20 images"
    assert callback.protocol()["codebook/cnr_retained"]["undefined"] == {
        "codebook/cnr_retained": reason, "codebook/contrast_retained": reason
    }  # fmt: skip


def test_batches_without_masks_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"these batches lack; set --data\.init_args\.masks=true, or leave"):
        trainer(tmp_path, [FindingContrast()]).test(TinyStage(), TinyData(4), verbose=False)
    with pytest.raises(ValueError, match="min_cases 0, gap"):
        FindingContrast(min_cases=0)
