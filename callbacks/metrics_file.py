"""`MetricsFile`: every figure of a test with the protocol it was made under, as `<default_root_dir>/metrics.json`.

The file is one flat object: a key a metric with a number (or null, with the reason under `protocol.undefined`), and
`protocol`; callbacks/metrics.schema.json describes it. `python -m callbacks` merges the files of the stages, prints
protocol cards and compares runs.
"""

import hashlib
import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.metrics.ranks import from_all_ranks
from callbacks.metrics_json import SCHEMA, write_json
from callbacks.protocols import HasProtocol

# What reads, resizes and measures images; a callback's protocol names further ones under "packages".
PACKAGES = ("lightning", "numpy", "pillow", "scipy", "torch", "torchmetrics", "torchvision")


@runtime_checkable
class PreparesImages(Protocol):
    """A datamodule that says how pictures were brought to their size.

    Attributes:
        image_protocol: plain data, e.g. size, filter, antialias.
    """

    image_protocol: dict[str, Any]


@runtime_checkable
class SamplesImages(Protocol):
    """A module that says how it draws images."""

    def sampling_protocol(self) -> dict[str, Any]:
        """Plain data, e.g. steps, temperatures, seed."""


class MetricsFile(Callback):
    """Writes the file at the end of `test`, on rank 0, under a temporary name first, and prints what it wrote.

    Args:
        filename: inside of `trainer.default_root_dir`.
    """

    def __init__(self, *, filename: str = "metrics.json") -> None:
        self.filename = filename
        self._ids: list[str] = []
        self._image_size: list[int] | None = None
        self._counts: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._ids, self._image_size = [], None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember which images were tested, and their size."""
        if not isinstance(batch, Mapping):
            return
        self._ids.extend(str(name) for name in batch.get("image_id", batch.get("study_id", [])))
        image = batch.get("image")
        if isinstance(image, Tensor):
            self._image_size = list(image.shape[-2:])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count over all ranks; all take part."""
        ids = [name for part in from_all_ranks(self._ids) for name in part]
        digest = hashlib.sha256("\n".join(sorted(set(ids))).encode()).hexdigest() if ids else None
        self._counts = {"n": len(set(ids)) or None, "repeated": len(ids) - len(set(ids)), "ids_digest": digest}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        logged = dict(trainer.callback_metrics)  # on all ranks: reading it may reduce
        if not trainer.is_global_zero:
            return
        contributions, undefined, packages = contributed(trainer)
        metrics: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        for key, tensor in sorted(logged.items()):
            value = float(tensor)
            metrics[key] = value if math.isfinite(value) else None
            if metrics[key] is None:
                reasons[key] = undefined.get(key, f"{value} was logged")
        protocol = self._protocol(trainer, pl_module, packages)
        document = {**metrics, "protocol": {**protocol, "metrics": contributions, "undefined": reasons}}
        path = Path(trainer.default_root_dir) / self.filename
        write_json(path, document)
        print(f"{path}: {len(metrics)} figures of {self._counts['n']} test images")
        for key, number in metrics.items():
            print(f"  {key:<44} " + (f"{number:.6g}" if number is not None else f"null ({reasons[key]})"))

    def _protocol(self, trainer: Trainer, module: LightningModule, packages: set[str]) -> dict[str, Any]:
        data = getattr(trainer, "datamodule", None)
        manifest = getattr(data, "manifest", None)
        seed = os.environ.get("PL_GLOBAL_SEED")
        return {
            "schema": SCHEMA,
            "stage": type(module).__name__,
            "data_digest": manifest.digest() if manifest is not None else None,
            "layout": manifest.source if manifest is not None else None,
            "layout_options": getattr(data, "layout_options", None),  # they decide the splits
            "split": "test",
            **self._counts,
            "limit_test_batches": trainer.limit_test_batches,
            "label_policy": getattr(data, "policy", None),
            "image_size": self._image_size,
            "images": data.image_protocol if isinstance(data, PreparesImages) else None,
            "sampling": module.sampling_protocol() if isinstance(module, SamplesImages) else None,
            "seed": int(seed) if seed else None,
            "checkpoint": describe_checkpoint(trainer.ckpt_path),
            "precision": str(trainer.precision),
            "world_size": trainer.world_size,
            "device": module.device.type,
            # What is imported, with its build, which the distribution's version may not name.
            "versions": {name: version(name) for name in sorted(packages)}
            | {"python": platform.python_version(), "torch": str(torch.__version__)},
        }


def version(package: str) -> str | None:
    """The installed version of a distribution; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def contributed(trainer: Trainer) -> tuple[dict[str, Any], dict[str, str], set[str]]:
    """What the other callbacks say of their metrics, why some are undefined, and the packages they were made with.

    Raises:
        ValueError: two callbacks describe the same metric, so one has overwritten the other's figures.
    """
    described: dict[str, Any] = {}
    undefined: dict[str, str] = {}
    packages = set(PACKAGES)
    for callback in getattr(trainer, "callbacks", []):
        if not isinstance(callback, HasProtocol):
            continue
        for name, part in callback.protocol().items():
            if name in described:
                raise ValueError(
                    f"two callbacks measure {name}; give one of the {type(callback).__name__} another prefix or name"
                )
            described[name] = {key: value for key, value in part.items() if key not in ("undefined", "packages")}
            undefined |= part.get("undefined", {})
            packages |= set(part.get("packages", ()))
    return described, undefined, packages


def describe_checkpoint(path: str | Path | None) -> dict[str, Any] | None:
    """Name and sha256 of a checkpoint file; None where the weights came from no checkpoint."""
    if path is None:
        return None
    path = Path(path)
    if not path.is_file():
        return {"name": path.name, "sha256": None, "reason": "not a single file"}
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
