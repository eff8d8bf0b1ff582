"""What losses look through: the interface of a feature network, and published networks that give maps and features.

A feature network is fixed. It turns an image into maps (where things are) and one vector of features (what is there).
The project's own FindingClassifier is one; LPIPS on a torchvision backbone and EfficientNet-Lite0 are others. Here are
their computations; `lightning_modules.feature_networks` opens their weights.

Shapes: B batch, H = W = resolution, C channels, D features.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torchvision
from torch import Tensor, nn

Backbone = Literal["vgg16", "alexnet"]


class SeesFeatures(Protocol):
    """What a feature network returns, as attributes."""

    @property
    def features(self) -> Tensor:
        """Float32 [B,D]."""

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Float [B,C_i,H_i,W_i], the finest first, in the precision that the network computed in."""


@runtime_checkable
class FeatureNetwork(Protocol):
    """A fixed network that losses look through; gradients reach the image, not the network.

    It may also have `map_weights`, a tuple of float32 [C_i]: how much each channel of each map counts in the perceptual
    distance.

    Attributes:
        digest: sha256 of its weights, 64 hexadecimal digits.
    """

    digest: str

    def output(self, image: Tensor) -> SeesFeatures:
        """Maps and features of an image [B,1,H,W] in [-1,1], in one pass; under autocast in its precision."""


class Features(NamedTuple):
    """Maps and features of a batch of images."""

    features: Tensor  # float32 [B,D]
    maps: tuple[Tensor, ...]  # float [B,C_i,H_i,W_i], the finest first


class Architecture(NamedTuple):
    """Where LPIPS cuts a torchvision network."""

    ends: tuple[int, ...]  # of its layers `features`, the first behind each map
    channels: tuple[int, ...]  # of the maps
    smallest: int  # side of the smallest image in pixels for which every map has a cell


LPIPS_BACKBONES: dict[Backbone, Architecture] = {
    "vgg16": Architecture((4, 9, 16, 23, 30), (64, 128, 256, 512, 512), 16),
    "alexnet": Architecture((2, 5, 8, 10, 12), (64, 192, 384, 256, 256), 31),
}


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict whose names and shapes must be the module's.

    Raises:
        ValueError: naming the file and the first differences.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        first = "; ".join(
            f"{name}: expected {wanted.get(name, 'none')}, found {found.get(name, 'none')}" for name in wrong[:3]
        )
        raise ValueError(
            f"{source} does not hold the weights of {type(module).__name__}: {len(wrong)} tensors differ ({first}); "
            "give the file that was published for this network"
        )
    # Assigned, not copied: a module on the meta device has no storage yet.
    module.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}, assign=True
    )


class LPIPSNetwork(nn.Module):
    """The maps that LPIPS (arXiv 1801.03924, version 0.1) compares: five of a torchvision network trained on ImageNet.

    Args:
        backbone: which network.
        state: its published state dict; only `features.*` is used.
        source: the file it came from, for messages.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone, state: Mapping[str, Tensor], *, source: str) -> None:
        super().__init__()
        self.architecture = LPIPS_BACKBONES[backbone]
        with torch.device("meta"):  # no time and memory for random weights
            self.layers: nn.Sequential = getattr(torchvision.models, backbone)(weights=None).features
        kept = {name: value for name, value in state.items() if not name.startswith("classifier.")}
        load_exactly(
            self.layers, {name.removeprefix("features."): value for name, value in kept.items()}, source=source
        )
        # The published code's constants: mean and deviation of ImageNet for images in [-1,1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def forward(self, image: Tensor) -> Features:
        """Image float32 [B,1,H,W] in [-1,1]; features are the means of the last map.

        Raises:
            ValueError: if the image is too small for the network.
        """
        if min(image.shape[-2:]) < self.architecture.smallest:
            raise ValueError(
                f"images are {list(image.shape[-2:])} pixels, LPIPS needs at least {self.architecture.smallest} with "
                "this backbone; take larger images or another perceptual_network"
            )
        x = (image - self.shift) / self.scale  # B 3 H W
        maps, begin = [], 0
        for end in self.architecture.ends:
            x = self.layers[begin:end](x)
            maps.append(x)
            begin = end
        return Features(x.float().mean(dim=(2, 3)), tuple(maps))


class EfficientNetLite0Maps(nn.Module):
    """Maps of EfficientNet-Lite0 before each halving, and the means of its last.

    Args:
        network: `efficientnet_lite_pytorch.EfficientNet`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, image: Tensor) -> Features:
        """Image float32 [B,1,H,W] in [-1,1], H and W multiples of 32; maps at 1/2, 1/4, 1/8, 1/16, 1/32 of it.

        Raises:
            ValueError: if the image has another size.
        """
        if image.shape[-2] % 32 or image.shape[-1] % 32:
            raise ValueError(
                f"images are {list(image.shape[-2:])} pixels, EfficientNet-Lite0 needs multiples of 32; take another "
                "size or another feature network"
            )
        net = self.network
        # Lite models were trained on (x - 127) / 128 of pixels 0..255.
        x = ((image * 127.5 + 0.5) / 128).expand(-1, 3, -1, -1)
        x = net._swish(net._bn0(net._conv_stem(x)))
        maps = []
        for block in net._blocks:
            if block._depthwise_conv.stride[0] > 1:
                maps.append(x)
            x = block(x)
        x = net._swish(net._bn1(net._conv_head(x)))
        return Features(x.float().mean(dim=(2, 3)), (*maps, x))
