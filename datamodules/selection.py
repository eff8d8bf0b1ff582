"""Which rows of a manifest are served, and in the ledger why the others are not."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, Remark


def select(
    source: Manifest, *, views: Sequence[str] | None = None, text_only: bool = False
) -> tuple[Manifest, np.ndarray]:
    """The rows that can be served.

    Args:
        source: everything that was read.
        views: keep these only; None keeps all.
        text_only: one row a study, with a report; else every row with an image.

    Returns:
        The manifest of the kept rows, numbered from 0, and int64 [N], their rows in `source`.

    Raises:
        ValueError: when no row is left, with the reasons.
    """
    frame, drops = source.frame, list(source.drops)

    def keep(rows: pd.Series, reason: str) -> None:
        nonlocal frame
        if not rows.all():
            drops.append(Remark(reason, tuple(frame.loc[~rows, "image_id"])))
            frame = frame[rows]

    if views is not None:
        keep(frame["view"].isin(views), f"view is not one of {list(views)}")
    if text_only:
        keep(frame["report"] != "", "no report")
        keep(~frame["study_id"].duplicated(), "another image of a study that is served as text")
    else:
        keep(frame["image"] != "", "no image")
    if frame.empty:
        raise ValueError(
            f"layout {source.source}: none of {len(source)} rows is left: "
            + "; ".join(f"{drop.count} × {drop.reason}" for drop in drops)
            + ("" if text_only else "; set data.init_args.text_only=true for a data set without images")
        )
    kept = frame.index.to_numpy(dtype=np.int64)
    return dataclasses.replace(source, frame=frame.reset_index(drop=True), drops=tuple(drops)), kept
