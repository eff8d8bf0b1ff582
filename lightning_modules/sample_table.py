"""What stands beside written samples: samples.csv, and samples.json, which says what they were made by."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Trainer

from lightning_modules.stages import file_digest

SCHEMA = 1  # of samples.json
TABLE, ORIGIN = "samples.csv", "samples.json"


def forget_origin(folder: Path) -> None:
    """Remove samples.json before a picture is replaced: an interrupted run may leave pictures of two generators."""
    (folder / ORIGIN).unlink(missing_ok=True)


def write_table(
    rows: Sequence[Mapping[str, Any]], folder: Path, *, trainer: Trainer, sampling: Mapping[str, Any]
) -> None:
    """Write samples.csv, then samples.json; each under a temporary name first.

    samples.json names its facts as the protocol of metrics.json does: `checkpoint` (name and sha256 of the file that
    the weights were read from, null where they came from none), `sampling`, `data_digest`, `layout`, `precision`,
    `seed` of the process, `n` images; and `table_sha256` of the samples.csv that it belongs to.

    Args:
        rows: of the table, in its order.
        folder: where the pictures are.
        trainer: that ran `predict`.
        sampling: how the pictures were drawn, plain data.
    """
    table = folder / TABLE
    _replace(table, lambda temporary: pd.DataFrame(rows).to_csv(temporary, index=False))
    checkpoint, seed = trainer.ckpt_path, os.environ.get("PL_GLOBAL_SEED")
    manifest = getattr(getattr(trainer, "datamodule", None), "manifest", None)
    origin = {
        "schema": SCHEMA,
        "checkpoint": {"name": Path(checkpoint).name, "sha256": _digest(Path(checkpoint))} if checkpoint else None,
        "sampling": dict(sampling),
        "data_digest": manifest.digest() if manifest is not None else None,
        "layout": manifest.source if manifest is not None else None,
        "precision": str(trainer.precision),
        "seed": int(seed) if seed else None,
        "n": len(rows),
        "table_sha256": file_digest(table),
    }
    text = json.dumps(origin, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    _replace(folder / ORIGIN, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _digest(checkpoint: Path) -> str | None:
    # A sharded checkpoint is a folder.
    return file_digest(checkpoint) if checkpoint.is_file() else None


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    os.replace(temporary, path)
