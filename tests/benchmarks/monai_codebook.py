"""MONAI's VQVAE as a LightningModule that is tested as ImageCodebook is."""

from typing import Any

import lightning
import torch
from monai.networks.nets import VQVAE
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.reconstruction_metrics import ReconstructionMetrics
from lightning_modules.networks.vqgan import VQGANConfig

TOLERANCE = 0.1  # of the decoder's parameters


def parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())


def peer(config: VQGANConfig, *, decoder: int) -> VQVAE:
    """The VQVAE with the same grid, codes and code dimension, and a decoder of about so many parameters.

    Every halving is MONAI's default, a 4 × 4 convolution of stride 2; widths are those of `config`, one for each
    halving, times a common factor.

    Raises:
        ValueError: if no width comes within `TOLERANCE` of the number.
    """
    halvings = config.factor.bit_length() - 1
    widths = (config.channels[:1] * halvings + config.channels[1:])[-halvings:]

    def network(sixteenths: int) -> VQVAE:
        channels = tuple(width * sixteenths // 16 for width in widths)
        return VQVAE(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=channels,
            num_res_channels=channels,
            num_res_layers=2,
            downsample_parameters=((2, 4, 1, 1),) * halvings,
            upsample_parameters=((2, 4, 1, 1, 0),) * halvings,
            num_embeddings=config.codes,
            embedding_dim=config.code_dim,
            ddp_sync=False,
        )

    found = {}
    for sixteenths in range(8, 65):
        with torch.device("meta"):  # only the sizes
            found[sixteenths] = parameters(network(sixteenths).decoder)
    best = min(found, key=lambda sixteenths: abs(found[sixteenths] - decoder))
    if abs(found[best] / decoder - 1) > TOLERANCE:
        raise ValueError(
            f"the nearest decoder has {found[best]} parameters, expected {decoder} ± {TOLERANCE:.0%}; "
            "choose other widths"
        )
    return network(best)


class MonaiCodebook(lightning.LightningModule):
    """L1 and MONAI's own quantisation loss under Adam, as its VQ-VAE tutorial trains it.

    Args:
        network: see `peer`.
        codes: size of the codebook.
        lr: learning rate.
    """

    def __init__(self, network: VQVAE, *, codes: int, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr
        self.metrics = ReconstructionMetrics(codes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss on images [B,1,H,W] in [-1,1]."""
        reconstruction, quantisation = self.network(batch["image"])
        return functional.l1_loss(reconstruction.float(), batch["image"].float()) + quantisation

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """{"reconstruction": float32 [B,1,H,W]}; nothing outside of [-1,1], which an image does not have."""
        codes = self.network.index_quantize(batch["image"])
        reconstruction = self.network.decode_samples(codes).float().clamp(-1, 1)
        self.metrics.update(reconstruction, batch["image"].float(), codes)
        return {"reconstruction": reconstruction}

    def on_test_epoch_end(self) -> None:
        """Log as ImageCodebook does."""
        self.log_dict({f"codebook/{name}": value for name, value in self.metrics.compute().items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)
