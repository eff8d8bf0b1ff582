"""The typed table, one row an image, that every layout yields and everything downstream reads; and the batch's type.

A `Manifest` is checked when it is made: a leak of a patient between splits, a study of several patients, a repeated
image or an unknown view is an error that names the row. No torch and no Lightning are imported here.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import numpy as np
import pandas as pd

from datamodules.files import replacing
from datamodules.reports.labels import FINDINGS, SPLITS, VIEWS

if TYPE_CHECKING:
    import torch

SCHEMA = 2  # of the files
DIGEST_SCHEMA = 1
TEXT_COLUMNS = ("image", "image_id", "study_id", "patient_id", "view", "split", "report", "report_source", "boxes")
NUMBER_COLUMNS = ("age",)
DIGESTED = (*TEXT_COLUMNS, "sex", *NUMBER_COLUMNS, *FINDINGS)
COLUMNS = (*DIGESTED, "source")
IDS = ("image_id", "study_id", "patient_id")
CONTROL = "[\x00-\x1f\x7f\x85\u2028\u2029]"  # what breaks lists of ids, which are a line each
Level = Literal["note", "warning", "error"]


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
    draw: NotRequired[list[int]]  # of training rows with `balance`: how often this epoch has drawn the row before


@dataclasses.dataclass(frozen=True)
class Box:
    """Where one finding is, in fractions of the image's width (x) and height (y), 0 at the top left."""

    finding: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclasses.dataclass(frozen=True)
class Remark:
    """One line of the ledger: something about rows of the source that a reader did not take as they stand, and which.

    Attributes:
        reason: what it is, the same text for all rows that share it, e.g. "no image file of this name".
        ids: image ids, or what the source calls the thing where it has no image id (a report's or a file's name).
        level: "error" where the source is wrong or incomplete, "warning" where something is lost or doubtful, "note"
            where a rule was applied that a reader of the results should know.
        mend: what the user can do about it; "" where nothing needs doing.
    """

    reason: str
    ids: tuple[str, ...]
    level: Level = "warning"
    mend: str = ""

    @property
    def count(self) -> int:
        """How many rows it is about."""
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
            labels float (NaN = unknown). `source` names the layout of each row.
        source: the layout that it was read with, e.g. "nih"; of joined sets all of them, e.g. "chexpert+nih".
        drops: the ledger of what was left out of the source, by reason.
        notes: the ledger of what was kept but is odd, inferred or unknown, by reason.

    Raises:
        ValueError: naming the first offending row and the mend.
    """

    frame: pd.DataFrame
    source: str
    drops: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()

    def __post_init__(self) -> None:
        frame = self.frame
        missing = [c for c in COLUMNS if c not in frame.columns]
        if missing:
            raise ValueError(f"{self.source}: the manifest lacks the columns {missing}; it has {list(frame.columns)}")
        self._refuse(
            frame["image_id"].duplicated(),
            "image_id",
            "is given twice; remove the repeated row, image ids must be unique",
        )
        for column in IDS:
            mend = "holds a line break, a tab or another control character; mend the id in the source"
            self._refuse(frame[column].astype(str).str.contains(CONTROL, regex=True), column, mend)
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
        # With one patient, who has one split, a study is in one split too.
        pairs = frame[["study_id", "patient_id"]].drop_duplicates()
        shared = pairs.loc[pairs["study_id"].duplicated(), "study_id"].unique()
        if len(shared):
            patients = pairs.loc[pairs["study_id"] == shared[0], "patient_id"].tolist()
            raise ValueError(
                f"{self.source}: study {shared[0]} is of {len(patients)} patients {patients[:3]} "
                f"({len(shared)} studies are of several); mend the patient, or give each study an id of its own, such "
                "as <patient>/<study>"
            )

    def _refuse(self, wrong: pd.Series, column: str, what: str) -> None:
        if wrong.any():
            row = self.frame[wrong].iloc[0]
            image = str(row["image_id"])
            name = image if image.isprintable() else repr(image)
            raise ValueError(
                f"{self.source}: image {name}: {column} = {row[column]!r} {what} ({int(wrong.sum())} rows)"
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
        """Sha256 over all columns of all rows in order: equal digests mean equal data, wherever its folder lies."""
        # Not over the column `source`: of one set it is `self.source`, of joined sets the ids begin with it.
        frame = self.frame[list(DIGESTED)].assign(image=image_names(self.frame["image"]))
        hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy()
        return hashlib.sha256(f"{DIGEST_SCHEMA}:{self.source}:".encode() + hashes.tobytes()).hexdigest()

    def split_digest(self) -> str:
        """Sha256 over which image is in which split, whatever the order of the rows and what else they hold."""
        pairs = sorted(zip(self.frame["image_id"], self.frame["split"], strict=True))
        return hashlib.sha256("".join(f"{image_id}\t{split}\n" for image_id, split in pairs).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write `path` (Parquet) and `path`.ledger.json, each under a temporary name first."""
        path = Path(path)
        # The table comes last: where it is, its ledger is.
        self.save_ledger(path)
        with replacing(path) as temporary:
            self.frame[list(COLUMNS)].to_parquet(temporary, index=False)

    def save_ledger(self, path: str | Path) -> None:
        """Write `path`.ledger.json alone: what was left out and what is odd."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = {"schema": SCHEMA, "source": self.source}
        for name, remarks in (("drops", self.drops), ("notes", self.notes)):
            ledger[name] = [{**dataclasses.asdict(r), "count": r.count, "ids": list(r.ids)} for r in remarks]
        with replacing(ledger_path(path)) as temporary:
            temporary.write_text(json.dumps(ledger, indent=1, ensure_ascii=False))

    @staticmethod
    def load(path: str | Path) -> "Manifest":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: when the table or its ledger is missing.
            ValueError: when it was written by another version.
        """
        path = Path(path)
        for file in (path, ledger_path(path)):
            if not file.is_file():
                raise FileNotFoundError(
                    f"{file} does not exist; write it again: python -m datamodules prepare --root <root> --out <folder>"
                )
        ledger = json.loads(ledger_path(path).read_text())
        if ledger.get("schema") != SCHEMA:
            raise ValueError(
                f"{path}: is a manifest of schema {ledger.get('schema')}, expected {SCHEMA}; remove it, make it again"
            )
        drops, notes = (
            tuple(Remark(r["reason"], tuple(r["ids"]), r["level"], r["mend"]) for r in ledger[name])
            for name in ("drops", "notes")
        )
        return Manifest(pd.read_parquet(path), ledger["source"], drops, notes)


