"""Where the patches of a network look: the middle of their effective receptive field (Luo et al., arXiv 1701.04128).

A convolution of side 3 and stride 2 looks half a pixel beside the cell that its place stands for, 7.5 pixels after four
of them, and what is learnt looks to a side too. A heat map drawn on the cells is off by as much: on the phantom, whose
devices are 3 pixels wide, by 0.7 pixels, and the pointing game loses 0.04.
Legend: B images of H × W, P patches on S × S places, D the size of a vector.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_modules.networks.boxes import centres
from lightning_modules.networks.codes import float32
from lightning_modules.networks.ranks import sum_over_ranks


def mean_offset(
    located: Callable[[Tensor], tuple[Tensor, Tensor]], image: Tensor, *, seeds: Sequence[int], draws: int = 8
) -> Tensor:
    """How far a patch looks beside the centre of its box: the mean over all ranks' images, float32 [2] of (x, y).

    For each draw and image a patch of the middle half and a direction of its vector are drawn; the centroid of the
    magnitude of its gradient by the pixels says where it looks.

    Args:
        located: image → vectors [B,P,D] and boxes [B,P,4] in fractions of the image; in eval mode.
        image: float [B,1,H,W] in [-1,1].
        seeds: of each image's draws, B; where they go by the image, the mean does not depend on the ranks.
        draws: patches of each image.

    Returns:
        In fractions of the image's sides; 0 where no patch depends on any pixel.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    device, (height, width) = image.device, image.shape[-2:]
    rows = torch.arange(len(image), device=device)
    across, down = ((torch.arange(n, device=device) + 0.5) / n for n in (width, height))
    total = torch.zeros(3, dtype=torch.float64, device=device)
    with torch.inference_mode(False), torch.enable_grad(), float32(device):
        given = image.detach().clone().float().requires_grad_()
        vectors, boxes = located(given)
        middles = centres(boxes.detach())
        side = math.isqrt(vectors.shape[1])
        for _ in range(draws):
            drawn = [torch.randint(side // 4, side - side // 4, (2,), generator=one) for one in generators]
            y, x = torch.stack(drawn, dim=1).to(device)
            direction = torch.stack([torch.randn(vectors.shape[-1], generator=one) for one in generators]).to(device)
            place = y * side + x
            # Images do not see one another, so one backward pass serves a patch of each.
            (gradient,) = torch.autograd.grad((vectors[rows, place] * direction).sum(), given, retain_graph=True)
            weight = gradient[:, 0].abs()
            mass = weight.sum(dim=(1, 2))
            seen = mass > 0
            looked = torch.stack([weight.sum(dim=1) @ across, weight.sum(dim=2) @ down], dim=1) / mass[:, None]
            total[:2] += (looked - middles[rows, place])[seen].sum(dim=0)
            total[2] += seen.sum()
    total = sum_over_ranks(total)
    return (total[:2] / total[2].clamp_min(1)).float()
