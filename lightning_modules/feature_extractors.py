"""Published networks as extractors of evaluation metrics, from weights on disk; nothing is fetched from a network.

Each may stand as an extractor of `FidelityMetrics` beside the project's own classifier: Inception has seen no
radiograph, TorchXRayVision's DenseNet has seen many with labels, RAD-DINO many without. All compute in float32.
B images, D features.
"""

import hashlib
import importlib

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from lightning_modules import stages
from lightning_modules.encoders import OPENING, normalisation, vision_network
from lightning_modules.networks.codes import float32
from lightning_modules.networks.features import load_exactly
from lightning_modules.networks.resizing import resized

XRV_CONVERT = (
    "torch.save(torchxrayvision.models.DenseNet(weights='densenet121-res224-all').state_dict(), "
    "'xrv-densenet121-res224-all.pt')"
)


class FrozenInception(nn.Module):
    """InceptionV3 of the published FIDs, as torch-fidelity ports it from TensorFlow: the 2,048 pooled features.

    It takes 8-bit colour and resizes to 299 pixels as TensorFlow 1 did, so grey images are rounded to 256 levels.

    Args:
        weights: torch-fidelity's file, `weights-inception-2015-12-05-6726825d.pth`.

    Attributes:
        digest: sha256 of the file.
    """

    name, num_features, resolution = "inception-v3-fid", 2048, 299

    def __init__(self, weights: str) -> None:
        super().__init__()
        # It reads the file itself, as a pickle that may run code: what holds tensors alone runs none.
        _, self.digest = stages.open_weights(
            weights,
            what="the weights of Inception",
            fetch="weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases (v0.2.0) on GitHub",
        )
        with stages.drawn_apart():
            self.frozen = stages.Frozen(FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], weights))

    def features(self, image: Tensor) -> Tensor:
        """Float32 [B,1,H,W] in [-1,1] → float32 [B,D]."""
        pixels = ((image.float() + 1) * 127.5).round().clamp(0, 255).byte().expand(-1, 3, -1, -1)
        with float32(image.device):
            return self.frozen.part(pixels)[0].float()


class FrozenXRVDenseNet(nn.Module):
    """A DenseNet-121 of TorchXRayVision (Cohen et al., arXiv 2111.00595): the 1,024 pooled features.

    Images are resized to 224 pixels (bilinear, antialiased) and scaled to [-1024, 1024], as it was trained.

    Args:
        weights: its state dict, of tensors alone. The published files are pickles of whole modules; the error says how
            one is made of them.

    Attributes:
        digest: sha256 of the file.
    """

    name, num_features, resolution = "xrv-densenet121", 1024, 224

    def __init__(self, weights: str) -> None:
        super().__init__()
        state, self.digest = stages.open_weights(
            weights,
            what="the weights of TorchXRayVision's DenseNet",
            fetch=f'a state dict, made once where there is a network by `python -c "import torch, torchxrayvision; '
            f'{XRV_CONVERT}"`',
        )
        try:
            package = importlib.import_module("torchxrayvision")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{weights} needs the package torchxrayvision: `pip install torchxrayvision`"
            ) from error
        with stages.drawn_apart():
            network = package.models.DenseNet(weights=None).features
        kept = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
        load_exactly(network, kept, source=weights)
        self.frozen = stages.Frozen(network)

    def features(self, image: Tensor) -> Tensor:
        """Float32 [B,1,H,W] in [-1,1] → float32 [B,D]."""
        with float32(image.device):
            pixels = resized(image.float(), self.resolution) * 1024
            return self.frozen.part(pixels).relu().mean(dim=(2, 3))


class FrozenVisionModel(nn.Module):
    """Any vision model of Hugging Face, RAD-DINO for one: its pooled output, or the mean of its last features.

    Images are resized (bilinear, antialiased) and normalised as its image processor says.

    Args:
        model: a folder with config.json and model.safetensors, or the id of one that was fetched before.
        resolution: side in pixels that images are brought to; null takes the model's own.

    Attributes:
        name: "<model type>:<model>", with the last part of a path alone.
        digest: sha256 of its configuration, weights and normalisation.
        num_features: D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: str, *, resolution: int | None = None) -> None:
        super().__init__()
        try:
            with stages.drawn_apart():
                network, missing = vision_network(model)
        except OPENING as error:
            raise FileNotFoundError(
                f"vision model {model!r} could not be opened: give a folder with config.json and model.safetensors, "
                f"or an id that was fetched before with `hf download {model}` ({error})"
            ) from error
        network = getattr(network, "vision_model", network)
        if network.main_input_name != "pixel_values":
            raise ValueError(
                f"{model!r} is a {type(network).__name__}; expected a vision model, which reads pixel_values"
            )
        self.pools = not any(key.startswith("pooler.") for key in missing)
        if lost := sorted(key for key in missing if not key.startswith("pooler.")):
            raise ValueError(f"the files of {model!r} lack {len(lost)} weights, among them {lost[0]}; fetch them again")
        mean, std = normalisation(model, network.config)
        side = resolution or getattr(network.config, "image_size", None) or 224
        self.resolution = int(side[0] if isinstance(side, list | tuple) else side)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.frozen = stages.Frozen(network)
        self.name = f"{network.config.model_type}:{model.rstrip('/').rsplit('/', 1)[-1]}"
        digest = hashlib.sha256(network.config.to_json_string().encode() + repr((mean, std)).encode())
        for key, value in sorted(network.state_dict().items()):
            digest.update(key.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.digest = digest.hexdigest()
        with torch.no_grad():
            self.num_features = self.features(torch.zeros(1, 1, self.resolution, self.resolution)).shape[1]

    def features(self, image: Tensor) -> Tensor:
        """Float32 [B,1,H,W] in [-1,1] → float32 [B,D]."""
        with float32(image.device):
            pixels = ((resized(image.float(), self.resolution) + 1) / 2 - self.mean) / self.std
            output = self.frozen.part(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None) if self.pools else None
        if pooled is not None:
            return pooled.flatten(1).float()
        hidden = output.last_hidden_state  # B T C of tokens, or B C h w of maps
        return (hidden.mean(dim=1) if hidden.ndim == 3 else hidden.mean(dim=(2, 3))).float()
