"""The only file that opens weights: a former stage's checkpoint with its kind, configuration and digest, others' files.

Every LightningModule here stamps its checkpoints with its stage's name (`stamp`), keeps its architecture as plain data
in `hyper_parameters`, and may add texts (a tokenizer). A later stage reads them with `open_stage` and copies what it
needs into itself, so that its own checkpoint works when the former file is gone.
"""

import dataclasses
import hashlib
import pickle
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

SCHEMA = 1
KEY = "cxr_synth"
Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class StageCheckpoint:
    """What a later stage may know of a former one.

    Attributes:
        path: the file.
        stage: "prompter", "codebook", "aligner", "generator" or "classifier".
        digest: sha256 of the file.
        config: the module's architecture as plain data (its `hyper_parameters`).
        extra: texts the module added, e.g. {"tokenizer": "..."}.
        state_dict: all weights.
    """

    path: str
    stage: str
    digest: str
    config: dict[str, Any]
    extra: dict[str, Any]
    state_dict: dict[str, Tensor]

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """The weights below `prefix` (with its dot), named without it.

        Raises:
            ValueError: if there are none.
        """
        found = {k.removeprefix(prefix): v for k, v in self.state_dict.items() if k.startswith(prefix)}
        if not found:
            raise ValueError(f"{self.path}: the {self.stage} checkpoint has no weights below {prefix!r}")
        return found


def file_digest(path: str | Path) -> str:
    """Sha256 of a file's bytes, as hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(checkpoint: dict[str, Any], *, stage: str, **extra: Any) -> None:
    """Mark a checkpoint that is being saved as one of `stage`, with plain extra data."""
    checkpoint[KEY] = {"schema": SCHEMA, "stage": stage, **extra}


def stage_of(checkpoint: Mapping[str, Any], *, path: str | Path = "the checkpoint") -> str:
    """Which stage wrote a loaded checkpoint.

    Raises:
        ValueError: if it is no checkpoint of this project or of another schema.
    """
    mark = checkpoint.get(KEY)
    if not isinstance(mark, dict) or mark.get("schema") != SCHEMA:
        found = "none" if not isinstance(mark, dict) else f"schema {mark.get('schema')}"
        raise ValueError(
            f"{path} is not a checkpoint of cxr-synth schema {SCHEMA} (stage mark: {found}); give one that "
            "`python main.py fit` of this version wrote"
        )
    return str(mark["stage"])


def check_stage(checkpoint: Mapping[str, Any], *, stage: str, path: str | Path = "the checkpoint") -> None:
    """Refuse a checkpoint of another stage.

    Raises:
        ValueError: naming both stages and the config that makes the right one.
    """
    found = stage_of(checkpoint, path=path)
    if found != stage:
        raise ValueError(
            f"{path} is a checkpoint of the {found} stage, expected the {stage} stage; give a file that "
            f"`python main.py fit -c configs/base.yaml -c configs/{stage}.yaml` wrote"
        )


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU.

    Raises:
        ValueError: if it cannot be read, most often because it is cut off, with what to do.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except PermissionError:
        raise
    # What a damaged file raises depends on where it is cut.
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        size = Path(path).stat().st_size
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} ({size:,} bytes) cannot be read as a checkpoint ({reason}); it is cut off, damaged or none: copy "
            "it again, take another one of the same folder, or train again with `python main.py fit`"
        ) from error


def open_stage(path: str | Path, *, stage: str) -> StageCheckpoint:
    """Read the checkpoint of a former stage.

    Raises:
        FileNotFoundError: if the file is missing, with the command that makes it.
        ValueError: if it is of another stage.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the {stage} checkpoint {path} does not exist; train that stage first: "
            f"`python main.py fit -c configs/base.yaml -c configs/{stage}.yaml`, or give another path"
        )
    checkpoint = load_checkpoint(path)
    check_stage(checkpoint, stage=stage, path=path)
    extra = {k: v for k, v in checkpoint[KEY].items() if k not in ("schema", "stage")}
    return StageCheckpoint(
        str(path), stage, file_digest(path), dict(checkpoint["hyper_parameters"]), extra, checkpoint["state_dict"]
    )


def open_weights(path: str | Path, *, what: str, fetch: str) -> tuple[dict[str, Tensor], str]:
    """Read a state dict that others published (a `.pth` of tensors), and the sha256 of its file.

    Args:
        path: the file.
        what: what it holds, for messages.
        fetch: which file to fetch from where, for messages.

    Raises:
        FileNotFoundError: if it is missing, with what to fetch and where to put it.
        ValueError: if it holds something else than tensors by name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{what}: {path} does not exist; fetch {fetch} on a machine with a network and put it there, or give "
            "another path"
        )
    # Published files were written on a GPU.
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{what}: {path} does not hold tensors by name; expected {fetch}")
    return dict(state), file_digest(path)


def as_config(kind: type[Config], value: Config | Mapping[str, Any]) -> Config:
    """A config dataclass from itself or from the plain data that a checkpoint holds (`dataclasses.asdict`)."""
    return (
        kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})
        if isinstance(value, Mapping)
        else value
    )


def drawn_apart() -> AbstractContextManager[None]:
    """Around the making of a network whose weights are loaded: the random numbers of its first ones are given back.

    Else a training would begin with other weights where a callback that only measures has such a network.
    """
    return torch.random.fork_rng(devices=[])


class Frozen(nn.Module):
    """A part that is never trained: no gradients, always in eval mode, whatever `train()` is called on its owner."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode."""
        return super().train(False)
