"""The step that ImageCodebook's one backward replaces: two optimisers that take turns, as taming-transformers trains.

Each turn passes the whole autoencoder, the feature networks (on the image and on the reconstruction) and the
discriminator; for the adaptive weight, the first turn goes backwards through the feature networks and the discriminator
once more. Source: `VQModel.training_step` and `VQLPIPSWithDiscriminator.forward` under Lightning's automatic
optimisation, which freezes the other player in each turn. Weights, terms, bound of the adaptive weight and quantiser
are the module's own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks import losses
from lightning_modules.networks.fidelity import fidelity


class TwoOptimisers:
    """Trains both players of a codebook whose feature networks are open.

    Args:
        module: what is trained; its discriminator plays at full weight from the first step on.
        optimizer: from parameters to the optimiser of one player.
    """

    def __init__(self, module: ImageCodebook, *, optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
        self.module = module
        self.players: tuple[nn.Module, nn.Module] = (module.network, module.discriminator)
        self.optimizers = [optimizer(player.parameters()) for player in self.players]

    def step(self, image: Tensor) -> None:
        """One turn of each player on float32 images [B,1,H,W] in [-1,1]; gradients stay until the next turn."""
        for turn, optimizer in enumerate(self.optimizers):
            for other, player in enumerate(self.players):
                player.requires_grad_(other == turn)
            optimizer.zero_grad()
            self.loss(image, turn).backward()
            optimizer.step()
        for player in self.players:
            player.requires_grad_(True)

    def loss(self, image: Tensor, turn: int) -> Tensor:
        """The autoencoder's loss at turn 0, the discriminator's at turn 1: a scalar."""
        module = self.module
        output = module.network(image)
        # In both turns, as there: the discriminator's has no use for it.
        distance, _ = fidelity(output.reconstruction, image, weights=module.weights, networks=module.features)
        if turn == 1:
            real, fake = module.discriminator(image), module.discriminator(output.reconstruction.detach())
            return losses.hinge_discriminator(real, fake)
        verdict = losses.hinge_generator(module.discriminator(output.reconstruction))
        last = module.network.last_weight
        norms = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (distance, verdict)]
        adaptive = (norms[0] / (norms[1] + 1e-6)).clamp(0, losses.ADAPTIVE_LIMIT).detach()
        return distance + module.adversarial * adaptive * verdict + module.commitment * output.commitment
