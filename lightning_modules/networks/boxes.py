"""Boxes of patches: (x0, y0, x1, y1) in fractions of the image, x from the left and y from the top."""

import torch
from torch import Tensor


def grid_boxes(side: int) -> Tensor:
    """The cells of a square grid of so many places a side, float32 [side·side,4], row-major."""
    low = torch.arange(side) / side
    y, x = torch.meshgrid(low, low, indexing="ij")
    return torch.stack([x, y, x + 1 / side, y + 1 / side], dim=-1).flatten(0, 1)


def centres(boxes: Tensor) -> Tensor:
    """The middle (x, y) of each box: [...,4] → [...,2]."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def inside(boxes: Tensor) -> Tensor:
    """Boxes [...,4], those that reach out of the image moved back."""
    size = boxes[..., 2:] - boxes[..., :2]
    low = torch.minimum(boxes[..., :2].clamp_min(0), 1 - size)
    return torch.cat([low, low + size], dim=-1)
