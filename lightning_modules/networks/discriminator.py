"""The patch discriminator (PatchGAN, arXiv 1611.07004) with GroupNorm: one real-or-generated logit a patch.

GroupNorm in place of BatchNorm: logits of an image do not depend on its batch, so real and generated images may be
judged together or apart and any number of ranks gives the same result.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.networks.vqgan import norm


class PatchDiscriminator(nn.Module):
    """Strided convolutions; `layers` = 3 sees 46 × 46 pixels a logit.

    Args:
        width: channels after the first convolution (a multiple of 8), doubled by each further one, at most 8 × width.
        layers: number of halvings.
    """

    def __init__(self, width: int = 32, *, layers: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers)]
        parts: list[nn.Module] = [nn.Conv2d(1, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for inputs, outputs in pairwise(widths):
            parts += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False), norm(outputs), nn.LeakyReLU(0.2)]
        parts.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*parts)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Image [B,1,H,W] in [-1,1] → logits float32 [B,1,H',W'], high = real."""
        return self.layers(image.contiguous(memory_format=torch.channels_last)).float()
