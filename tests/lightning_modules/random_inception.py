"""The weights file of Inception's published port, with random weights in it."""

from pathlib import Path
from typing import Any

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class Bare(FeatureExtractorInceptionV3):
    """As it is before it loads its weights."""

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        return None


def write_random_inception(path: Path) -> Path:
    """Write the file; the weights are the same each time."""
    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Bare("random", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    return path
