"""`FeatureCache`: features of real images on disk, so that a second test of the same data asks no extractor for them.

A file holds the features of one extractor, at one size, of one kind of real images. Its name is a digest of all that
they depend on, so a file is right or is not found.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from callbacks.metrics.bank import Rows, id_hash

SCHEMA = 1


class FeatureCache:
    """Features by image.

    Args:
        folder: where the files lie.
        depends: all that the features depend on but the image's id, as JSON holds it.
    """

    def __init__(self, folder: Path, depends: Mapping[str, Any]) -> None:
        text = json.dumps({"schema": SCHEMA, "torch": str(torch.__version__), **depends}, sort_keys=True)
        self.path = folder / f"features-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        self.depends = text
        self.values, self.keys = torch.empty(0, 0), torch.empty(0, dtype=torch.long)
        self.row: dict[int, int] = {}
        if self.path.is_file():
            with safe_open(self.path, framework="pt") as file:
                if (file.metadata() or {}).get("depends") == text:
                    self.values, self.keys = file.get_tensor("values"), file.get_tensor("keys")
            self.row = {key: row for row, key in enumerate(self.keys.tolist())}

    def find(self, ids: Sequence[str]) -> Tensor | None:
        """Float32 [B,D] of these images, None where one of them is not known."""
        rows = [self.row.get(id_hash(name), -1) for name in ids]
        return None if min(rows, default=-1) < 0 else self.values[rows]

    def write(self, rows: Rows) -> None:
        """Keep all rows that are known by now, under a temporary name first. One rank calls it."""
        if all(key in self.row for key in rows.keys.tolist()):
            return
        old = ~torch.isin(self.keys, rows.keys)
        values, keys = rows.values, rows.keys
        if old.any():
            values, keys = torch.cat([self.values[old], values]), torch.cat([self.keys[old], keys])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        save_file({"values": values, "keys": keys}, temporary, metadata={"depends": self.depends})
        temporary.rename(self.path)
