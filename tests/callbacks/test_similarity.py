"""MultiScaleSimilarity in a real Trainer."""

from pathlib import Path

import pytest
import torch.nn.functional as F

from callbacks.metrics.similarity import ms_ssim
from callbacks.similarity import MultiScaleSimilarity
from tests.callbacks.chain import Images, TinyData, TinyStage, trainer


def test_the_mean_over_images_not_over_batches(tmp_path: Path):
    callback = MultiScaleSimilarity(prefix="tiny")
    t = trainer(tmp_path, [callback])
    t.test(TinyStage(), TinyData(37), verbose=False)  # seven batches of 5 and one of 2
    real = Images(37).image
    made = F.avg_pool2d(real, 3, stride=1, padding=1) * 0.9
    assert float(t.callback_metrics["tiny/ms_ssim"]) == pytest.approx(float(ms_ssim(made, real).mean()), rel=1e-5)
    stated = callback.protocol()["tiny/ms_ssim"]
    assert (stated["n"], stated["scales"], stated["betas"]) == (37, 1, [1.0])


def test_broken_images_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="real image image-12: 1 of 256 values are not finite"):
        trainer(tmp_path, [MultiScaleSimilarity()]).test(TinyStage(), TinyData(broken=12), verbose=False)
