"""CheXpert as published (Irvin et al., AAAI 2019), full or small: train.csv, valid.csv, JPEG. It has no reports.

Labels. The 14 columns are taken as they stand: 1.0, 0.0, -1.0 (uncertain) and empty (not mentioned, here NaN). Those of
train come from CheXpert's labeler, or from one of the two tables that Stanford published later (`labels`); "No Finding"
is there 1 or empty, never 0. Those of valid and test were set by radiologists: 1 or 0, nothing uncertain or empty.

Splits. valid.csv has 234 images, which is enough to choose a threshold and too few to measure generated images by, and
the test set (500 patients, 668 images) is a download of its own. So what becomes test depends on what is there: see
`read`. Ages are cut off at 90 by de-identification.
"""

import itertools
import re
from pathlib import Path
from typing import Literal

import pandas as pd

from datamodules.layouts.source import IMAGE_SUFFIXES, find_file, open_root, read_csv, read_start, with_gz
from datamodules.layouts.stanford import (
    PLUS_TABLE,
    Splits,
    assign_splits,
    drop_repeats,
    find_pictures,
    label_remarks,
    merge_remarks,
    read_labels,
    read_paths,
    read_people,
    read_views,
)
from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.reports.labels import FINDINGS

TRAIN = {"chexpert": "train.csv", "chexbert": "train_cheXbert.csv", "visualchexbert": "train_visualCheXbert.csv"}
VALID = ("valid.csv",)
TEST = ("test.csv", "test_labels.csv")
DESCRIPTION = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
# The full set comes as four archives of these names, where users unpack them side by side.
BATCH = "CheXpert-v1.0 batch"
CUT_OFF = 90
EXPECTED = (
    "train.csv, valid.csv and train/patientNNNNN/studyN/viewN_frontal.jpg, or a folder CheXpert-v1.0[-small] with them "
    "(test.csv or test_labels.csv is optional)"
)
# Train and valid, as the ordinary download has them, and what the separate test set adds.
PUBLISHED = {"images": 223_648, "studies": 187_841, "patients": 64_740}
PUBLISHED_TEST = {"images": 668, "studies": 500, "patients": 500}


def recognise(root: Path) -> bool:
    """Whether this folder, or one folder CheXpert* in it, holds CheXpert's train.csv or valid.csv, and not the Plus."""
    return len(bases(root)) == 1 and find_file(root, with_gz(PLUS_TABLE)) is None


def published(root: Path) -> dict[str, int]:
    """The published counts, with the test set's where its table is there."""
    if not any(find_file(place, with_gz(*TEST)) for place in (root, *bases(root))):
        return PUBLISHED
    return {key: value + PUBLISHED_TEST[key] for key, value in PUBLISHED.items()}


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    splits: Splits = "official",
    validate: float = 0.02,
    seed: int = 0,
    labels: Literal["chexpert", "chexbert", "visualchexbert"] = "chexpert",
) -> Manifest:
    """Read the data set.

    Args:
        root: CheXpert-v1.0 or CheXpert-v1.0-small, whatever it is called, or the folder that it is in by its own
            name; also the folder with the full set's archives unpacked side by side, "CheXpert-v1.0 batch 1 (validate
            & csv)" and so on. Tables may be gzipped.
        images: False reads the tables only; every row is kept, with image "".
        splits: "official" with a test table is train → train, valid → validate, test → test. Without one, valid is
            test, so that nobody chooses a model on what they report, and the share `validate` of the patients in train
            is validate. "hashed" is 80/10/10 by a hash of the patient: larger splits of one kind of labels; valid.csv
            may then be missing.
        validate: share of the patients in train, in [0, 1), where there is no test table; 0.02 are about 4,500 images.
        seed: of the hash.
        labels: which table gives train its labels: train.csv, train_cheXbert.csv or train_visualCheXbert.csv.

    Returns:
        One row an image, report "" and report_source "none". Rows without a picture, and the second of two rows of one
        image, are left out.

    Raises:
        FileNotFoundError: naming the file that is missing.
        ValueError: naming file and row, for what the published tables do not have; for a patient in two tables.
    """
    if labels not in TRAIN:
        raise ValueError(f"labels = {labels!r} does not exist; expected one of {list(TRAIN)}")
    folder = open_root(root, layout="chexpert", expected=EXPECTED)
    base = _base(folder)
    tables = {
        "train": _find(base, folder, (TRAIN[labels],)),
        "valid": _find(base, folder, VALID),
        "test": _find(base, folder, TEST),
    }
    wanted = {"train": TRAIN[labels], "valid": VALID[0]} if splits == "official" else {"train": TRAIN[labels]}
    for official, name in wanted.items():
        if tables[official] is None:
            other = ", or read with layout_options.splits=hashed" if official == "valid" else ""
            raise FileNotFoundError(f"layout chexpert: {base} has no {name}; expected {EXPECTED}; fetch it{other}")
    frames, drops, notes = [], [], []
    for official, file in tables.items():
        if file is not None:
            frame, more_drops, more_notes = _table(file, described=official != "test")
            frames.append(frame.assign(official=official))
            drops += more_drops
            notes += more_notes
    frame = pd.concat(frames, ignore_index=True)
    names = [file.name for file in tables.values() if file is not None]
    frame["split"], more_notes = assign_splits(
        frame, splits=splits, has_test=tables["test"] is not None, validate=validate, seed=seed, tables=names
    )
    notes += more_notes + label_remarks(frame)
    frame["image"], frame["report_source"] = "", "none"
    if images:
        # The archives' batches lie beside the one that has the tables.
        batches = [place for place in folder.iterdir() if place.name.startswith(BATCH)] if base != folder else []
        places = sorted({base, *batches}, key=str) if base.name.startswith(BATCH) else [base]
        suffixes = (".jpg", ".jpeg", *(s for s in IMAGE_SUFFIXES if s not in (".jpg", ".jpeg")))
        found, more_notes = find_pictures(places, suffixes=suffixes, known=frame["image_id"])
        notes += more_notes
        frame["image"] = frame["image_id"].map(found).fillna("")
        absent = frame["image"] == ""
        mend = "fetch the archive that holds it again"
        drops.append(Remark("no picture of this name", tuple(frame.loc[absent, "image_id"]), "error", mend))
        frame = frame[~absent]
        if frame.empty:
            raise FileNotFoundError(
                f"layout chexpert: none of the {len(absent)} pictures of {', '.join(names)} is under {base}; expected "
                "for instance train/patient00001/study1/view1_frontal.jpg"
            )
    return make_manifest(
        frame.drop(columns="official"), source="chexpert", drops=merge_remarks(drops), notes=merge_remarks(notes)
    )


