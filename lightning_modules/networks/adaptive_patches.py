"""Patches that choose their own box: each predicts an offset and a size from its grid place and is read from there.

DPT (arXiv 2107.14467, equations 3 to 6), as AdaMatch (arXiv 2312.08078, section 3.1) has it: a word's patch may move
onto the finding and grow with it.
Legend: B images, S × S grid, P patches (row-major), C channels, k points along one side of a box.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

REACH = 2.0  # farthest offset, in patches
LARGEST = 4.0  # longest side, in patches


class AdaptivePatches(nn.Module):
    """Boxes from features, and the mean of the features at k × k points of each box, bilinear between grid places.

    Without training every box is its own grid cell.

    Args:
        width: C.
        points: k.
    """

    def __init__(self, width: int, *, points: int = 3) -> None:
        super().__init__()
        self.box = nn.Conv2d(width, 4, 1)  # offset x, y and log size x, y
        nn.init.zeros_(self.box.weight)
        nn.init.zeros_(self.box.bias)  # type: ignore[arg-type]
        steps = (torch.arange(points) + 0.5) / points - 0.5  # of a box's side, from its centre
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("steps", torch.stack([x, y], dim=-1).flatten(0, 1), persistent=False)  # k·k 2

    steps: Tensor

    def forward(self, x: Tensor, *, phase: int | None = None) -> tuple[Tensor, Tensor]:
        """Features [B,C,S,S] → features float32 [B,C,s,s], and boxes float32 [B,s·s,4] in fractions (x0, y0, x1, y1).

        Args:
            x: of all grid places.
            phase: 0 .. 3 takes every second place of every second row, beginning with one of four; s = S / 2.
        """
        side = x.shape[-1]
        places = torch.arange(side, device=x.device)
        rows, columns = (places, places) if phase is None else (places[phase // 2 :: 2], places[phase % 2 :: 2])
        predicted = self.box(x[:, :, rows][:, :, :, columns]).float().flatten(2).transpose(1, 2)  # B P 4
        y, x_ = torch.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
        centre = torch.stack([x_, y], dim=-1).flatten(0, 1) + REACH * predicted[..., :2].tanh()  # B P 2, in patches
        size = predicted[..., 2:].exp().clamp(max=LARGEST)
        points = centre[:, :, None] + self.steps * size[:, :, None]  # B P k·k 2
        with torch.autocast(x.device.type, enabled=False):  # bf16 places of 32 cells are right to an eighth of one
            read = functional.grid_sample(
                x.float(), points / side * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False
            )  # B C P k·k
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1) / side
        return read.mean(dim=-1).unflatten(2, (len(rows), len(columns))), boxes.clamp(0, 1)
