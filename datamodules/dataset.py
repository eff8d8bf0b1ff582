"""CXRDataset: the rows of one split, gathered a batch at a time from mapped texts, images and cached tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.images import read_image, read_masks
from datamodules.manifest import Batch
from datamodules.reports.labels import UncertainPolicy, resolve_uncertain
from datamodules.rows import RowTable
from datamodules.shards import ShardStore, ids_digest
from datamodules.tokens import TokenCache


class CXRDataset(Dataset):
    """One split as whole batches: `dataset[[3, 1]]` is the Batch of these two rows.

    Args:
        table: the rows of the whole manifest.
        rows: int64 [N], which of them this split has.
        policy: what becomes of uncertain labels.
        store: the images; None serves none, "files" decodes each picture whenever it is asked for.
        store_rows: int64 [number of rows of `table`], the store's row of each.
        size: side of the images in pixels.
        codes: cache of image codes.
        clues: cache of clues.
        masks: add the mask of each finding.
    """

    def __init__(
        self,
        table: RowTable,
        rows: np.ndarray,
        *,
        policy: UncertainPolicy,
        store: "ShardStore | str | None",
        store_rows: np.ndarray,
        size: int,
        codes: TokenCache | None,
        clues: TokenCache | None,
        masks: bool,
    ) -> None:
        self.table, self.rows, self.policy = table, rows, policy
        self.store, self.store_rows, self.size = store, store_rows, size
        self.masks = masks
        ids = table.texts("image_id", rows) if codes is not None or clues is not None else []
        self.codes = None if codes is None else codes.values[codes.rows(ids)]
        self.clues = None if clues is None else clues.values[clues.rows(ids)]

    def __len__(self) -> int:
        return len(self.rows)

    def identity(self) -> str:
        """Sha256 of the image ids of the rows, in order."""
        return ids_digest(self.table.texts("image_id", self.rows))

    def labels(self) -> np.ndarray:
        """Float32 [N,14] of 1, 0, NaN after the policy."""
        return resolve_uncertain(self.table.labels()[self.rows], policy=self.policy)

    def image(self, index: np.ndarray) -> torch.Tensor:
        """Float32 [B,1,H,W] in [-1,1] of these rows of the split."""
        rows = self.rows[index]
        if isinstance(self.store, ShardStore):
            pixels = self.store.gather(self.store_rows[rows])
        else:
            pixels = np.stack([read_image(reference, size=self.size) for reference in self.table.texts("image", rows)])
        return torch.from_numpy(pixels).unsqueeze(1).float().div_(127.5).sub_(1.0)

    def __getitem__(self, chosen: Sequence[int]) -> Batch:
        index = np.asarray(chosen, dtype=np.int64)
        rows = self.rows[index]
        labels = resolve_uncertain(self.table.labels()[rows], policy=self.policy)
        batch: dict[str, Any] = {
            "report": self.table.texts("report", rows),
            "labels": torch.from_numpy(labels),
            "view": torch.from_numpy(self.table.views(rows)),
            **{name: self.table.texts(name, rows) for name in ("study_id", "image_id", "patient_id")},
        }
        if self.store is not None:
            batch["image"] = self.image(index)
        if self.codes is not None:
            batch["codes"] = torch.from_numpy(self.codes[index].astype(np.int64))
        if self.clues is not None:
            batch["clues"] = torch.from_numpy(self.clues[index].astype(np.int64))
        if self.masks:
            shapes = self.store.shapes if isinstance(self.store, ShardStore) else {}
            where = zip(
                self.table.texts("image", rows),
                self.table.texts("boxes", rows),
                self.store_rows[rows].tolist(),
                strict=True,
            )
            masks = [
                read_masks(image, boxes=boxes, size=self.size, shape=shapes.get(row)) for image, boxes, row in where
            ]
            batch["masks"] = torch.from_numpy(np.stack(masks))
        return batch  # type: ignore[return-value]
