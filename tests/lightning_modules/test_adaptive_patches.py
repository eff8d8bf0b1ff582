"""Boxes that patches choose: the grid before training, known moves and sizes, and what is read there."""

import math

import pytest
import torch

from lightning_modules.networks.adaptive_patches import LARGEST, REACH, AdaptivePatches
from lightning_modules.networks.boxes import grid_boxes
from lightning_modules.networks.patch_encoder import PatchEncoder

SIDE = 8


def ramp() -> torch.Tensor:
    """[1,2,8,8]: the first channel is the column, the second the row."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.0, torch.arange(SIDE) + 0.0, indexing="ij")
    return torch.stack([x, y])[None]


def adaptive(*bias: float) -> AdaptivePatches:
    module = AdaptivePatches(2)
    torch.nn.init.constant_(module.box.bias, 0.0)
    with torch.no_grad():
        module.box.bias.copy_(torch.tensor(bias))
    return module


def test_untrained_boxes_are_the_grid_and_read_their_own_place() -> None:
    read, boxes = AdaptivePatches(2)(ramp())
    torch.testing.assert_close(boxes[0], grid_boxes(SIDE))
    torch.testing.assert_close(read[..., 1:-1, 1:-1], ramp()[..., 1:-1, 1:-1])


def test_a_known_offset_moves_box_and_reading_by_it() -> None:
    read, boxes = adaptive(math.atanh(1 / REACH), math.atanh(-0.5 / REACH), 0.0, 0.0)(ramp())
    moved = grid_boxes(SIDE).unflatten(0, (SIDE, SIDE)) + torch.tensor([1.0, -0.5, 1.0, -0.5]) / SIDE
    inner = slice(2, -2)
    torch.testing.assert_close(boxes[0].unflatten(0, (SIDE, SIDE))[inner, inner], moved[inner, inner])
    torch.testing.assert_close(read[0, 0, inner, inner], ramp()[0, 0, inner, inner] + 1)
    torch.testing.assert_close(read[0, 1, inner, inner], ramp()[0, 1, inner, inner] - 0.5)


def test_a_known_size_widens_the_box_and_is_bounded() -> None:
    _, boxes = adaptive(0.0, 0.0, math.log(2.0), 99.0)(ramp())
    x0, y0, x1, y1 = boxes[0].unflatten(0, (SIDE, SIDE))[4, 4].tolist()
    assert x1 - x0 == pytest.approx(2 / SIDE)
    assert y1 - y0 == pytest.approx(LARGEST / SIDE)
    assert ((boxes >= 0) & (boxes <= 1)).all()


def test_a_large_box_reads_the_mean_of_its_points() -> None:
    """Three points two patches apart each way round a single bright place: its share is one of nine."""
    x = torch.zeros(1, 2, SIDE, SIDE)
    x[0, 0, 4, 4] = 9.0
    read, _ = adaptive(0.0, 0.0, math.log(3.0), math.log(3.0))(x)
    assert read[0, 0, 4, 4].item() == pytest.approx(1.0)
    assert read[0, 0, 3, 3].item() == pytest.approx(1.0)
    assert read[0, 0, 2, 4].item() == pytest.approx(0.0)


def test_the_phases_together_are_all_patches_and_boxes() -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(side=SIDE, channels=(8,), width=16, depth=1, dim=8, dropout=0.0, adaptive=True).eval()
    torch.nn.init.normal_(encoder.adaptive.box.weight)
    image = torch.rand(2, 1, 16, 16) * 2 - 1
    whole = [part.unflatten(1, (SIDE, SIDE)) for part in encoder.located(image)]
    for phase, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        found = encoder.located(image, phase=phase)
        for part, complete in zip(found, whole, strict=True):
            torch.testing.assert_close(part.unflatten(1, (SIDE // 2, SIDE // 2)), complete[:, row::2, column::2])


def test_the_loss_reaches_the_boxes() -> None:
    module = AdaptivePatches(2)
    module(ramp().square())[0].square().mean().backward()
    assert module.box.bias.grad.abs().min() > 0
