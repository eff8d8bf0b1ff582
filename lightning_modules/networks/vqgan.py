"""The VQ autoencoder (VQ-GAN, arXiv 2012.09841): residual convolutions with GroupNorm around a vector quantiser.

Shapes: B batch, H = W = resolution, C channels, D code dimension, h = w = grid.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.quantizer import Gradient, VectorQuantizer
from lightning_modules.networks.transformer import Attention


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes of the codebook network.

    Attributes:
        resolution: height and width of the image in pixels.
        channels: widths from full resolution to the grid; each further entry halves the resolution, so (a, b, c) is f4
            and (a, b, c, d) is f8.
        stem: pixels a side that are folded into channels before the first convolution and unfolded after the last
            (Shi et al., arXiv 1609.05158); 2 makes each pass about 4 times cheaper at the same widths, 1 folds nothing.
        blocks: residual blocks of the encoder at each resolution; the decoder has one more at the lowest.
        attention: one self-attention layer at the lowest resolution, on both sides.
        code_dim: dimension of a code's vector.
        codes: size of the codebook.
        cosine, decay, restart_below, gradient: see `VectorQuantizer`.
    """

    resolution: int = 64
    channels: tuple[int, ...] = (32, 64, 128)
    stem: int = 1
    blocks: int = 1
    attention: bool = False
    code_dim: int = 64
    codes: int = 512
    cosine: bool = False
    decay: float = 0.97
    restart_below: float = 0.03
    gradient: Gradient = "rotation"

    def __post_init__(self) -> None:
        if self.resolution % self.factor:
            raise ValueError(
                f"resolution {self.resolution} is not a multiple of {self.factor}, the reduction that "
                f"{len(self.channels)} channel widths and stem {self.stem} give; change one of them"
            )
        odd = [width for width in self.channels if width % 8]
        if odd:
            raise ValueError(f"channels {self.channels}: GroupNorm needs multiples of 8, got {odd}")

    @property
    def factor(self) -> int:
        """Pixels a code's cell is wide."""
        return self.stem * 2 ** (len(self.channels) - 1)

    @property
    def grid(self) -> int:
        """Cells a row."""
        return self.resolution // self.factor


SIZES: dict[str, VQGANConfig] = {
    "tiny": VQGANConfig(),
    "small": VQGANConfig(resolution=128, channels=(32, 64, 96, 128), codes=1024),
    # The reference configuration of LLM-CXR and CAMMAL: 256 px, f16, 1024 codes of 256 dimensions.
    "base": VQGANConfig(
        resolution=256, channels=(128, 128, 256, 256, 512), blocks=2, attention=True, code_dim=256, codes=1024
    ),
}


class VQOutput(NamedTuple):
    """What a pass through the whole autoencoder returns."""

    reconstruction: Tensor  # float32 [B,1,H,W], about [-1,1], not clamped
    codes: Tensor  # int64 [B,h,w]
    commitment: Tensor  # float32 scalar


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 8 groups: independent of the batch, so ranks and batch sizes do not change the result."""
    return nn.GroupNorm(8, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, each after norm and SiLU, added to the (projected) input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C',H,W]."""
        y = self.conv1(functional.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(functional.silu(self.norm2(y)))


class GridAttention(nn.Module):
    """One-head self-attention over all cells of the grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.attention = norm(channels), Attention(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] → the same shape."""
        cells = self.norm(x).flatten(2).transpose(1, 2)  # B h*w C
        return x + self.attention(cells, cells).transpose(1, 2).unflatten(2, x.shape[2:])


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution: no checkerboard, unlike transposed convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C',2H,2W]."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def encoder(config: VQGANConfig) -> nn.Sequential:
    """Image [B,1,H,W] → latent [B,D,h,w]."""
    widths = config.channels
    layers: list[nn.Module] = [nn.PixelUnshuffle(config.stem), nn.Conv2d(config.stem**2, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
        layers += [ResidualBlock(width, width) for _ in range(config.blocks)]
    if config.attention:
        layers.append(GridAttention(widths[-1]))
    layers += [norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], config.code_dim, 1)]
    return nn.Sequential(*layers)


def decoder(config: VQGANConfig) -> nn.Sequential:
    """Latent [B,D,h,w] → image [B,1,H,W]; the last but one is a convolution (see `VQGAN.last_weight`)."""
    widths = config.channels[::-1]
    layers: list[nn.Module] = [nn.Conv2d(config.code_dim, widths[0], 3, padding=1), ResidualBlock(widths[0], widths[0])]
    if config.attention:
        layers.append(GridAttention(widths[0]))
    for level, width in enumerate(widths):
        if level:
            layers.append(Upsample(widths[level - 1], width))
        layers += [ResidualBlock(width, width) for _ in range(config.blocks)]
    layers += [norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], config.stem**2, 3, padding=1)]
    layers.append(nn.PixelShuffle(config.stem))
    return nn.Sequential(*layers)


class VQGAN(nn.Module):
    """Images to a grid of codes and back."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = encoder(config), decoder(config)
        self.quantizer = VectorQuantizer(
            config.codes,
            dim=config.code_dim,
            decay=config.decay,
            restart_below=config.restart_below,
            cosine=config.cosine,
            gradient=config.gradient,
        )
        # Twice as fast in bf16 convolutions on CPU and on tensor cores; values do not change.
        self.to(memory_format=torch.channels_last)

    @property
    def last_weight(self) -> Tensor:
        """The weight of the decoder's last convolution, where VQ-GAN compares gradients."""
        last = self.decoder[-2]
        assert isinstance(last, nn.Conv2d)
        return last.weight

    def latent(self, image: Tensor) -> Tensor:
        """The encoder's output [B,D,h,w] before quantisation.

        Raises:
            ValueError: if the image is not float [B,1,resolution,resolution].
        """
        side = self.config.resolution
        if image.ndim != 4 or image.shape[1:] != (1, side, side):
            raise ValueError(f"the codebook takes images [B,1,{side},{side}], got {list(image.shape)}")
        return self.encoder(image.contiguous(memory_format=torch.channels_last))

    def encode(self, image: Tensor) -> Tensor:
        """Image [B,1,H,W] in [-1,1] → codes int64 [B,h,w]. Does not touch the codebook, whatever the mode."""
        return self.quantizer.encode(self.latent(image))

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Quantised vectors [B,D,h,w] → image float32 [B,1,H,W], not clamped."""
        return self.decoder(latent.contiguous(memory_format=torch.channels_last)).float()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [B,h,w] → image float32 [B,1,H,W] in [-1,1]."""
        return self.decode_latent(self.quantizer.lookup(codes)).clamp(-1, 1)

    def forward(self, image: Tensor) -> VQOutput:
        """Encode, quantise and decode; in training mode the codebook learns."""
        quantized = self.quantizer(self.latent(image))
        return VQOutput(self.decode_latent(quantized.vectors), quantized.codes, quantized.commitment)
