"""How far a reconstruction is from its image: L1, perceptual, clinical and frequency distances, weighted.

Perceptual and clinical distance may look through different networks; where both look through one, it is passed once.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks import losses
from lightning_modules.networks.features import FeatureNetwork

NETWORK_TERMS = ("perceptual", "clinical")
TERMS = (*NETWORK_TERMS, "frequency")


def fidelity(
    reconstruction: Tensor, image: Tensor, *, weights: Mapping[str, float], networks: Mapping[str, FeatureNetwork]
) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 plus the weighted distances.

    Args:
        reconstruction: float32 [B,1,H,W].
        image: float32 [B,1,H,W] in [-1,1].
        weights: of the terms "perceptual", "clinical" and "frequency".
        networks: what the first two look through; a term without one is left out.

    Returns:
        The sum, a scalar, and its unweighted parts by name.
    """
    parts = {"l1": functional.l1_loss(reconstruction, image)}
    seen = {}
    for network in {id(n): n for n in networks.values()}.values():
        with torch.no_grad():
            target = network.output(image)
        seen[id(network)] = network.output(reconstruction), target
    if "perceptual" in networks:
        found, target = seen[id(networks["perceptual"])]
        channels = getattr(networks["perceptual"], "map_weights", None)
        parts["perceptual"] = losses.perceptual_distance(found.maps, target.maps, weights=channels)
    if "clinical" in networks:
        found, target = seen[id(networks["clinical"])]
        parts["clinical"] = losses.clinical_distance(found.features, target.features)
    if weights.get("frequency"):
        parts["frequency"] = losses.frequency_distance(reconstruction, image)
    total = parts["l1"]
    for name in TERMS:
        if name in parts:
            total = total + weights[name] * parts[name]
    return total, parts
