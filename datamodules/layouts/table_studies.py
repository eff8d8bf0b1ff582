"""The studies of a user's table: ids that are unique over patients, though many tables number each patient's anew."""

from pathlib import Path

import pandas as pd

from datamodules.manifest import Remark

RESTARTS = "study numbers restart for each patient: ids are <patient>/<study>"
LARGEST = 999  # of numbers that are counted for each patient


def study_ids(studies: pd.Series, *, rows: pd.DataFrame, path: Path) -> tuple[pd.Series, list[Remark]]:
    """An id for each row's study, and remarks on what was changed.

    Args:
        studies: [N] as the table names them, "" where it does not: the image is then a study of its own.
        rows: [N] with image_id and patient_id.
        path: the table, for the message.

    Raises:
        ValueError: for a study of several patients, unless each patient's are counted from 0 or 1 on.
    """
    images, patients = rows["image_id"], rows["patient_id"]
    given = studies != ""
    ids = studies.where(given, images)
    pairs = pd.DataFrame({"study": ids, "patient": patients})[given].drop_duplicates()
    lone = "no study in the row: the picture is a study of its own"
    notes = [Remark(lone, tuple(images[~given]), "warning", "name the study")]
    shared = pairs["study"].duplicated(keep=False)
    if not shared.any():
        return ids, notes
    numbers = pd.to_numeric(pairs["study"].str.extract(r"^[A-Za-z_ -]*(\d{1,9})$")[0])
    if (numbers.groupby(pairs["patient"]).min() <= 1).all() and (numbers <= LARGEST).all():
        notes.append(Remark(RESTARTS, tuple(images[given]), "note"))
        return ids.where(~given, patients + "/" + studies), notes
    first = pairs.loc[shared, "study"].iloc[0]
    several = pairs.loc[pairs["study"] == first, "patient"].tolist()
    row = int((studies == first).to_numpy().argmax()) + 2
    raise ValueError(
        f"{path}: row {row}: study {first!r} is of {len(several)} patients {several[:3]} "
        f"({pairs.loc[shared, 'study'].nunique()} studies are of several); mend the patient, give each study an id of "
        "its own, or set layout_options.study_column to null if each picture is a study of its own"
    )