def bases(root: Path) -> list[Path]:
    """The folders with CheXpert's train.csv or valid.csv: the root, else those in it that begin with its name."""
    if root.is_file():
        return []
    if _has_table(root):
        return [root]
    places = [place for place in root.iterdir() if place.name.lower().startswith("chexpert")]
    return [place for place in sorted(places, key=lambda place: place.name) if _has_table(place)]


def _has_table(folder: Path) -> bool:
    """Whether a table there is CheXpert's by its header: other data sets have a train.csv too.

    Where there is no header, the name of the folder or the patients in it tell, so that reading it names the damage.
    """
    files = [find_file(folder, with_gz(name)) for name in (TRAIN["chexpert"], *VALID)]
    headers = [read_start(file).split("\n")[0].strip().split(",") for file in files if file is not None]
    # One of its columns may be lost.
    if any(len(set(header) & {"Path", "Frontal/Lateral", "AP/PA"}) > 1 for header in headers):
        return True
    damaged = any(len(header) == 1 for header in headers)
    return damaged and (folder.name.lower().startswith("chexpert") or _has_patients(folder))


def _has_patients(folder: Path) -> bool:
    places = [folder / name for name in ("train", "valid") if (folder / name).is_dir()]
    # A look at the first few: there are 64,540.
    first = [child.name for place in places for child in itertools.islice(place.iterdir(), 5)]
    return any(re.fullmatch(r"patient\d{5}", name) for name in first)


def _base(folder: Path) -> Path:
    found = bases(folder)
    if len(found) > 1:
        raise ValueError(
            f"layout chexpert: {folder} holds {[base.name for base in found]}; name one of them as the root"
        )
    # Where the tables are broken or missing, the messages are about the root itself.
    return found[0] if found else folder


def _find(base: Path, folder: Path, names: tuple[str, ...]) -> Path | None:
    return find_file(base, with_gz(*names)) or find_file(folder, with_gz(*names))


def _table(file: Path, *, described: bool) -> tuple[pd.DataFrame, list[Remark], list[Remark]]:
    """One table's rows, drops and notes; the test set's table may lack the description."""
    table = read_csv(file, columns=("Path", *(DESCRIPTION if described else ()), *FINDINGS))
    missing = [column for column in DESCRIPTION if column not in table]
    notes = [Remark(f"table without the columns {', '.join(missing)}", (file.name,) if missing else (), "note")]
    for column in missing:
        table[column] = ""
    paths = read_paths(table["Path"], file=file)
    views, more = read_views(table["Frontal/Lateral"], table["AP/PA"], paths=paths, file=file)
    sex, age, others = read_people(table["Sex"], table["Age"], paths=paths, file=file)
    frame = paths.assign(view=views, sex=sex, age=age).join(read_labels(table, file=file))
    kept, drops = drop_repeats(table, paths)
    oldest = Remark("age 90, which stands for 90 and over", tuple(paths.loc[age == CUT_OFF, "image_id"]), "note")
    return frame[kept].drop(columns="side"), drops, [*notes, *more, *others, oldest]
