"""What the codebook's own metrics measure does not depend on the run's precision."""

import torch

from lightning_modules.networks.reconstruction_metrics import ReconstructionMetrics


def test_metrics_are_the_same_under_autocast():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 1, 32, 32, generator=generator) * 2 - 1
    made = (image + 0.05 * torch.randn(image.shape, generator=generator)).clamp(-1, 1)
    found = []
    for autocast in (False, True):
        metrics = ReconstructionMetrics(16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            metrics.update(made, image, torch.zeros(4, 2, 2, dtype=torch.int64))
        found.append({name: float(value) for name, value in metrics.compute().items()})
    assert found[0] == found[1]
