"""Which rows of a manifest are served, in the ledger why the others are not, and which rows a split has."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from datamodules.manifest import Manifest, Remark
from datamodules.prompts import FLAGGED, MATCHED, WRITTEN, flagged_studies
from datamodules.reports.labels import SPLITS


def select(
    source: Manifest,
    *,
    views: Sequence[str] | None = None,
    text_only: bool = False,
    prompts_verified: bool = False,
) -> tuple[Manifest, np.ndarray]:
    """The rows that can be served.

    Args:
        source: everything that was read.
        views: keep these only; None keeps all.
        text_only: one row a study, with a report; else every row with an image.
        prompts_verified: without the studies whose text the prompter flagged.

    Returns:
        The manifest of the kept rows, numbered from 0, and int64 [N], their rows in `source`.

    Raises:
        ValueError: when no row is left, with the reasons, what there is, and the option that serves it.
    """
    frame, drops, notes = source.frame, list(source.drops), source.notes

    def keep(rows: pd.Series, reason: str) -> None:
        nonlocal frame
        if not rows.all():
            drops.append(Remark(reason, tuple(frame.loc[~rows, "image_id"])))
            frame = frame[rows]

    if views is not None:
        keep(frame["view"].isin(views), f"view is not one of {list(views)}")
    if prompts_verified:
        keep(~frame["study_id"].isin(flagged_studies(source)), FLAGGED)
        notes = tuple(note for note in notes if note.reason != FLAGGED)
    if text_only:
        keep(frame["report"] != "", "no report")
        keep(~frame["study_id"].duplicated(), "another image of a study that is served as text")
    else:
        keep(frame["image"] != "", "no image")
    if frame.empty:
        left_out = "; ".join(f"{drop.count} × {drop.reason}" for drop in drops)
        mend = _mend(source.frame, views=views, text_only=text_only)
        if prompts_verified and any(drop.reason == FLAGGED for drop in drops):
            mend = "--data.init_args.prompts_verified=false serves the flagged texts too"
        raise ValueError(f"layout {source.source}: none of {len(source)} rows is left: {left_out}; {mend}")
    kept = frame.index.to_numpy(dtype=np.int64)
    return dataclasses.replace(source, frame=frame.reset_index(drop=True), drops=tuple(drops), notes=notes), kept


def _mend(frame: pd.DataFrame, *, views: Sequence[str] | None, text_only: bool) -> str:
    """What there is instead of what was asked for, and the option that would serve it."""
    with_image, with_report = frame["image"] != "", frame["report"] != ""
    servable = frame[with_report if text_only else with_image]
    counts = f"there are {int(with_image.sum())} rows with an image and {int(with_report.sum())} with a report"
    if not len(servable):
        other, there = ("false", with_image) if text_only else ("true", with_report)
        option = f"--data.init_args.text_only={other}" if there.any() else "name a data set that has one of them"
        return f"text_only is {str(text_only).lower()} and {counts}: {option}"
    there_are = ", ".join(f"{view} {count}" for view, count in servable["view"].value_counts().items())
    return (
        f"views {list(views or ())} were asked for and there are {there_are}: --data.init_args.views=null takes all "
        "(prepare: leave --views out)"
    )


def split_rows(manifest: Manifest, splits: Sequence[str], *, limit: int | None = None, seed: int = 0) -> np.ndarray:
    """Int64 [N]: the rows that are in these splits, in order.

    Args:
        manifest: what is served.
        splits: names of splits.
        limit: at most so many, drawn by seed so that a smaller limit takes a subset of a larger one; None takes all.
        seed: of that draw.

    Raises:
        ValueError: when there is none, with what the splits hold.
    """
    column = manifest.frame["split"]
    chosen = np.flatnonzero(column.isin(splits).to_numpy())
    if limit is not None:
        chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:limit])
    if not len(chosen):
        counts = {split: int((column == split).sum()) for split in SPLITS}
        raise ValueError(f"layout {manifest.source}: no rows in {' or '.join(splits)}; the splits hold {counts}")
    return chosen


def summary(manifest: Manifest, *, size: int, digest: str, limit: int | None) -> str:
    """What is said of a data set when a run begins: its splits, what was left out, what is wrong in it.

    Args:
        manifest: what is served.
        size: side of the images in pixels.
        digest: the manifest's.
        limit: most rows of train, None for all.
    """
    split = manifest.frame["split"]
    counts = {name: int((split == name).sum()) for name in SPLITS}
    shown = {name: str(count) for name, count in counts.items()}
    if limit is not None and limit < counts["train"]:
        shown["train"] = f"{limit} of {counts['train']}"
    dropped = "; ".join(f"{drop.count} × {drop.reason}" for drop in manifest.drops) or "nothing"
    lines = [
        f"data: {manifest.source} {size} px: {', '.join(f'{name} {text}' for name, text in shown.items())}; "
        f"digest {digest[:12]}; dropped: {dropped}"
    ]
    written = manifest.frame.loc[manifest.frame["report_source"].str.startswith(WRITTEN), "study_id"].unique()
    if len(written):
        flagged = len(flagged_studies(manifest).intersection(written))
        mend = ", which are served: --data.init_args.prompts_verified=true leaves them out" if flagged else ""
        lines.append(f"data: {len(written)} studies have a text of the prompter, {flagged} of them flagged{mend}")
    matched = manifest.frame.loc[manifest.frame["report_source"].str.startswith(f"{MATCHED}:"), "study_id"].nunique()
    if matched:
        lines.append(f"data: {matched} studies have the text of another patient with the same labels: weak, not paired")
    lines += [
        f"data: ERROR in {manifest.source}: {note.count} × {note.reason}; {note.mend}"
        for note in manifest.notes
        if note.level == "error"
    ]
    return "\n".join(lines)
