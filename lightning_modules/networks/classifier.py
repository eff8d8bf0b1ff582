"""A small residual CNN that reads the 14 findings; its maps and features also serve perceptual losses and metrics.

GroupNorm throughout: results do not depend on the batch. Shapes: B batch, H = W = resolution, C channels, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.networks.boxes import grid_boxes
from lightning_modules.networks.vqgan import ResidualBlock, norm

NUM_FINDINGS = 14


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of the finding network.

    Attributes:
        resolution: height and width of its input in pixels.
        channels: widths at 1/2, 1/4, ... of the resolution (multiples of 8).
        dropout: before the last layer.
    """

    resolution: int = 64
    channels: tuple[int, ...] = (32, 64, 96, 128)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.resolution % 2 ** len(self.channels):
            raise ValueError(
                f"resolution {self.resolution} is not a multiple of {2 ** len(self.channels)}, the reduction that "
                f"{len(self.channels)} channel widths give; change one of the two"
            )

    @property
    def num_features(self) -> int:
        """D."""
        return 2 * self.channels[-1]


class ClassifierOutput(NamedTuple):
    """What the finding network returns."""

    features: Tensor  # float [B,D]: mean and maximum over positions
    logits: Tensor  # float [B,14] in the order of FINDINGS
    maps: tuple[Tensor, ...]  # float [B,C_i,H_i,W_i], full resolution first


def place_boxes(level: int, *, resolution: int) -> Tensor:
    """The boxes that the places of the map at 1/2^level look at, float32 [P,4] of x0, y0, x1, y1 in fractions.

    A convolution of side 3, stride 2 and one pixel of padding looks at every second pixel, beginning with the first:
    each stage's places lie half a pixel of its input to the top left of their cells, and so do their boxes.
    """
    cell = 2**level
    return grid_boxes(resolution // cell) + (0.5 - cell / 2) / resolution


def stem_and_stages(channels: Sequence[int]) -> tuple[nn.Sequential, nn.ModuleList]:
    """The convolutions at full resolution, and for each width a stage, which halves the image."""
    widths = (max(8, channels[0] // 16 * 8), *channels)
    # At full resolution too: a pneumothorax line or a device wire is one pixel wide.
    stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, padding=1), norm(widths[0]), nn.SiLU())
    stages = nn.ModuleList(
        nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), ResidualBlock(outputs, outputs))
        for inputs, outputs in pairwise(widths)
    )
    return stem, stages


class FindingNetwork(nn.Module):
    """Image to findings."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.stem, self.stages = stem_and_stages(config.channels)
        self.norm = norm(config.channels[-1])
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.num_features, NUM_FINDINGS))
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> ClassifierOutput:
        """Image [B,1,H,W] in [-1,1]."""
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = nn.functional.silu(self.norm(x))
        # The mean tells how much of the image a finding fills, the maximum whether a small one is anywhere.
        features = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1).float()
        return ClassifierOutput(features, self.head(features).float(), tuple(maps))
