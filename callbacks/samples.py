"""The synthetic radiographs that a generator's `predict` wrote: their table, and where each prompt came from.

The table is samples.csv in the `table` layout: `image` (a greyscale picture beside it), `source_image_id` (of the row
whose report was the prompt), and the 14 findings as 1, 0 or empty. samples.json beside it says what made them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from callbacks.extraction import check_images
from callbacks.metrics.labelled import ImageBank, LabelledImages
from datamodules.reports.labels import FINDINGS

COLUMNS = ("image", "source_image_id", *FINDINGS)
ORIGIN_SCHEMA = 1  # of samples.json
CHUNK = 256  # pictures that are float at a time
PREDICT = (
    "python main.py predict -c configs/base.yaml -c configs/generator.yaml --data.init_args.predict_splits=[train]"
)


class Samples(NamedTuple):
    """Of N synthetic images, before their pictures are read."""

    path: Path  # of the table
    digest: str  # sha256 of the table
    pictures: list[str]  # names, relative to the table's folder
    sources: list[str]  # image ids whose reports were the prompts
    labels: np.ndarray  # float32 [N,14] of 1, 0, NaN
    origin: dict[str, Any] | None = None  # of samples.json; None where there is none

    @property
    def made_by(self) -> str | None:
        """Sha256 of the generator's checkpoint; None where it is not known."""
        return ((self.origin or {}).get("checkpoint") or {}).get("sha256")


def read_samples(path: str | Path) -> Samples:
    """Read the table.

    Raises:
        FileNotFoundError: when it is not there, with the command that writes it.
        ValueError: naming a column that it lacks, or the row whose label is none; for a samples.json of another
            schema or another table.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `{PREDICT} --ckpt_path=...` writes it")
    table = pd.read_csv(path, dtype={"image": str, "source_image_id": str}, keep_default_na=False)
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing or table.empty:
        raise ValueError(
            f"{path}: {len(table)} rows, without the columns {missing}; expected what `predict` of a generator writes"
        )
    labels = table[list(FINDINGS)].astype(str).replace("", "nan").apply(pd.to_numeric, errors="coerce")
    written = table[list(FINDINGS)].astype(str)
    wrong = ~(labels.isin([0, 1]) | (labels.isna() & written.isin(["", "nan"])))
    if wrong.to_numpy().any():
        row, column = np.argwhere(wrong.to_numpy())[0]
        raise ValueError(
            f"{path}: row {row + 2}: {FINDINGS[column]} is {written.iat[row, column]!r}; expected 1, 0 or empty"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Samples(
        path,
        digest,
        table["image"].tolist(),
        table["source_image_id"].tolist(),
        labels.to_numpy(dtype=np.float32, copy=True),
        _read_origin(path.with_name("samples.json"), table=digest),
    )


def _read_origin(path: Path, *, table: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    again = f"let `{PREDICT} --ckpt_path=...` write both again, or remove it where their generator need not be known"
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error}); {again}") from error
    schema = origin.pop("schema", None) if isinstance(origin, dict) else None
    if schema != ORIGIN_SCHEMA:
        raise ValueError(f"{path}: schema {schema}, expected {ORIGIN_SCHEMA}; {again}")
    described = origin.pop("table_sha256", None)
    if described != table:
        raise ValueError(
            f"{path} describes a table of sha256 {described}, the samples.csv beside it has {table}; {again}"
        )
    return dict(origin)


def refuse_other_generator(samples: Samples, checkpoint: str | Path) -> None:
    """Refuse samples of another generator than the one whose figures they are for; those of unknown origin pass.

    Args:
        samples: in question.
        checkpoint: of the generator.

    Raises:
        ValueError: naming both checkpoints' digests.
    """
    if samples.made_by is None or not Path(checkpoint).is_file():
        return
    with Path(checkpoint).open("rb") as file:
        tested = hashlib.file_digest(file, "sha256").hexdigest()
    if tested != samples.made_by:
        raise ValueError(
            f"{samples.path} was made by a generator of sha256 {samples.made_by}, the one that is tested, "
            f"{checkpoint}, has {tested}; let it write its own samples: `{PREDICT} --ckpt_path={checkpoint}`"
        )


def refuse_leaks(samples: Samples, splits: Mapping[str, str]) -> None:
    """Refuse samples of prompts that are not of the training split.

    A generator that was given a test report paints that report's labels: to train on it is to train on the test set.

    Args:
        samples: in question.
        splits: image id → split of the data that is tested on.

    Raises:
        ValueError: naming the first such sample, and how many there are.
    """
    bad = [i for i, source in enumerate(samples.sources) if splits.get(source) != "train"]
    if bad:
        source = samples.sources[bad[0]]
        split = splits.get(source)
        what = f"is of the {split} split" if split else "is not in this data set, so its split is not known"
        raise ValueError(
            f"{samples.path}: {samples.pictures[bad[0]]} was made from the report of image {source}, which {what} "
            f"({len(bad)} of {len(samples.sources)} samples); a classifier that is tested on real images may only be "
            f"trained on samples of training prompts: `{PREDICT} --ckpt_path=...`"
        )


def read_pictures(samples: Samples) -> LabelledImages:
    """The images with their labels, in an order that depends on the names of the pictures alone.

    Raises:
        ValueError: naming the picture that cannot be read or has another size than the first.
    """
    bank = ImageBank()
    size: tuple[int, ...] | None = None
    for start in range(0, len(samples.pictures), CHUNK):
        names = samples.pictures[start : start + CHUNK]
        pixels = []
        for name in names:
            file = samples.path.parent / name
            try:
                with Image.open(file) as picture:
                    pixels.append(np.asarray(picture.convert("L")))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{file}: cannot be read ({error}); let `predict` write it again") from error
            size = size or pixels[-1].shape
            if pixels[-1].shape != size:
                raise ValueError(f"{file}: {pixels[-1].shape} pixels, the others {size}; let `predict` write all again")
        images = torch.from_numpy(np.stack(pixels))[:, None].float().div_(127.5).sub_(1.0)
        labels = torch.from_numpy(samples.labels[start : start + CHUNK])
        sources = samples.sources[start : start + CHUNK]
        bank.add(check_images(images, what="synthetic", ids=names), labels, ids=names, patients=sources)
    return bank.alone()