def common_folder(images: pd.Series) -> str:
    """The folder or URL that all of these paths begin with, up to its last "/"; "" where there is none."""
    named = images[images != ""]
    # By characters: `commonpath` takes no URLs.
    prefix = os.path.commonprefix([named.min(), named.max()]) if len(named) else ""  # noqa: RUF071
    return prefix[: prefix.rfind("/") + 1]


def image_names(images: pd.Series) -> pd.Series:
    """The paths without their common folder: what a data set keeps when it is moved."""
    return images.str.removeprefix(common_folder(images))


def ledger_path(path: Path) -> Path:
    """Where the ledger of the manifest at `path` is."""
    return path.with_name(path.name + ".ledger.json")


def make_manifest(
    rows: Sequence[dict] | pd.DataFrame, *, source: str, drops: Sequence[Remark] = (), notes: Sequence[Remark] = ()
) -> Manifest:
    """Build a Manifest from rows that hold at least image, image_id, patient_id and split; the rest gets its default.

    Defaults: study_id = image_id, view = "unknown", report = report_source = boxes = sex = "", age and labels NaN. A
    remark about no row is left out of the ledger.
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
            # Categories and nullable numbers cannot hold "" themselves.
            frame[column] = frame[column].astype(object).where(frame[column].notna(), "").map(str)
    for column in (*NUMBER_COLUMNS, *FINDINGS):
        frame[column] = frame[column].astype(np.float32)
    frame["source"] = source
    drops, notes = (tuple(remark for remark in remarks if remark.ids) for remarks in (drops, notes))
    return Manifest(frame.reset_index(drop=True), source, drops, notes)
