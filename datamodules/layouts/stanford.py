"""What CheXpert and CheXpert-Plus share: paths that name patient, study and view, and the columns beside them.

An image id is patient, study and view joined by "_", as in patient00001_study1_view1_frontal. It is also what pictures
are matched by, so that neither the folder's name (users rename it), nor the archive's batches, nor the format of a copy
matters.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.layouts.source import hash_fractions, hashed_split, list_files
from datamodules.manifest import Remark
from datamodules.reports.labels import FINDINGS

Splits = Literal["official", "hashed"]

PLUS_TABLE = "df_chexpert_plus_240401.csv"
PATH = r"(patient\d+)/(study\d+)/(view\d+_(frontal|lateral))\.\w+$"
SEXES = {"Male": "M", "Female": "F", "Unknown": "", "": ""}
LABEL_VALUES = {"": np.nan, "1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0, "-1.0": -1.0, "-1": -1.0}
OLDEST = 110.0


def read_paths(paths: pd.Series, *, file: Path) -> pd.DataFrame:
    """Columns patient_id, study_id, image_id and side ("Frontal" or "Lateral") of each path.

    Raises:
        ValueError: naming file and row of a path that does not end as published.
    """
    parts = paths.str.extract(PATH)
    wrong = np.flatnonzero(parts[0].isna())
    if len(wrong):
        raise ValueError(
            f"{file}: row {wrong[0] + 2}: path {paths.iloc[wrong[0]]!r} does not end in "
            f"patientNNNNN/studyN/viewN_frontal.jpg or viewN_lateral.jpg ({len(wrong)} rows do not); mend the row"
        )
    study = parts[0] + "_" + parts[1]
    return pd.DataFrame(
        {
            "patient_id": parts[0],
            "study_id": study,
            "image_id": study + "_" + parts[2],
            "side": parts[3].str.capitalize(),
        }
    )


def require_known(values: pd.Series, *, known: Sequence[str], column: str, file: Path) -> None:
    """Check a column of few values.

    Raises:
        ValueError: naming file, row, value and the values that are known.
    """
    wrong = np.flatnonzero(~values.isin(list(known)))
    if len(wrong):
        raise ValueError(
            f"{file}: row {wrong[0] + 2}: {column} = {values.iloc[wrong[0]]!r} is not known ({len(wrong)} rows are); "
            f"expected one of {list(known)}; mend the row"
        )


def read_views(
    frontal_lateral: pd.Series, ap_pa: pd.Series, *, paths: pd.DataFrame, file: Path
) -> tuple[np.ndarray, list[Remark]]:
    """Views [N]: PA, AP, LATERAL or unknown.

    Args:
        frontal_lateral: "Frontal", "Lateral" or "" (then the file's name tells).
        ap_pa: "AP", "PA", "LL", "RL" or "".
        paths: from `read_paths`.
        file: named in the messages.

    Raises:
        ValueError: for another value in either column.
    """
    require_known(frontal_lateral, known=("Frontal", "Lateral", ""), column="Frontal/Lateral", file=file)
    require_known(ap_pa, known=("AP", "PA", "LL", "RL", ""), column="AP/PA", file=file)
    side = frontal_lateral.where(frontal_lateral != "", paths["side"])
    lateral = side == "Lateral"
    # Of the published rows 17 are frontal with LL or RL: which of the two is right only the picture tells.
    contrary = (
        (side != paths["side"]) | (lateral & ap_pa.isin(["AP", "PA"])) | (~lateral & ap_pa.isin(["LL", "RL"]))
    ).to_numpy()
    views = np.select([contrary, lateral, ap_pa == "AP", ap_pa == "PA"], ["unknown", "LATERAL", "AP", "PA"], "unknown")
    ids = paths["image_id"]
    notes = [
        Remark(
            "Frontal/Lateral, AP/PA and the name of the file contradict each other: view unknown",
            tuple(ids[contrary]),
            "warning",
            "look at the picture and mend the row, or keep to known views with the option views",
        ),
        Remark(
            "frontal, but whether AP or PA is not given: view unknown",
            tuple(ids[(views == "unknown") & ~contrary]),
            "warning",
        ),
        Remark("view inferred from the name of the file", tuple(ids[(frontal_lateral == "") & lateral]), "note"),
    ]
    return views.astype(object), notes


def read_people(
    sex: pd.Series, age: pd.Series, *, paths: pd.DataFrame, file: Path
) -> tuple[pd.Series, pd.Series, list[Remark]]:
    """Sex "M", "F" or "", age in years or NaN.

    Raises:
        ValueError: for a sex that is not "Male", "Female", "Unknown" or "".
    """
    require_known(sex, known=tuple(SEXES), column="Sex", file=file)
    sexes, ids = sex.map(SEXES), paths["image_id"]
    years = pd.to_numeric(age, errors="coerce")
    unread, newborn, old = years.isna() & (age.str.strip() != ""), years <= 0, years > OLDEST
    several = sexes.where(sexes != "").groupby(paths["patient_id"]).transform("nunique") > 1
    notes = [
        Remark("sex unknown", tuple(ids[sex == "Unknown"]), "note"),
        Remark("patient of two sexes", tuple(ids[several]), "warning", "mend the rows"),
        Remark("age that is no number: left empty", tuple(ids[unread]), "warning", "mend the row"),
        Remark("age 0 in a set of adults: cleared", tuple(ids[newborn]), "note"),
        Remark("age over 110 years: cleared", tuple(ids[old]), "note"),
    ]
    return sexes, years.where(~(newborn | old)), notes


def read_labels(table: pd.DataFrame, *, file: Path) -> pd.DataFrame:
    """The 14 labels as 1, 0, -1 and NaN, from texts.

    Raises:
        ValueError: naming file, row and value of what is no label.
    """
    labels = pd.DataFrame(index=table.index)
    for finding in FINDINGS:
        texts = table[finding].str.strip()
        require_known(texts, known=tuple(LABEL_VALUES), column=finding, file=file)
        labels[finding] = texts.map(LABEL_VALUES).astype(float)
    return labels


def label_remarks(frame: pd.DataFrame) -> list[Remark]:
    """What is odd in the labels: none at all, "No Finding" beside a finding, views of a study that differ."""
    ids, labels = frame["image_id"], frame[list(FINDINGS)]
    others = [f for f in FINDINGS if f not in ("No Finding", "Support Devices")]
    contrary = (labels["No Finding"] == 1) & (labels[others] == 1).any(axis=1)
    # One number for the 14 labels of a row, each of them one of four.
    codes = pd.Series((labels.fillna(2).to_numpy() + 1) @ (4.0 ** np.arange(len(FINDINGS))), index=frame.index)
    differ = codes.groupby(frame["study_id"]).transform("nunique") > 1
    return [
        Remark("no label", tuple(ids[labels.isna().all(axis=1)]), "warning"),
        Remark("No Finding beside a finding", tuple(ids[contrary]), "error", "mend the row"),
        Remark("views of one study with different labels", tuple(ids[differ]), "error", "mend the rows of the study"),
    ]


def drop_repeats(table: pd.DataFrame, paths: pd.DataFrame) -> tuple[np.ndarray, list[Remark]]:
    """Which rows stay: bool [N]; of several rows of one image the first does."""
    ids = paths["image_id"]
    again = ids.duplicated()
    other = again & ~table.assign(image_id=ids).duplicated()
    mend = "remove the second row"
    return ~again.to_numpy(), [
        Remark("row given twice", tuple(ids[again & ~other]), "error", mend),
        Remark("row given twice with other values: the first is kept", tuple(ids[other]), "error", mend),
    ]


def merge_remarks(remarks: Sequence[Remark]) -> list[Remark]:
    """One remark a reason, with the ids of all that share it: each table is read by itself."""
    merged: dict[str, Remark] = {}
    for remark in remarks:
        former = merged.get(remark.reason)
        ids = remark.ids if former is None else former.ids + remark.ids
        merged[remark.reason] = dataclasses.replace(remark, ids=ids)
    return list(merged.values())


def assign_splits(
    frame: pd.DataFrame, *, splits: Splits, has_test: bool, validate: float, seed: int, tables: Sequence[str]
) -> tuple[np.ndarray, list[Remark]]:
    """Split names [N].

    Args:
        frame: with patient_id, and `official`: "train", "valid" or "test".
        splits: "official" is train → train, and valid → validate where there is a test set, else valid → test and
            `validate` carved out of train; "hashed" is 80/10/10 by a hash of the patient.
        has_test: whether there is a test set.
        validate: share of the patients of train, in [0, 1).
        seed: of the hash.
        tables: files that hold the official split, for the ledger.

    Raises:
        ValueError: for an option that does not exist, or a patient in two official splits.
    """
    if not 0 <= validate < 1:
        raise ValueError(f"validate = {validate} is not a share of the patients; expected 0 <= validate < 1")
    if splits not in ("official", "hashed"):
        raise ValueError(f"splits = {splits!r} does not exist; expected 'official' or 'hashed'")
    patient, official = frame["patient_id"], frame["official"]
    counts = frame.groupby("patient_id")["official"].nunique()
    leaking = counts[counts > 1].index
    if len(leaking):
        where = sorted(official[patient == leaking[0]].unique())
        raise ValueError(
            f"{', '.join(tables)}: patient {leaking[0]} is in several splits {where} ({len(leaking)} patients are); "
            "remove the rows from one of them"
        )
    if splits == "hashed":
        return hashed_split(patient, seed=seed), [
            Remark("split by a hash of the patient, not as published", tuple(tables), "note")
        ]
    if has_test:
        return official.replace("valid", "validate").to_numpy(dtype=object), []
    carved = hash_fractions(patient, seed=seed) < validate
    chosen = np.select([official == "valid", carved], ["test", "validate"], "train").astype(object)
    reason = "no test set: the published valid set is the split test, and validate is carved out of train"
    return chosen, [Remark(reason, tuple(tables), "note")]


def find_pictures(
    folders: Sequence[Path], *, suffixes: Sequence[str], known: pd.Series
) -> tuple[pd.Series, list[Remark]]:
    """Paths of the pictures, indexed by image id.

    Args:
        folders: where they are, at any depth.
        suffixes: of pictures; where an image is there in several formats, the first of these is read.
        known: image ids of the tables.
    """
    listed = [(str(folder), list_files(folder, suffixes=suffixes)) for folder in folders]
    names = pd.Series([name for _, found in listed for name in found], dtype=object)
    bases = pd.Series([base for base, found in listed for _ in found], dtype=object)
    files = pd.DataFrame({"name": names, "folder": bases})
    parts = names.str.extract(PATH)
    files["image_id"] = parts[0] + "_" + parts[1] + "_" + parts[2]
    lower = names.str.lower()
    files["rank"] = np.select([lower.str.endswith(suffix) for suffix in suffixes], range(len(suffixes)), 0)
    orphan = ~files["image_id"].isin(known)
    orphans = tuple(names[orphan])
    files = files[~orphan].sort_values("rank", kind="stable")
    again = files["image_id"].duplicated()
    notes = [
        Remark("picture that no row of the table names", orphans, "warning", "take it away, or fetch the table again"),
        Remark(
            f"second copy of a picture: of {', '.join(suffixes)} the first is read",
            tuple(files.loc[again, "name"]),
            "note",
            "take one of the two away if they are not the same picture",
        ),
    ]
    files = files[~again]
    return pd.Series((files["folder"] + "/" + files["name"]).to_numpy(dtype=object), index=files["image_id"]), notes
