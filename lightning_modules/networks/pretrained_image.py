"""Image trunks that were trained before: a Hugging Face or timm vision model, or the codebook's own encoder.

A trunk turns a grey image into features on a square grid, of which `PatchEncoder` makes patches. A vision transformer's
places have each seen the whole image (see `patch_encoder` for what that does to pointing); a convolutional network's
see their surroundings.
Legend: B images, R their side in pixels, S places along one side, C channels, T tokens, k colours of the model's image.
"""

import inspect
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from lightning_modules.networks.vqgan import VQGANConfig, encoder

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_EXTRA = 16  # class and register tokens before the places; published models have up to 5
# Of a configuration: where it came from, and names of classes that the trunk does not tell apart.
_UNNEEDED = ("dtype", "torch_dtype", "_name_or_path", "transformers_version", "id2label", "label2id", "label_names")


@dataclass(frozen=True)
class ImageModel:
    """What a trunk is built from beside its weights, as plain data that travels in checkpoints.

    Attributes:
        kind: "hub" for a Hugging Face or timm model, "codebook" for the encoder of an ImageCodebook.
        config: its configuration as JSON.
        source: id, folder or file that it came from.
        mean, std: of each colour of the model's image, for pixels in [0,1]; empty for a codebook.
        digest: sha256 of the codebook's checkpoint, "" for a hub's model.
    """

    kind: Literal["hub", "codebook"]
    config: str
    source: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    digest: str = ""


class HubFeatures(nn.Module):
    """A model of the hub, from grey images to its last features on the grid.

    Args:
        network: a Hugging Face vision model, or timm's in `TimmWrapperModel`.
        mean: of each colour for pixels in [0,1].
        std: of the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network: Any = network
        self.register_buffer("mean", torch.tensor(mean)[None, :, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[None, :, None, None], persistent=False)
        known = inspect.signature(network.forward).parameters
        wanted = {"interpolate_pos_encoding": True, "do_pooling": False}
        self.options = {name: value for name, value in wanted.items() if name in known}

    def forward(self, image: Tensor) -> Tensor:
        """Float [B,1,R,R] in [-1,1] → float [B,C,S,S]."""
        pixels = ((image + 1) / 2 - self.mean) / self.std  # B k R R
        hidden = self.network(pixel_values=pixels, **self.options).last_hidden_state
        timm = getattr(self.network, "timm_model", None)
        if hidden.ndim == 4:
            return hidden.permute(0, 3, 1, 2) if getattr(timm, "output_fmt", "") == "NHWC" else hidden
        tokens, resolution = hidden.shape[1], image.shape[-1]
        if timm is None:
            side = grid_side(tokens, resolution=resolution, patch=_patch_side(self.network.config))
        else:
            side = grid_side(tokens - int(getattr(timm, "num_prefix_tokens", 0)), resolution=resolution, patch=None)
        # Class and register tokens stand first.
        return hidden[:, tokens - side**2 :].transpose(1, 2).unflatten(2, (side, side))


def _patch_side(config: Any) -> int | None:
    patch = getattr(config, "patch_size", None)
    return int(patch[0] if isinstance(patch, list | tuple) else patch) if patch else None


def grid_side(tokens: int, *, resolution: int, patch: int | None) -> int:
    """How many places along one side T tokens cover, of which the first may be class and register tokens.

    Args:
        tokens: T.
        resolution: side of the image in pixels.
        patch: side of the model's patches where it has some; models that merge them later have fewer places.

    Raises:
        ValueError: if the tokens make no square grid of whole pixels.
    """
    if patch is not None and 0 <= tokens - (resolution // patch) ** 2 <= MOST_EXTRA:
        if resolution % patch:
            raise ValueError(
                f"its patches have {patch} pixels, which do not divide the images' {resolution}; set data.init_args."
                f"size to a multiple of {patch}"
            )
        return resolution // patch
    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise ValueError(
            f"it makes {tokens} tokens of an image of {resolution} pixels, which are no square grid; expected a model "
            "whose last_hidden_state has one token a place"
        )
    return side


def build_features(model: ImageModel) -> nn.Module:
    """The network of a trunk, with random weights: float [B,1,R,R] in [-1,1] → float [B,C,S,S]."""
    config: dict[str, Any] = json.loads(model.config)
    if model.kind == "codebook":
        sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        # Without the last layer, which projects onto the codes' fewer dimensions.
        return encoder(VQGANConfig(**sizes))[:-1]
    network = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config), dtype=torch.float32)
    return HubFeatures(network, mean=model.mean, std=model.std)


def plain_config(network: Any) -> str:
    """The configuration of a Hugging Face model as JSON, enough to build it again."""
    config = {**network.config.to_dict(), "model_type": network.config.model_type}
    return json.dumps({key: value for key, value in config.items() if key not in _UNNEEDED}, sort_keys=True)


class ImageTrunk(nn.Module):
    """Features of a pretrained network on its grid, frozen or trained further.

    Args:
        model: what it is.
        features: the network that `build_features` makes of it.
        resolution: side of the images in pixels.
        train: let it be trained. Otherwise it has no gradients and stays in eval mode.

    Attributes:
        channels: C.
        side: S.

    Raises:
        ValueError: if the features make no square grid of whole pixels at this resolution.
    """

    def __init__(self, model: ImageModel, *, features: nn.Module, resolution: int, train: bool) -> None:
        super().__init__()
        self.resolution, self.learns, self.features = resolution, train, features
        try:
            self.channels, self.side, used = probe(features, resolution=resolution)
        except (ValueError, RuntimeError, AssertionError) as error:  # what models raise at a size they cannot take
            raise ValueError(f"the image encoder {model.source} cannot be taken at this image size: {error}") from error
        # DDP waits for the gradients of all that is trained: poolers and mask tokens never get one.
        for name, parameter in self.features.named_parameters():
            parameter.requires_grad_(train and name in used)
        self.train()

    def train(self, mode: bool = True) -> "ImageTrunk":
        """Stay in eval mode unless it is trained."""
        return super().train(mode and self.learns)

    def forward(self, image: Tensor) -> Tensor:
        """Float [B,1,R,R] in [-1,1] → float [B,C,S,S]."""
        # An image asks for its gradient where what the patches look at is measured.
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.learns or image.requires_grad)):
            return self.features(image)


def probe(features: nn.Module, *, resolution: int) -> tuple[int, int, frozenset[str]]:
    """What one black image tells of a network: its channels, its places a side, and the parameters that they depend on.

    Raises:
        ValueError: if the places are no square grid of at least 2 × 2 whole pixels.
    """
    names, parameters = zip(*features.named_parameters(), strict=True)
    training = features.training
    with torch.enable_grad():
        grid = features.eval()(torch.full((1, 1, resolution, resolution), -1.0, device=parameters[0].device))
        gradients = torch.autograd.grad(grid.sum(), parameters, allow_unused=True)
    features.train(training)
    channels, height, width = grid.shape[1:]
    if height != width or height < 2 or resolution % height:
        raise ValueError(
            f"it makes {height} × {width} places of an image of {resolution} pixels; expected a square grid of at "
            "least 2 × 2 places of whole pixels: set data.init_args.size to a larger size or another multiple"
        )
    used = frozenset(name for name, value in zip(names, gradients, strict=True) if value is not None)
    return channels, height, used
