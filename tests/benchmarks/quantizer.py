"""The quantiser's forward against vector-quantize-pytorch's and MONAI's: `python -m tests.benchmarks.quantizer`.

1024 codes of 256 dimensions on latents 8×256×16×16 and 8×256×32×32, in training mode (look up, commitment, moving
average; ours and vector-quantize-pytorch's with the rotation trick) and in eval mode; the same for FSQ and LFQ, which
MONAI has not. glibc is told to keep freed memory for all sides alike, as the Makefile does: page faults would drown the
difference.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_modules.networks.fsq import FSQ
from lightning_modules.networks.lfq import LFQ
from lightning_modules.networks.quantizer import VectorQuantizer
from tests.benchmarks.record import in_tuned_process, interleaved, write

CODES, DIM, LEVELS = 1024, 256, (16, 8, 8)


def sides() -> dict[str, dict[str, Callable[[], nn.Module]]]:
    """Quantiser → whose → how it is made."""
    import vector_quantize_pytorch as library
    from monai.networks.layers.vector_quantizer import EMAQuantizer

    return {
        "ema": {
            "ours": lambda: VectorQuantizer(CODES, dim=DIM, restart_below=0.0),
            "library": lambda: library.VectorQuantize(DIM, CODES, decay=0.97, accept_image_fmap=True),
            "monai": lambda: EMAQuantizer(2, CODES, DIM, decay=0.97),
        },
        "fsq": {
            "ours": lambda: FSQ(LEVELS, dim=DIM),
            "library": lambda: library.FSQ(list(LEVELS), dim=DIM),
        },
        "lfq": {
            "ours": lambda: LFQ(CODES, dim=DIM),
            "library": lambda: library.LFQ(dim=DIM, codebook_size=CODES, commitment_loss_weight=0.25),
        },
    }


def measure(*, rounds: int = 9) -> dict[str, Any]:
    """Median milliseconds of alternating rounds on one thread, and ratios to ours (above 1: ours is faster)."""
    if (figures := in_tuned_process("quantizer", str(rounds))) is not None:
        return figures
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures = {"threads": 1, "rounds": rounds}
    for kind, makers in sides().items():
        for side in (16, 32):
            latent = torch.randn(8, DIM, side, side)
            for mode in ("train", "eval"):
                found = {name: ready(make(), latent, training=mode == "train") for name, make in makers.items()}
                # FSQ and LFQ take a few milliseconds, which needs more rounds.
                seconds = interleaved(found, rounds=rounds if kind == "ema" else 5 * rounds, cpu=True)
                key = f"{kind}_{side}_{mode}"
                figures |= {f"{key}_{name}_ms": 1000 * value for name, value in seconds.items()}
                figures |= {f"{key}_ratio_{n}": v / seconds["ours"] for n, v in seconds.items() if n != "ours"}
    return write("quantizer", figures)


def ready(quantizer: nn.Module, latent: torch.Tensor, *, training: bool) -> Callable[[], Any]:
    """What is timed: a forward pass of a quantiser that has begun and has run once."""
    if isinstance(quantizer, VectorQuantizer):
        quantizer.initialised.fill_(True)
    quantizer.train(training)
    given = latent.clone().requires_grad_(training)

    def forward() -> Any:
        with torch.set_grad_enabled(training):
            return quantizer(given)

    forward()
    return forward


if __name__ == "__main__":
    measure(rounds=int(sys.argv[1]) if len(sys.argv) > 1 else 9)
