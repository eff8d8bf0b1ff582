"""Copied patches: is a part of an image a part of a training image, pasted in at about the same place?

Each window of the image is compared with the windows of all training images at the same place, give or take a few
pixels: a key patch is given to the generator with its place, and anatomy puts it there. The comparison is the
cross-correlation of windows with contrast; those without, which all resemble one another, match nothing. A plane of
grey is taken from each window, since a smooth slope is like any other. Nothing beyond a window is looked at, as it
belongs to another image where a patch was pasted.

What is pasted must hold a whole window: it is found from about 3 / 8 of the side on. A decoder that draws a patch anew
changes so small a part by more than two people differ there: patches pasted as codes are not found by their pixels.

Places differ in how alike people are there, so a window's distance is divided by what is usual at its place for images
of other patients. Q images, N training images, C = cells of windows, S × S pixels a window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 8  # pixels of `registration.fine`, a quarter of the side
STRIDE = 2
SHIFT = 1  # pixels of `fine` that a patch may have moved
FLOOR = 0.04  # least deviation of grey in a window around its plane, of a range of 2; others match nothing


def windows(pictures: Tensor) -> Tensor:
    """Float32 [B,P,P] → [B,C,S²]: windows around their planes, of norm 1, or 0 where there is no contrast."""
    cut = F.unfold(pictures[:, None], WINDOW, stride=STRIDE).transpose(1, 2)
    line = torch.linspace(-1, 1, WINDOW, device=pictures.device)
    across, flat = line.expand(WINDOW, WINDOW), torch.ones(WINDOW, WINDOW, device=pictures.device)
    plane = torch.stack([F.normalize(part.flatten(), dim=0) for part in (flat, across, across.T)])  # orthogonal
    cut = cut - cut @ plane.T @ plane
    norm = cut.norm(dim=-1, keepdim=True)
    return torch.where(norm < FLOOR * WINDOW, 0.0, cut / norm.clamp_min(1e-12))


def shifted_windows(pictures: Tensor) -> Tensor:
    """Float32 [B,P,P] → [B,O,C,S²]: `windows` at all O = (2 SHIFT + 1)² shifts; the edge is repeated."""
    padded = F.pad(pictures[:, None], (SHIFT,) * 4, mode="replicate")[:, 0]
    side, steps = pictures.shape[-1], range(2 * SHIFT + 1)
    moved = [windows(padded[:, y : y + side, x : x + side]) for y in steps for x in steps]
    return torch.stack(moved, dim=1)


def window_distances(queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """1 - NCC of each window with the nearest of all rows' at its place, float32 [Q,C], and that row, int64 [Q,C].

    Args:
        queries: float32 [Q,O,C,S²], see `shifted_windows`.
        rows: float32 [N,C,S²], see `windows`.
    """
    q, shifts, cells, _ = queries.shape
    best, places = queries.new_empty(q, cells), torch.empty(q, cells, dtype=torch.int64, device=queries.device)
    for cell in range(cells):
        at_cell = queries[:, :, cell].flatten(0, 1) @ rows[:, cell].T  # Q·O N
        best[:, cell], places[:, cell] = at_cell.view(q, shifts, -1).amax(1).max(1)
    return (1 - best).clamp_min(0), places


def patch_scores(distances: Tensor, usual: Tensor) -> tuple[Tensor, Tensor]:
    """The least of an image's distances [Q,C], each over what is usual at its place [C]: float32 [Q], and the cell."""
    least = (distances / usual.clamp_min(1e-6)).min(dim=1)
    return least.values, least.indices
