"""`MuonAdamW`: Muon for the matrices inside transformer blocks, AdamW for everything else, as one optimiser.

Muon (https://kellerjordan.github.io/posts/muon/; arXiv 2502.16982) steps along the orthogonalised momentum of a matrix.
On this project's small transformers it reaches the same loss in about half the steps that AdamW needs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from transformers.pytorch_utils import Conv1D

HIDDEN = "hidden"  # the key of a parameter group that says whether it holds hidden matrices
PRETRAINED = "pretrained"  # the key of the group that `slow_down` finds


def parameter_groups(network: nn.Module, *, pretrained: Sequence[nn.Module] = ()) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: hidden matrices, and the rest (embeddings, heads, norms, biases).

    Hidden matrices are the weights of the linear layers inside an `nn.ModuleList`, which is where repeated blocks are.
    Optimisers that know no `hidden` ignore the key. An empty group is left out. The parameters of `pretrained` parts
    make a third group, which is not hidden: Muon's steps are for matrices that begin at random.
    """
    theirs = {id(p): p for part in pretrained for p in part.parameters() if p.requires_grad}
    hidden: dict[int, Tensor] = {}
    for blocks in network.modules():
        if isinstance(blocks, nn.ModuleList):
            layers = (layer for layer in blocks.modules() if isinstance(layer, nn.Linear | Conv1D))
            weights = (layer.weight for layer in layers if layer.weight.requires_grad)
            hidden |= {id(weight): weight for weight in weights if id(weight) not in theirs}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in hidden | theirs]
    groups = [{"params": list(hidden.values()), HIDDEN: True}, {"params": rest, HIDDEN: False}]
    groups.append({"params": list(theirs.values()), HIDDEN: False, PRETRAINED: True})
    return [group for group in groups if group["params"]]


def slow_down(optimizer: Optimizer, *, rate: float) -> Optimizer:
    """Multiply the learning rate of the pretrained parts' group by `rate`."""
    for group in optimizer.param_groups:
        if group.get(PRETRAINED):
            group["lr"] *= rate
    return optimizer


class MuonAdamW(Optimizer):
    """Muon on the groups marked `hidden`, AdamW on the others; `parameter_groups` makes them.

    Args:
        params: parameter groups; without any that is marked, this is AdamW.
        lr: of AdamW.
        hidden_lr: of Muon, its steps scaled to the size of AdamW's (arXiv 2502.16982 eq. 4).
        betas: of AdamW.
        weight_decay: of both, decoupled.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 2e-3,
        hidden_lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
    ) -> None:
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        hidden = [group for group in groups if group.get(HIDDEN)]
        others = [group for group in groups if not group.get(HIDDEN)]
        self.parts: dict[str, Optimizer] = {}
        if hidden:
            self.parts["muon"] = Muon(hidden, lr=hidden_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        if others:
            self.parts["adamw"] = AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay)
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {})
        self._complete = True
        self._share_groups()

    @property  # type: ignore[override]
    def state(self) -> dict[Any, Any]:
        """The parts' states by parameter: the inner dictionaries are the parts' own."""
        return {p: state for part in self.parts.values() for p, state in part.state.items()}

    @state.setter
    def state(self, value: Any) -> None:
        # The base class begins with an empty state; the parts hold theirs.
        pass

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand a further group to the part that it is marked for.

        Raises:
            ValueError: if there is no such part yet.
        """
        if not getattr(self, "_complete", False):
            super().add_param_group(param_group)
            return
        name = "muon" if param_group.get(HIDDEN) else "adamw"
        if name not in self.parts:
            raise ValueError(f"MuonAdamW was made without parameters for {name}, so none can be added")
        self.parts[name].add_param_group(param_group)
        self._share_groups()

    def _share_groups(self) -> None:
        # The very dictionaries of the parts: what a schedule sets here, they use.
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both.

        Raises:
            ValueError: if the state is that of another optimiser.
        """
        if set(state_dict) != set(self.parts):
            raise ValueError(
                f"the checkpoint's optimiser state has {sorted(state_dict)}, MuonAdamW expects {sorted(self.parts)}: "
                "resume with the optimiser that wrote it, or start anew without --ckpt_path"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()
