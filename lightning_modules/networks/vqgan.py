"""The VQ autoencoder (VQ-GAN, arXiv 2012.09841): residual convolutions with GroupNorm around a quantiser.

Shapes: B batch, H = W = resolution, C channels, D code dimension, h = w = grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_modules.networks.fsq import FSQ, check_levels
from lightning_modules.networks.lfq import LFQ, check_power_of_two
from lightning_modules.networks.quantizer import Gradient, VectorQuantizer
from lightning_modules.networks.transformer import Attention

Quantizer = VectorQuantizer | FSQ | LFQ


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
        cosine, decay, restart_below, gradient: of quantizer ema, see `VectorQuantizer`; the others copy gradients.
        quantizer: ema learns its codebook by moving averages; fsq rounds channels to `levels`; lfq takes their signs.
        levels: of fsq, see `FSQ`; their product is `codes`.
        entropy: of lfq, weight of its entropy loss beside its commitment, see `LFQ`.
        recompute: keep only the inputs of residual blocks and attention for the backward pass and compute the rest
            again (arXiv 1604.06174): about a third more time, a fraction of the memory, equal gradients.
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
    quantizer: Literal["ema", "fsq", "lfq"] = "ema"
    levels: tuple[int, ...] = ()
    entropy: float = 0.4
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.resolution % self.factor:
            raise ValueError(
                f"resolution {self.resolution} is not a multiple of {self.factor}, the reduction that "
                f"{len(self.channels)} channel widths and stem {self.stem} give; change one of them"
            )
        odd = [width for width in self.channels if width % 8]
        if odd:
            raise ValueError(f"channels {self.channels}: GroupNorm needs multiples of 8, got {odd}")
        if self.quantizer == "fsq":
            check_levels(self.levels, self.codes)
        elif self.levels:
            raise ValueError(
                f"levels {list(self.levels)} are of quantizer fsq, got quantizer {self.quantizer}; drop one"
            )
        if self.quantizer == "lfq":
            check_power_of_two(self.codes)
        if self.cosine and self.quantizer != "ema":
            raise ValueError(f"cosine is of quantizer ema, got quantizer {self.quantizer}; set it to false")

    @property
    def factor(self) -> int:
        """Pixels a code's cell is wide."""
        return self.stem * 2 ** (len(self.channels) - 1)

    @property
    def grid(self) -> int:
        """Cells a row."""
        return self.resolution // self.factor


def tiny() -> VQGANConfig:
    """64 px, f4: 16 × 16 of 512 codes."""
    return VQGANConfig()


def small() -> VQGANConfig:
    """128 px, f8: 16 × 16 of 1024 codes."""
    return VQGANConfig(resolution=128, channels=(32, 64, 96, 128), codes=1024)


def base() -> VQGANConfig:
    """256 px, f16: 16 × 16 of 1024 codes × 256 dimensions, the reference configuration of LLM-CXR and CAMMAL."""
    return VQGANConfig(
        resolution=256, channels=(128, 128, 256, 256, 512), blocks=2, attention=True, code_dim=256, codes=1024
    )


def large() -> VQGANConfig:
    """512 px, f16: the network of `base` on 32 × 32 codes, recomputed in the backward pass to save memory."""
    return replace(base(), resolution=512, recompute=True)


class VQOutput(NamedTuple):
    """What a pass through the whole autoencoder returns."""

    reconstruction: Tensor  # float32 [B,1,H,W], about [-1,1], not clamped
    codes: Tensor  # int64 [B,h,w]
    commitment: Tensor  # float32 scalar


class Float32GroupNorm(nn.GroupNorm):
    """GroupNorm that computes in float32 whatever it gets; under autocast it returns that, as on CUDA.

    The CPU's bf16 kernel rounds what it returns, and its backward pass takes 4 times as long as the float32 one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → the same shape, in the type of the weights."""
        y = functional.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        return y.to(self.weight.dtype)


def norm(channels: int) -> Float32GroupNorm:
    """GroupNorm of 8 groups: independent of the batch, so ranks and batch sizes do not change the result."""
    return Float32GroupNorm(8, channels, eps=1e-6)


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


def run(layers: nn.Sequential, x: Tensor, *, count: int, recompute: bool) -> Tensor:
    """The first `count` layers, one after the other; `recompute` as in VQGANConfig."""
    for layer in islice(layers, count):
        again = recompute and torch.is_grad_enabled() and isinstance(layer, ResidualBlock | GridAttention)
        x = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
    return x


def build_quantizer(config: VQGANConfig) -> Quantizer:
    """The quantiser that the config names."""
    if config.quantizer == "fsq":
        return FSQ(config.levels, dim=config.code_dim)
    if config.quantizer == "lfq":
        return LFQ(config.codes, dim=config.code_dim, entropy=config.entropy)
    return VectorQuantizer(
        config.codes,
        dim=config.code_dim,
        decay=config.decay,
        restart_below=config.restart_below,
        cosine=config.cosine,
        gradient=config.gradient,
    )


class VQGAN(nn.Module):
    """Images to a grid of codes and back."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = encoder(config), decoder(config)
        self.quantizer = build_quantizer(config)
        self.run: Callable[..., Tensor] = run
        # Twice as fast in bf16 convolutions on CPU and on tensor cores; values do not change.
        self.to(memory_format=torch.channels_last)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Let `torch.compile(*args, **kwargs)` make the encoder and the decoder at their first use; names stay.

        The quantiser stays as it is, since it branches on its values, and so does the decoder's last convolution:
        the loss differentiates it by itself for the adaptive weight (see `last_weight`).
        """
        # Each batch size is compiled by itself: inductor cannot order the strides of channels_last at an unknown one.
        self.run = torch.compile(run, *args, **{"dynamic": False} | kwargs)

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
        image = image.contiguous(memory_format=torch.channels_last)
        return self.run(self.encoder, image, count=len(self.encoder), recompute=self.config.recompute)

    def encode(self, image: Tensor) -> Tensor:
        """Image [B,1,H,W] in [-1,1] → codes int64 [B,h,w]. Does not touch the codebook, whatever the mode."""
        return self.quantizer.encode(self.latent(image))

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Quantised vectors [B,D,h,w] → image float32 [B,1,H,W], not clamped."""
        latent = latent.contiguous(memory_format=torch.channels_last)
        body = len(self.decoder) - 2
        x = self.run(self.decoder, latent, count=body, recompute=self.config.recompute)
        return self.decoder[body:](x).float()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [B,h,w] → image float32 [B,1,H,W] in [-1,1]."""
        return self.decode_latent(self.quantizer.lookup(codes)).clamp(-1, 1)

    def forward(self, image: Tensor) -> VQOutput:
        """Encode, quantise and decode; in training mode the codebook learns."""
        quantized = self.quantizer(self.latent(image))
        return VQOutput(self.decode_latent(quantized.vectors), quantized.codes, quantized.commitment)
