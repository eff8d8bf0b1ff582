"""Pixel distance of images after registration: shifts, crops, blur, brightness and contrast do not hide a copy.

A coarse search compares small grey pictures by masked normalised cross-correlation (NCC; Lewis, 1995) over a fixed set
of placements, all training images at once by matrix products. The few best pairs are then aligned by the iteration of
Lucas & Kanade (1981) for scale, shift, gain and offset, and the nearest of them is compared on larger pictures: to move
a small one costs it the detail that tells a copy from a look-alike. What pairs are compared by is what is left when the
slow change of grey is taken away, since what all chests share lies in that; it is taken away after the alignment,
within what both show, or a crop would change it. Q queries, N rows, P pixels a side, M pairs.

A placement (a, x, y) says that the row's point u (in [-1,1] from edge to edge) shows the query's point a u + (x, y): a
query that is a crop of the row has a > 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE, FINE, SHARP = 16, 32, 64  # pixels a side: searched, aligned, compared
SMOOTH, SLOW = 0.7, 4.0  # Gaussian σ in pixels of FINE: finer detail is noise or lost by a decoder, slower is anatomy
SHARP_SMOOTH, SHARP_SLOW = 1.4, 4.0  # likewise in pixels of SHARP
# Share of the side that is kept, how far its middle may lie from the image's, steps in each direction. The search has
# no other way to a crop between two placements; the alignment finds its way from the nearest.
SEARCHED = ((1.0, 0.04, 3), (0.96, 0.04, 3), (0.92, 0.08, 5), (0.88, 0.12, 7), (0.84, 0.16, 7), (0.8, 0.2, 9))
STARTS = ((1.0, 0.04, 3), (0.94, 0.06, 3), (0.88, 0.12, 5), (0.82, 0.18, 5))
ITERATIONS = (6, 8)  # on blurred pictures, whose slopes reach farther, then on sharp ones
WIDE = 1.5  # σ of that blur
COMPARED = 3  # last iterations whose result is looked at
STEP = 0.06  # most that a parameter moves in an iteration
SCALES = (0.7, 1.4)
SHIFT = 0.4  # largest of a placement
EPSILON = 1e-8


def placements(crops: Sequence[tuple[float, float, int]] = SEARCHED) -> Tensor:
    """Float32 [L,3], see above: 222 for the search, 68 of `STARTS`."""
    found = []
    for share, slack, steps in crops:
        line = torch.linspace(-slack, slack, steps).tolist()
        found += [(1 / share, x / share, y / share) for y in line for x in line]
    return torch.tensor(found)


def coarse(images: Tensor) -> Tensor:
    """Float [B,1,H,W] → float32 [B,COARSE,COARSE]."""
    return F.interpolate(images.float(), size=(COARSE, COARSE), mode="bilinear", antialias=True)[:, 0]


def fine(images: Tensor) -> Tensor:
    """Float [B,1,H,W] → float32 [B,FINE,FINE]."""
    return F.interpolate(images.float(), size=(FINE, FINE), mode="bilinear", antialias=True)[:, 0]


def sharp(images: Tensor) -> Tensor:
    """Float [B,1,H,W] → float32 [B,SHARP,SHARP]."""
    return F.interpolate(images.float(), size=(SHARP, SHARP), mode="bilinear", antialias=True)[:, 0]


def coarse_distances(queries: Tensor, rows: Tensor) -> Tensor:
    """1 - NCC at the best of all placements, float32 [Q,N], of coarse pictures float32 [Q,P,P] and [N,P,P]."""
    flat = rows.flatten(1)
    squares, best = flat.square(), torch.full((len(queries), len(rows)), -1.0, device=rows.device)
    for place in placements().to(queries.device):
        warped, inside = _placed(queries[:, None], place.expand(len(queries), 3))
        mask = inside[:1].flatten(1).to(flat)  # 1 P², the same for all queries
        count = mask.sum()
        query = warped.flatten(1) * mask
        query = (query - query.sum(1, keepdim=True) / count) * mask
        query = query / query.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        spread = (mask @ squares.T - (mask @ flat.T).square() / count).clamp_min(EPSILON).sqrt()  # 1 N
        best = torch.maximum(best, query @ flat.T / spread)
    return (1 - best).clamp_min(0)


def aligned(queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """1 - NCC of pairs where they are aligned, float32 [M] in [0,2], and the placements [M,3] that align them.

    The alignment starts from the unmoved image and from the placement that fits best, and goes from blurred pictures to
    sharp ones. The nearest of the unmoved and the last pairs counts, so that a step too far does no harm.

    Args:
        queries: float32 [M,P,P], see `fine`.
        rows: likewise, one a query.
    """
    queries, rows = (_gauss(x[:, None], sigma=SMOOTH)[:, 0] for x in (queries, rows))
    places, pairs = placements(STARTS).to(queries.device), len(queries)
    blurred, blurred_rows = (_gauss(x[:, None], sigma=WIDE)[:, 0] for x in (queries, rows))
    halves = [F.avg_pool2d(x[:, None], 2) for x in (blurred, blurred_rows)]
    tried = [_correlation(*_placed(halves[0], one.expand(pairs, 3)), halves[1][:, 0]) for one in places]
    starts, still = places[torch.stack(tried).argmax(0)], _unmoved(queries)
    best, best_place = _likeness(queries, rows, still, slow=SLOW), still
    for place in (still, starts):
        for pictures, target, steps in zip((blurred, queries), (blurred_rows, rows), ITERATIONS, strict=True):
            layers = _with_slopes(pictures)
            for step in range(steps):
                place = place + _step(layers, target, place)
                place = torch.cat([place[:, :1].clamp(*SCALES), place[:, 1:].clamp(-SHIFT, SHIFT)], dim=1)
                if pictures is queries and step >= steps - COMPARED:
                    found = _likeness(queries, rows, place, slow=SLOW)
                    best_place = torch.where((found > best)[:, None], place, best_place)
                    best = torch.maximum(best, found)
    return (1 - best).clamp(0, 2), best_place


def placed_distance(queries: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """1 - NCC of pairs as they are placed or, where that is nearer, unmoved: float32 [M] in [0,2].

    Args:
        queries: float32 [M,P,P], see `sharp`.
        rows: likewise, one a query.
        places: float32 [M,3], of `aligned`.
    """
    queries, rows = (_gauss(x[:, None], sigma=SHARP_SMOOTH)[:, 0] for x in (queries, rows))
    likeness = [_likeness(queries, rows, place, slow=SHARP_SLOW) for place in (places, _unmoved(queries))]
    return (1 - torch.maximum(*likeness)).clamp(0, 2)


def _unmoved(queries: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0, 0.0], device=queries.device).expand(len(queries), 3)


def _likeness(queries: Tensor, rows: Tensor, place: Tensor, *, slow: float) -> Tensor:
    """NCC [M] of what is left of both without the slow change of grey, where both have pixels."""
    warped, inside = _placed(queries[:, None], place)
    weight = _gauss(inside[:, None], sigma=slow, mode="constant").clamp_min(1e-3)
    parts = [x - (_gauss((x * inside)[:, None], sigma=slow, mode="constant") / weight)[:, 0] for x in (warped, rows)]
    return _correlation(parts[0], inside, parts[1])


def _with_slopes(pictures: Tensor) -> Tensor:
    """Pictures [M,P,P] with their slopes across and down, a unit of the coordinates: [M,3,P,P]."""
    down, across = torch.gradient(pictures, dim=(1, 2))
    half = pictures.shape[-1] / 2  # pixels a unit
    return torch.stack([pictures, across * half, down * half], dim=1)


def _step(layers: Tensor, rows: Tensor, place: Tensor) -> Tensor:
    """One damped Gauss-Newton step [M,3] of scale and shift, with gain and offset solved for beside them."""
    warped, inside = _sampled(layers, place)
    side = layers.shape[-1]
    at = (torch.arange(side, device=rows.device) + 0.5) * 2 / side - 1
    value, across, down = warped.unbind(1)
    slopes = torch.stack([across * at + down * at[:, None], across, down, value, torch.ones_like(value)], dim=-1)
    slopes = (slopes * inside[..., None]).flatten(1, 2)  # M P² 5
    missing = ((rows - value) * inside).flatten(1)[..., None]
    normal = slopes.transpose(1, 2) @ slopes
    damping = 1e-2 * torch.diag_embed(normal.diagonal(dim1=1, dim2=2)) + 1e-6 * torch.eye(5, device=rows.device)
    return torch.linalg.solve(normal + damping, slopes.transpose(1, 2) @ missing)[:, :3, 0].clamp(-STEP, STEP)


def _placed(pictures: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    warped, inside = _sampled(pictures, place)
    return warped[:, 0], inside


def _sampled(layers: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Layers [M,C,P,P] as placements [M,3] show them, and where the query has pixels: float [M,P,P] of 0 and 1."""
    scale, x, y = place.unbind(1)
    zero, side = torch.zeros_like(scale), layers.shape[-1]
    affine = torch.stack([torch.stack([scale, zero, x], 1), torch.stack([zero, scale, y], 1)], 1)
    grid = F.affine_grid(affine, [len(layers), 1, side, side], align_corners=False)
    inside = (grid.abs() <= 1 - 0.5 / side).all(-1).to(layers)
    return F.grid_sample(layers, grid, align_corners=False, padding_mode="border"), inside


def _correlation(a: Tensor, inside: Tensor, b: Tensor) -> Tensor:
    """Masked NCC [M] of pictures [M,P,P]."""
    count = inside.sum((1, 2), keepdim=True).clamp_min(1)
    a, b = ((x - (x * inside).sum((1, 2), keepdim=True) / count) * inside for x in (a, b))
    return (a * b).sum((1, 2)) / (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt().clamp_min(EPSILON)


def _gauss(images: Tensor, *, sigma: float, mode: str = "reflect") -> Tensor:
    reach = round(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1, device=images.device).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(images, (reach,) * 4, mode=mode)
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
