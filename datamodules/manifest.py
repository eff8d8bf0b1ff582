"""The typed table, one row an image, that every layout yields and everything downstream reads; and the batch's type.

A `Manifest` is checked when it is made: a leak of a patient between splits, a repeated image or an unknown view is an
error that names the row. No torch and no Lightning are imported here.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import pandas as pd

from datamodules.files import temporary_beside
from datamodules.reports.labels import FINDINGS, SPLITS, VIEWS

if TYPE_CHECKING:
    import torch

SCHEMA = 1
TEXT_COLUMNS = ("image", "image_id", "study_id", "patient_id", "view", "split", "report", "report_source", "boxes")
NUMBER_COLUMNS = ("age",)
COLUMNS = (*TEXT_COLUMNS, "sex", *NUMBER_COLUMNS, *FINDINGS)


class Batch(TypedDict):
    """What CXRDataModule yields. B images of H × W pixels, h × w codes, K clue tokens."""

    image: "torch.Tensor"  # float32 [B,1,H,W] in [-1,1]
    report: list[str]
    labels: "torch.Tensor"  # float32 [B,14] of 1, 0, NaN = unknown
    view: "torch.Tensor"  # int64 [B], index into VIEWS
    study_id: list[str]
    image_id: list[str]
    patient_id: list[str]
    codes: NotRequired["torch.Tensor"]  # int64 [B,h,w], with a token cache
    clues: NotRequired["torch.Tensor"]  # int64 [B,K,2] of (code, grid position = row * w + column), -1 = padding
    masks: NotRequired["torch.Tensor"]  # bool [B,14,H,W], where each finding is; all False where that is not known


@dataclasses.dataclass(frozen=True)
class Box:
    """Where one finding is, in fractions of the image's width (x) and height (y), 0 at the top left."""

    finding: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclasses.dataclass(frozen=True)
class Drop:
    """One reason why rows of the source are not in the manifest, and which."""

    reason: str
    ids: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many rows were dropped for this reason."""
        return len(self.ids)


def encode_boxes(boxes: Sequence[Box]) -> str:
    """Boxes as the text that the manifest's `boxes` column holds ("" for none)."""
    return json.dumps([dataclasses.astuple(box) for box in boxes]) if boxes else ""


def decode_boxes(text: str) -> list[Box]:
    """The inverse of `encode_boxes`."""
    return [Box(*values) for values in json.loads(text)] if text else []


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The table of a data set.

    Attributes:
        frame: one row an image with the columns `COLUMNS`; text columns are str ("" where empty), `age` and the 14
            labels float (NaN = unknown).
        source: the layout that it was read with, e.g. "nih".
        drops: what was left out of the source, by reason.

    Raises:
        ValueError: naming the first offending row and the mend.
    """

    frame: pd.DataFrame
    source: str
    drops: tuple[Drop, ...] = ()

    def __post_init__(self) -> None:
        frame = self.frame
        missing = [c for c in COLUMNS if c not in frame.columns]
        if missing:
            raise ValueError(f"{self.source}: the manifest lacks the columns {missing}; it has {list(frame.columns)}")
        self._refuse(frame["image_id"].duplicated(), "image_id", "is given twice; image ids must be unique")
        self._refuse(~frame["view"].isin(VIEWS), "view", f"is not a view; expected one of {list(VIEWS)}")
        self._refuse(~frame["split"].isin(SPLITS), "split", f"is not a split; expected one of {list(SPLITS)}")
        for finding in FINDINGS:
            wrong = ~(frame[finding].isna() | frame[finding].isin([1, 0, -1]))
            self._refuse(wrong, finding, "is not a label; expected 1, 0, -1 (uncertain) or empty")
        splits = frame.groupby("patient_id")["split"].nunique()
        leaking = splits[splits > 1]
        if len(leaking):
            patient = leaking.index[0]
            where = sorted(frame.loc[frame["patient_id"] == patient, "split"].unique())
            raise ValueError(
                f"{self.source}: patient {patient} is in several splits {where} ({len(leaking)} patients are); "
                "give each patient one split, in the split file or by leaving the split column out"
            )

    def _refuse(self, wrong: pd.Series, column: str, what: str) -> None:
        if wrong.any():
            row = self.frame[wrong].iloc[0]
            raise ValueError(
                f"{self.source}: image {row['image_id']}: {column} = {row[column]!r} {what} ({int(wrong.sum())} rows)"
            )

    def __len__(self) -> int:
        return len(self.frame)

    def split(self, name: str) -> "Manifest":
        """The rows of one split, in the same order, numbered from 0."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r} does not exist; expected one of {list(SPLITS)}")
        return dataclasses.replace(self, frame=self.frame[self.frame["split"] == name].reset_index(drop=True))

    def labels(self) -> np.ndarray:
        """Float32 [N,14] of 1, 0, -1, NaN."""
        return self.frame[list(FINDINGS)].to_numpy(dtype=np.float32)

    def boxes(self, index: int) -> list[Box]:
        """The boxes of one row."""
        return decode_boxes(str(self.frame["boxes"].iat[index]))

    def digest(self) -> str:
        """Sha256 over all columns of all rows in order: equal digests mean equal data."""
        hashes = pd.util.hash_pandas_object(self.frame[list(COLUMNS)], index=False).to_numpy()
        return hashlib.sha256(f"{SCHEMA}:{self.source}:".encode() + hashes.tobytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write `path` (Parquet) and `path`.drops.json, each under a temporary name first."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        self.frame[list(COLUMNS)].to_parquet(temporary, index=False)
        os.replace(temporary, path)
        drops = [{"reason": d.reason, "count": d.count, "ids": list(d.ids)} for d in self.drops]
        ledger = path.with_name(path.name + ".drops.json")
        temporary = temporary_beside(ledger)
        temporary.write_text(json.dumps({"schema": SCHEMA, "source": self.source, "drops": drops}, indent=1))
        os.replace(temporary, ledger)

    @staticmethod
    def load(path: str | Path) -> "Manifest":
        """Read what `save` wrote."""
        path = Path(path)
        ledger = json.loads(path.with_name(path.name + ".drops.json").read_text())
        drops = tuple(Drop(d["reason"], tuple(d["ids"])) for d in ledger["drops"])
        return Manifest(pd.read_parquet(path), ledger["source"], drops)


def make_manifest(rows: Sequence[dict] | pd.DataFrame, *, source: str, drops: Sequence[Drop] = ()) -> Manifest:
    """Build a Manifest from rows that hold at least image, image_id, patient_id and split; the rest gets its default.

    Defaults: study_id = image_id, view = "unknown", report = report_source = boxes = sex = "", age and labels NaN.
    """
    frame = pd.DataFrame(rows)
    defaults: dict[str, Any] = dict.fromkeys((*NUMBER_COLUMNS, *FINDINGS), np.nan)
    defaults |= {"report": "", "report_source": "", "boxes": "", "sex": "", "view": "unknown"}
    for column, value in defaults.items():
        if column not in frame.columns:
            frame[column] = value
    if "study_id" not in frame.columns and "image_id" in frame.columns:
        frame["study_id"] = frame["image_id"]
    for column in (*TEXT_COLUMNS, "sex"):
        if column in frame.columns:
            frame[column] = frame[column].fillna("").astype(object).map(str)
    for column in (*NUMBER_COLUMNS, *FINDINGS):
        frame[column] = frame[column].astype(np.float32)
    return Manifest(frame.reset_index(drop=True), source, tuple(drops))
