"""GroupNorm with the statistics of all images in place of each image's own: what it returns is of that place alone.

GroupNorm divides by the brightness and contrast of the whole image. By that alone every patch of a radiograph knows of
a haze anywhere, and a word for haze points anywhere.
Shapes: B images, C channels in G groups, H × W places.
"""

import torch
from torch import Tensor, nn

from lightning_modules.networks.ranks import sum_over_ranks

SLOWEST = 0.01  # weight of a batch in the running statistics, once there have been 1 / SLOWEST


class LocalGroupNorm(nn.Module):
    """A fixed GroupNorm whose statistics are averages over the training images of all ranks; learns nothing.

    Args:
        norm: whose weights and groups it takes.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.register_buffer("weight", norm.weight.detach().clone())
        self.register_buffer("bias", norm.bias.detach().clone())
        self.register_buffer("mean", torch.zeros(self.groups))
        self.register_buffer("variance", torch.ones(self.groups))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → float32 of the same shape; in training the statistics follow its images first."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.training:
                self._follow(x.detach())
            each = x.shape[1] // self.groups
            scale = self.weight * (self.variance + self.eps).rsqrt().repeat_interleave(each)
            shift = self.bias - self.mean.repeat_interleave(each) * scale
            return x * scale[:, None, None] + shift[:, None, None]

    def _follow(self, x: Tensor) -> None:
        grouped = x.unflatten(1, (self.groups, -1))
        # Of each image for itself, as GroupNorm has them, then over images.
        mean, variance = grouped.mean(dim=(2, 3, 4)), grouped.var(dim=(2, 3, 4), unbiased=False)  # B G
        count = x.new_full((1, self.groups), float(len(x)))
        total = sum_over_ranks(torch.cat([mean.sum(dim=0)[None], variance.sum(dim=0)[None], count]))
        self.batches += 1
        share = (1 / self.batches).clamp_min(SLOWEST)  # on its device, so that nothing waits for it
        self.mean.lerp_(total[0] / total[2], share)
        self.variance.lerp_(total[1] / total[2], share)


def made_local(module: nn.Module) -> None:
    """Put a `LocalGroupNorm` in the place of every GroupNorm within a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, LocalGroupNorm(child))
        else:
            made_local(child)
