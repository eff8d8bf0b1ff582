"""LoRA (Hu et al., arXiv 2106.09685) through peft: small trainable matrices beside the frozen ones of a large model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class LoraConfig:
    """Which adapters, and what of the model a checkpoint holds.

    Attributes:
        rank: of each adapter.
        alpha: scale; an adapter's output is multiplied by alpha / rank.
        dropout: before the adapter.
        target_modules: names of the layers that get one; all linear layers but the output by default.
        keep_base: whether the checkpoint also holds the frozen weights, so that it needs no other file. False keeps
            adapters only, a hundredth of the size: then the base model must be found again under the same name with the
            same weights, which is checked by their digest.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    keep_base: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora.rank {self.rank} must be at least 1, alpha {self.alpha} above 0, "
                f"dropout {self.dropout} in [0, 1)"
            )


def add_adapters(model: nn.Module, config: LoraConfig) -> nn.Module:
    """The model with adapters, the rest of it frozen; it writes what it wrote before until it is trained.

    Raises:
        ImportError: with the command that installs peft.
        ValueError: if no layer has one of the names.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"model.init_args.lora needs peft: pip install 'cxr-synth[lora]', or leave lora out ({error})"
        ) from error
    wanted = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules) or "all-linear",
        # GPT-2 keeps its matrices transposed.
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),
    )
    try:
        return peft.get_peft_model(model, wanted)
    except ValueError as error:
        linear = sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if hasattr(part, "weight")})
        raise ValueError(
            f"lora.target_modules {list(config.target_modules)}: {error}; this model has layers named {linear}"
        ) from error


def is_adapter(name: str) -> bool:
    """Whether a weight of that name belongs to an adapter."""
    return ".lora_" in name


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Sha256 of the names and values of all weights, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        values = state[name].detach().cpu().contiguous().flatten()
        if len(values):  # torch views no empty tensor as bytes
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_digest(state: Mapping[str, Tensor]) -> str:
    """The digest of those that belong to no adapter."""
    return weights_digest({name: value for name, value in state.items() if not is_adapter(name)})


def without_base(state: Mapping[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
    """A module's weights without those below `prefix` that belong to no adapter."""
    return {name: value for name, value in state.items() if not name.startswith(prefix) or is_adapter(name)}


def check_base(model: nn.Module, *, name: str, digest: str) -> None:
    """Refuse a base model whose weights are not those that the adapters were trained on.

    Raises:
        ValueError: naming both digests.
    """
    found = base_digest(model.state_dict())
    if found != digest:
        raise ValueError(
            f"language_model {name!r} has other weights (digest {found[:12]}) than the adapters were trained on "
            f"({digest[:12]}); give --model.init_args.language_model the folder or id of those"
        )


def describe(model: nn.Module) -> dict[str, Any]:
    """Counts for a log line."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trainable": trained, "all": sum(p.numel() for p in model.parameters())}
