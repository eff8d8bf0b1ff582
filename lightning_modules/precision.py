"""In which precision to train where the config leaves it open."""

import torch


def fastest_precision(accelerator: str) -> str:
    """bf16-mixed where the device has bf16 arithmetic, else 32-true.

    Without it PyTorch emulates: on a CPU without AVX-512 a product of bf16 matrices takes a hundred times as long as
    one of float32.

    Args:
        accelerator: the Trainer's: "auto", "cpu", "gpu", "cuda", "mps", ...
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"
