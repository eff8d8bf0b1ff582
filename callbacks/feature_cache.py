"""`FeatureCache`: features of real images on disk, so that a second test of the same data asks no extractor for them.

A file holds the features of one extractor, of images of one size, by the images' pixels: whatever replaces a picture,
draws other training images or rounds them gives other pixels, which are not found.
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

SCHEMA = 2


def pixel_keys(images: Tensor) -> list[int]:
    """A number for the pixels of each of float32 [B,1,H,W], equal where all are equal."""
    rows = images.detach().cpu().float().contiguous().flatten(1).numpy()
    return [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:8], "big", signed=True) for row in rows]


class FeatureCache:
    """Features by pixels.

    Args:
        folder: where the files lie.
        depends: all that the features depend on but the pixels, as JSON holds it.
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

    def find(self, keys: Sequence[int]) -> Tensor | None:
        """Float32 [B,D] of images with these `pixel_keys`, None where one of them is not known."""
        rows = [self.row.get(key, -1) for key in keys]
        return None if min(rows, default=-1) < 0 else self.values[rows]

    def write(self, values: Tensor, keys: Sequence[int]) -> None:
        """Keep float32 [N,D] of images with these `pixel_keys` beside what is known. One rank calls it."""
        new = {key: row for row, key in enumerate(keys) if key not in self.row}
        if not new:
            return
        added, names = values[list(new.values())], torch.tensor(list(new))
        if len(self.row):
            added, names = torch.cat([self.values, added]), torch.cat([self.keys, names])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        save_file({"values": added, "keys": names}, temporary, metadata={"depends": self.depends})
        temporary.rename(self.path)
