"""Images brought to the size that a fixed network was trained on."""

from torch import Tensor
from torch.nn import functional


def resized(image: Tensor, side: int) -> Tensor:
    """Float [B,1,H,W] → [B,1,side,side], bilinear with antialiasing; itself where it has that size."""
    if image.shape[-2:] == (side, side):
        return image
    return functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
