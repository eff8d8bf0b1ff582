"""`python -m datamodules {doctor,prepare,vocabulary,phantom}`: look at a data set, make what training needs."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from datamodules import layouts
from datamodules.manifest import Manifest
from datamodules.phantom.report import report
from datamodules.phantom.study import study
from datamodules.reports.labels import FINDINGS, SPLITS
from datamodules.reports.vocabulary import mine
from datamodules.images import read_image

SHOWN = 5


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 1 where the data has errors."""
    parser = argparse.ArgumentParser(prog="python -m datamodules", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    doctor = commands.add_parser("doctor", help="read a data set, open each image, say what is in it and what is wrong")
    doctor.add_argument("root", nargs="?", help="folder or file of the data set (the phantom needs none)")
    _add_layout(doctor)

    prepare = commands.add_parser("prepare", help="write the manifest and the resized images that training reads")
    _add_layout(prepare, root=True)
    prepare.add_argument("--size", type=int, default=64, help="side in pixels (default 64)")
    prepare.add_argument("--views", nargs="+", help="keep these views only, e.g. PA AP")
    prepare.add_argument("--text-only", action="store_true", help="reports without images")
    prepare.add_argument("--cache-dir", default="runs/cache", help="where they go (default runs/cache)")

    vocabulary = commands.add_parser("vocabulary", help="mine the vocabulary from the training reports")
    _add_layout(vocabulary, root=True)
    vocabulary.add_argument("--min-count", type=int, default=5, help="leave rarer words out (default 5)")
    vocabulary.add_argument("--max-words", type=int, default=500, help="keep so many of each kind (default 500)")
    vocabulary.add_argument("--out", type=Path, required=True, help="the JSON file to write")

    phantom = commands.add_parser("phantom", help="write phantoms as PNGs and a CSV in the `table` layout")
    phantom.add_argument("--studies", type=int, required=True)
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--size", type=int, default=256, help="side in pixels (default 256)")
    phantom.add_argument("--out", type=Path, required=True, help="the folder to write")

    given = parser.parse_args(args)
    command = {"doctor": _doctor, "prepare": _prepare, "vocabulary": _vocabulary, "phantom": _phantom}[given.command]
    try:
        return command(given)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_layout(parser: argparse.ArgumentParser, *, root: bool = False) -> None:
    parser.add_argument("--layout", default="phantom", choices=sorted(layouts.LAYOUTS), help="default phantom")
    if root:
        parser.add_argument("--root", help="folder or file of the data set (the phantom needs none)")
    parser.add_argument("--studies", type=int, help="how many phantoms")
    parser.add_argument("--seed", type=int, help="of the phantoms, or of the split where the data set has none")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the layout, the value as JSON or plain text: --option image_column=file",
    )


def _options(given: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in given.option:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option {text}: expected NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options | {n: getattr(given, n) for n in ("studies", "seed") if getattr(given, n) is not None}


def _doctor(given: argparse.Namespace) -> int:
    manifest = layouts.read(given.layout, given.root, **_options(given))
    _describe(manifest)
    errors = []
    with_image = manifest.frame[manifest.frame["image"] != ""]
    for image_id, image in zip(with_image["image_id"], with_image["image"], strict=True):
        try:
            read_image(image, size=64)
        except ValueError as error:
            errors.append(f"image {image_id}: {error}")
    print(f"images: {len(with_image) - len(errors)} of {len(with_image)} can be read; {len(errors)} cannot")
    for line in errors[:SHOWN]:
        print(f"  {line}")
    return 1 if errors else 0


def _describe(manifest: Manifest) -> None:
    frame = manifest.frame
    print(
        f"{manifest.source}: {len(manifest)} rows, {frame['patient_id'].nunique()} patients, "
        f"digest {manifest.digest()[:12]}"
    )
    for drop in manifest.drops:
        print(f"dropped: {drop.count} × {drop.reason}, e.g. {', '.join(drop.ids[:3])}")
    table = pd.crosstab(frame["split"], frame["view"]).reindex([s for s in SPLITS if (frame["split"] == s).any()])
    print(table.to_string())
    print(
        f"reports: {int((frame['report'] != '').sum())} rows have a text; "
        f"{frame['report_source'].value_counts().to_dict()}"
    )
    counts = {what: (frame[list(FINDINGS)] == value).sum() for what, value in (("1", 1), ("0", 0), ("uncertain", -1))}
    print(pd.DataFrame(counts | {"unknown": frame[list(FINDINGS)].isna().sum()}).to_string())


def _prepare(given: argparse.Namespace) -> int:
    # Lightning takes seconds to import, which the other commands do not need.
    from datamodules.cxr import CXRDataModule

    data = CXRDataModule(
        layout=given.layout,
        root=given.root,
        layout_options=_options(given),
        size=given.size,
        views=given.views,
        text_only=given.text_only,
        cache_dir=given.cache_dir,
    )
    data.prepare_data()
    return 0


def _vocabulary(given: argparse.Namespace) -> int:
    manifest = layouts.read(given.layout, given.root, **_options(given))
    train = manifest.split("train").frame.drop_duplicates("study_id")
    reports = [text for text in train["report"] if text]
    if not reports:
        raise ValueError(
            f"layout {given.layout}: none of {len(train)} training studies has a report to mine words from"
        )
    found = mine(reports, min_count=given.min_count, max_words=given.max_words)
    found.save(given.out)
    print(
        f"vocabulary: {len(found.words)} words from {len(reports)} training reports of {given.layout} "
        f"(digest {manifest.digest()[:12]}) → {given.out}"
    )
    return 0


def _phantom(given: argparse.Namespace) -> int:
    manifest = layouts.read("phantom", None, studies=given.studies, seed=given.seed)
    folder = given.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[np.ndarray] = []
    for image_id, image in zip(manifest.frame["image_id"], manifest.frame["image"], strict=True):
        pixels = read_image(image, size=given.size)
        _save(pixels, folder / f"{image_id}.png")
        if len(shown) < 64:
            shown.append(pixels)
    frame = manifest.frame.rename(columns={"patient_id": "patient"})
    frame["report"] = [report(study(given.seed, index)) for index in range(given.studies)]
    frame["image"] = "images/" + frame["image_id"] + ".png"
    table = given.out / "studies.csv"
    temporary = table.with_name(table.name + ".tmp")
    columns = ["image", "patient", "view", "split", "sex", "age", "report", *FINDINGS]
    frame[columns].to_csv(temporary, index=False)
    os.replace(temporary, table)
    _save(_sheet(shown), given.out / "contact_sheet.png")
    print(
        f"phantom: {len(frame)} images, studies.csv and contact_sheet.png in {given.out}; read them with --layout table"
    )
    return 0


def _sheet(images: list[np.ndarray]) -> np.ndarray:
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    blank = np.zeros_like(images[0])
    cells = images + [blank] * (rows * columns - len(images))
    return np.concatenate([np.concatenate(cells[r * columns : (r + 1) * columns], axis=1) for r in range(rows)])


def _save(pixels: np.ndarray, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    Image.fromarray(pixels).save(temporary, format="PNG")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
