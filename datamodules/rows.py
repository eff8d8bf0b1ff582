"""The columns of a manifest that batches need, as one memory-mapped Arrow file that all worker processes share.

Python strings in a Dataset are copied into every worker, since counting references writes to their pages: reports of
400,000 studies then cost hundreds of megabytes a worker. A mapped file costs each worker what it looks at.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.files import replacing
from datamodules.manifest import Manifest
from datamodules.reports.labels import FINDINGS, VIEWS

TEXTS = ("study_id", "image_id", "patient_id", "report", "image", "boxes")


class RowTable:
    """Rows of a manifest, read a batch at a time.

    Args:
        path: what `write_rows` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._table: pa.Table | None = None
        self._labels: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Each process maps the file for itself.
        return {"path": self.path, "_table": None, "_labels": None}

    @property
    def table(self) -> pa.Table:
        """The file, mapped when it is first asked for."""
        if self._table is None:
            self._table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        return self._table

    def __len__(self) -> int:
        return self.table.num_rows

    def texts(self, column: str, rows: np.ndarray) -> list[str]:
        """One of TEXTS of some rows (int64 [n]), in their order."""
        return self.table.column(column).take(pa.array(rows)).to_pylist()

    def labels(self) -> np.ndarray:
        """Float32 [N,14] of 1, 0, -1, NaN, read-only."""
        if self._labels is None:
            flat = self.table.column("labels").chunk(0).flatten()
            self._labels = flat.to_numpy(zero_copy_only=True).reshape(-1, len(FINDINGS))
        return self._labels

    def views(self, rows: np.ndarray) -> np.ndarray:
        """Int64 [n], index into VIEWS."""
        return self.table.column("view").chunk(0).to_numpy(zero_copy_only=True)[rows].astype(np.int64)


def write_rows(manifest: Manifest, path: str | Path) -> RowTable:
    """Write the columns of all rows, in order, under a temporary name first; a file that is there is used again.

    Args:
        manifest: at least one row.
        path: named by the manifest's digest, so that equal names mean equal rows.
    """
    path = Path(path)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = manifest.frame
        labels = pa.FixedSizeListArray.from_arrays(pa.array(manifest.labels().reshape(-1)), len(FINDINGS))
        views = frame["view"].map({view: i for i, view in enumerate(VIEWS)}).to_numpy(dtype=np.int8)
        columns: dict[str, Any] = {name: pa.Array.from_pandas(frame[name], type=pa.large_string()) for name in TEXTS}
        table = pa.table(columns | {"labels": labels, "view": pa.array(views)})
        # One batch: a row is found by arithmetic, not by searching chunks.
        with replacing(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table.combine_chunks(), max_chunksize=len(frame))
    return RowTable(path)
