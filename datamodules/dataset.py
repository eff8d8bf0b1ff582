"""CXRDataset: the rows of one split, gathered a batch at a time from memory-mapped images and cached tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.manifest import Batch, Manifest
from datamodules.reports.labels import VIEWS, UncertainPolicy, resolve_uncertain
from datamodules.images import read_masks
from datamodules.shards import open_store
from datamodules.tokens import TokenCache


class CXRDataset(Dataset):
    """One split as whole batches: `dataset.__getitems__([3, 1])` is the Batch of these two rows.

    Args:
        manifest: the rows.
        policy: what becomes of uncertain labels.
        store: path of the array of images, the number of its rows, and the side in pixels; None serves no images.
        store_rows: int64 [N], the store's row of each manifest row.
        codes: cache of image codes.
        clues: cache of clues.
        masks: add the mask of each finding, at this size; None adds none.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        policy: UncertainPolicy,
        store: tuple[Path, int, int] | None,
        store_rows: np.ndarray,
        codes: TokenCache | None,
        clues: TokenCache | None,
        masks: int | None,
    ) -> None:
        frame = manifest.frame
        self.ids = {name: frame[name].tolist() for name in ("study_id", "image_id", "patient_id")}
        self.reports: list[str] = frame["report"].tolist()
        self.images: list[str] = frame["image"].tolist()
        self.boxes: list[str] = frame["boxes"].tolist()
        self.labels = resolve_uncertain(manifest.labels(), policy=policy)
        self.views = frame["view"].map({view: i for i, view in enumerate(VIEWS)}).to_numpy(dtype=np.int64)
        self.store, self.store_rows = store, store_rows
        self.masks = masks
        self.codes = None if codes is None else codes.values[codes.rows(self.ids["image_id"])]
        self.clues = None if clues is None else clues.values[clues.rows(self.ids["image_id"])]
        self._pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.reports)

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map would copy the whole store into each spawned worker.
        return self.__dict__ | {"_pixels": None}

    def image(self, rows: np.ndarray) -> torch.Tensor:
        """Float32 [B,1,H,W] in [-1,1] of these rows."""
        if self._pixels is None:
            assert self.store is not None
            path, count, size = self.store
            self._pixels = open_store(path, count=count, size=size)
        pixels = self._pixels[self.store_rows[rows]]
        return torch.from_numpy(pixels).unsqueeze(1).float().div_(127.5).sub_(1.0)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        index = np.asarray(rows, dtype=np.int64)
        batch: dict[str, Any] = {
            "report": [self.reports[i] for i in rows],
            "labels": torch.from_numpy(self.labels[index]),
            "view": torch.from_numpy(self.views[index]),
            **{name: [values[i] for i in rows] for name, values in self.ids.items()},
        }
        if self.store is not None:
            batch["image"] = self.image(index)
        if self.codes is not None:
            batch["codes"] = torch.from_numpy(self.codes[index].astype(np.int64))
        if self.clues is not None:
            batch["clues"] = torch.from_numpy(self.clues[index].astype(np.int64))
        if self.masks is not None:
            size = self.masks
            batch["masks"] = torch.from_numpy(
                np.stack([read_masks(self.images[i], boxes=self.boxes[i], size=size) for i in rows])
            )
        return batch  # type: ignore[return-value]

    def __getitem__(self, row: int) -> Batch:
        return self.__getitems__([row])
