"""Iterative parallel decoding of image codes (MaskGIT, arXiv 2202.04200 section 3.2) with two guidance scales.

All randomness of an image comes from its own seed, so it does not depend on the batch or the rank that it is made in.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.networks.masked_generator import Condition, MaskedGenerator


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are drawn.

    Attributes:
        steps: network calls an image; each fills the most certain holes, their number following the cosine schedule.
        temperature: of the codes' distribution; 1 samples what was learnt.
        choice_temperature: of the noise on the certainty by which holes are chosen, falling linearly to 0; 0 makes the
            choice greedy, which costs diversity.
        guidance_text: 1 = no guidance; above 1 the report is obeyed more at the cost of diversity.
        guidance_clues: the same for the key-patch clues; equal scales save a third of the work.
    """

    steps: int = 12
    temperature: float = 1.0
    choice_temperature: float = 4.5
    guidance_text: float = 1.5
    guidance_clues: float = 1.5

    def __post_init__(self) -> None:
        if self.steps < 1 or self.temperature <= 0 or self.choice_temperature < 0:
            raise ValueError(
                f"sampling needs steps >= 1, temperature > 0, choice_temperature >= 0; found {self.steps}, "
                f"{self.temperature}, {self.choice_temperature}"
            )


def seeded_uniform(seeds: Tensor, *size: int) -> Tensor:
    """Uniform [0,1) noise [B,*size] on the CPU, row b drawn from seed b alone."""
    return torch.stack([torch.rand(*size, generator=torch.Generator().manual_seed(int(s))) for s in seeds.tolist()])


def guided_logits(model: MaskedGenerator, codes: Tensor, condition: Condition, config: SamplingConfig) -> Tensor:
    """Logits [B,N,V] guided by text and clues separately, all branches in one batch.

    nothing + text scale · (text - nothing) + clue scale · (text and clues - text), after Brooks et al., arXiv
    2211.09800 eq. 3, with the branches of the two conditions in that order. Only branches with a weight are computed:
    one without guidance, two where both scales are equal.
    """
    weights = {  # (text dropped, clues dropped): share of the branch
        (False, False): config.guidance_clues,
        (False, True): config.guidance_text - config.guidance_clues,
        (True, True): 1 - config.guidance_text,
    }
    weights = {branch: weight for branch, weight in weights.items() if weight}

    def everywhere(value: bool) -> Tensor:
        return torch.full((len(codes),), value, device=codes.device)

    parts = [condition.drop(text=everywhere(text), clues=everywhere(clues)) for text, clues in weights]
    joined = Condition(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "mask", "view", "clues"))
    )
    logits = model(codes.repeat(len(parts), 1), joined).float().chunk(len(parts))
    return torch.stack([weight * part for weight, part in zip(weights.values(), logits, strict=True)]).sum(0)


@torch.no_grad()
def sample_codes(model: MaskedGenerator, condition: Condition, seeds: Tensor, config: SamplingConfig) -> Tensor:
    """Draw image codes: int64 [B,N].

    Args:
        model: the trained network, in eval mode.
        condition: of B images.
        seeds: int64 [B]; the same seed and condition give the same image in any batch, up to floating-point order.
        config: steps, temperatures and guidance.
    """
    tokens = model.config.grid**2
    device = condition.view.device
    noise = seeded_uniform(seeds, config.steps, 2, tokens).to(device)
    codes = torch.full((len(seeds), tokens), model.mask_code, device=device)
    for step in range(config.steps):
        hole = codes == model.mask_code
        probability = (guided_logits(model, codes, condition, config) / config.temperature).softmax(dim=-1)
        # Inverse transform sampling: one uniform number a token, whatever the codebook's size.
        drawn = (probability.cumsum(dim=-1) < noise[:, step, 0, :, None]).sum(dim=-1)
        drawn = drawn.clamp(max=model.config.codes - 1)
        certainty = probability.gather(-1, drawn[..., None])[..., 0].clamp(min=1e-9).log()
        gumbel = -(-noise[:, step, 1].clamp(1e-9, 1 - 1e-7).log()).log()
        progress = (step + 1) / config.steps
        certainty = certainty + config.choice_temperature * (1 - progress) * gumbel
        # At least one a step: the cosine alone would leave the first of many steps without any.
        scheduled = math.ceil(math.cos(math.pi / 2 * progress) * tokens)
        remaining = max(0, min(scheduled, tokens - step - 1)) if step + 1 < config.steps else 0
        # Holes compete; what is filled stays (certainty infinite).
        rank = certainty.masked_fill(~hole, torch.inf).argsort(dim=1).argsort(dim=1)
        codes = torch.where(hole & (rank >= remaining), drawn, codes)
    return codes
