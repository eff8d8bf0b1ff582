"""Where a finding network looks: Grad-CAM (Selvaraju et al., arXiv 1610.02391).

B images of H × W, F findings, one of the network's maps of C channels and h × w places.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.classifier import FindingNetwork
from lightning_modules.networks.quantizer import float32


def grad_cam(
    network: FindingNetwork,
    image: Tensor,
    findings: Sequence[int],
    *,
    layer: int = -1,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Heat maps of what raises each finding's logit, eq. 1 and 2 of the paper; also inside of `torch.inference_mode`.

    Args:
        network: in eval mode, lest dropout change the gradients. Its parameters get no gradient.
        image: float [B,1,H,W] in [-1,1].
        findings: indices of F logits.
        layer: which of the network's maps; the last by default, as in the paper.
        size: height and width to which the maps are brought, bilinearly; None leaves them at the layer's own.

    Returns:
        Float32 [B,F,h,w], or [B,F,*size], from 0 up; 0 throughout where nothing raises the logit.

    Raises:
        ValueError: for a layer that the network does not have.
    """
    with torch.inference_mode(False), torch.enable_grad(), float32(image.device):
        # What was made in inference mode cannot take part in a backward pass, a copy can.
        output = network(image.detach().clone().float().requires_grad_())
        if not -len(output.maps) <= layer < len(output.maps):
            raise ValueError(f"layer {layer}: the network has {len(output.maps)} maps, {-len(output.maps)} to -1")
        maps = output.maps[layer]
        heat = []
        for finding in findings:
            # Images do not see one another, so the gradient of the sum is that of each image's logit.
            (gradient,) = torch.autograd.grad(output.logits[:, finding].sum(), maps, retain_graph=True)
            weight = gradient.mean(dim=(2, 3), keepdim=True)  # eq. 1: B C 1 1
            heat.append((weight * maps.detach()).sum(dim=1).relu())  # eq. 2: B h w
    found = torch.stack(heat, dim=1)
    return found if size is None else functional.interpolate(found, size=size, mode="bilinear", align_corners=False)
