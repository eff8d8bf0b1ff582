"""What is wrong with a data set as its tables tell it: the reader's ledger, published counts, gaps."""

import pandas as pd

from datamodules.doctor.finding import Finding
from datamodules.manifest import Level, Manifest, Remark
from datamodules.reports.labels import FINDINGS, SPLITS

# Fewer patients than this may leave a split empty by chance: CheXpert's validate is drawn as 2 % of them.
FEW_PATIENTS = 300
SUBSET = 0.5  # under this share of the published number it is a subset that someone chose
UNKNOWN_VIEWS = 0.1
SHORT_REPORT = 3  # words
COMMON_TEXT, COMMON_STUDIES = 0.2, 5
# Where a layout's labels come from, and so what can be done where they are missing; else a table has them.
LABEL_MENDS = {
    "openi": "labels are the MeSH tags of a report, and there is nothing to fetch where it has none",
    "padchest": "see what these rows have in the column Labels",
    "table": "fill the label columns of these rows in",
}
FETCH_LABELS = "fetch the label table again where it is cut off"
WITHOUT_LABELS = "a classifier cannot be trained on it, nor the findings of generated images be measured against it"
NAME_LABELS = """name the columns of 1, 0, -1 or nothing: --option 'label_columns={"Edema": "oedema", ...}'"""
LOOK = "look at these rows in the source, and mend or remove them"


def ledger(manifest: Manifest) -> list[Finding]:
    """What the reader left out, and what it kept but doubts."""
    return [
        *(_remark(remark, "left out: ") for remark in manifest.drops),
        *(_remark(remark, "") for remark in manifest.notes),
    ]


def published_counts(manifest: Manifest, published: dict[str, int]) -> list[Finding]:
    """Differences to the published counts.

    What the ledger left out by a rule (its drops that are no errors) is in the data set all the same: it explains a
    difference, which is then a note. A subset, a note too, is what has under half of the published number even with it,
    by the first of images, studies, reports and patients of which there is one. Images and reports that are not there
    at all were not asked for, and are not compared. Splits that differ though nothing is missing were drawn otherwise.

    A drop's ids are rows or, where a reader leaves reports out, studies, and the ledger does not say which. So each
    stands for one of whatever is counted; where images are missing, for as many as a study has on average, rounded up.
    """
    counts = {key: value for key, value in count(manifest).items() if key in published}
    counts = {key: value for key, value in counts.items() if value or key not in ("images", "reports")}
    main = next((key for key in ("images", "studies", "reports", "patients") if counts.get(key)), None)
    if main is None:
        return []
    left_out = sum(drop.count for drop in manifest.drops if drop.level != "error")
    if counts[main] + left_out < SUBSET * published[main]:
        text = ", ".join(f"{key} {value:,} of {published[key]:,}" for key, value in counts.items())
        return [Finding("note", f"a subset of the published data set: {text}")]
    found = []
    for key, value in counts.items():
        difference = published[key] - value
        if difference == 0:
            continue
        what = f"{key}: {value:,}, published are {published[key]:,}"
        if key in SPLITS and counts[main] == published[main]:
            found.append(
                Finding("note", f"{what}; nothing is missing, the splits are drawn otherwise", abs(difference))
            )
        elif 0 < difference <= left_out * (_images_of_a_study(published) if key == "images" else 1):
            studies = " (studies of several images)" if difference > left_out else ""
            rule = f"the {left_out:,} that the ledger says were left out by rule{studies} account for it"
            found.append(Finding("note", f"{what}; {rule}", difference))
        else:
            mend = "fetch what is missing" if difference > 0 else "look for files of another release or repeated rows"
            found.append(
                Finding("warning", f"{what}: partial download or subset", abs(difference), mend=f"{mend}, or go on so")
            )
    return found


def count(manifest: Manifest) -> dict[str, int]:
    """What is counted, under the keys of a layout's PUBLISHED."""
    frame = manifest.frame
    studies = frame.drop_duplicates("study_id")
    splits = frame["split"].value_counts()
    return {
        "images": int((frame["image"] != "").sum()),
        "studies": len(studies),
        "patients": int(frame["patient_id"].nunique()),
        "reports": int((studies["report"] != "").sum()),
        **{split: int(splits.get(split, 0)) for split in SPLITS},
        # A box is a list in the text's outer list.
        "boxes": int(frame["boxes"].str.count(r"\[").sub(1).clip(lower=0).sum()),
    }


def _images_of_a_study(published: dict[str, int]) -> int:
    studies = published.get("studies", published.get("reports"))
    return -(-published["images"] // studies) if studies else 1


def gaps(manifest: Manifest) -> list[Finding]:
    """Ids, rows, labels, views and texts that are missing, spoilt or say nothing."""
    if manifest.source == "keywords":
        return _ids(manifest)  # sets to write from: nothing is learnt from them, a set may be one word, or none
    return [*_ids(manifest), *_splits(manifest), *_labels(manifest), *_views(manifest), *_reports(manifest)]


def _remark(remark: Remark, prefix: str) -> Finding:
    mend = remark.mend or (LOOK if remark.level != "note" else "")
    return Finding(remark.level, f"{prefix}{remark.reason}", remark.count, remark.ids, mend)


def _ids(manifest: Manifest) -> list[Finding]:
    """Numbers that a spreadsheet or a table library rewrote."""
    found = []
    for column in ("patient_id", "study_id"):
        ids = manifest.frame[column].drop_duplicates()
        rounded = tuple(ids[ids.str.fullmatch(r"\d([.,]\d+)?[eE]\+?\d+")])
        decimal = tuple(ids[ids.str.fullmatch(r"\d+\.0")])
        if rounded:
            what = f"{column} is a rounded number, which several may share: a spreadsheet saved the table"
            mend = "fetch the table again, and open it in no spreadsheet, or import that column as text"
            found.append(Finding("error", what, len(rounded), rounded, mend))
        if decimal:
            what = f"{column} ends in .0: it was saved as a number"
            mend = "take the table as it is published, or write the ids as text: splits are drawn by them"
            found.append(Finding("warning", what, len(decimal), decimal, mend))
    return found


def _splits(manifest: Manifest) -> list[Finding]:
    present = set(manifest.frame["split"].unique())
    empty = tuple(split for split in SPLITS if split not in present)
    if not empty:
        return []
    patients = manifest.frame["patient_id"].nunique()
    few = patients < FEW_PATIENTS and "train" not in empty
    level: Level = "warning" if few else "error"
    what = f"a split has no rows{f' (there are only {patients} patients)' if few else ''}"
    mend = "take more studies" if few else "mend the split file or column; without one, splits are drawn by patient"
    return [Finding(level, what, len(empty), empty, mend)]


def _labels(manifest: Manifest) -> list[Finding]:
    labels = manifest.frame[list(FINDINGS)]
    unlabelled = labels.isna().all(axis=1)
    if unlabelled.all():
        source = NAME_LABELS if manifest.source == "table" else LABEL_MENDS.get(manifest.source, FETCH_LABELS)
        return [Finding("note", "no row has a label", len(manifest), mend=f"{source}; without labels {WITHOUT_LABELS}")]
    found = []
    if unlabelled.any():
        ids = tuple(manifest.frame.loc[unlabelled, "image_id"])
        mend = LABEL_MENDS.get(manifest.source, FETCH_LABELS)
        mend += "; or take these rows out where labels are needed (classifier, its metrics)"
        found.append(Finding("warning", "rows without any label", len(ids), ids, mend))
    never = tuple(finding for finding in FINDINGS if labels[finding].isna().all())
    if never:
        found.append(Finding("note", "findings that this data set never labels", len(never), never))
    train = labels[manifest.frame["split"] == "train"]
    lacking = tuple(f for f in FINDINGS if f not in never and not (train[f] == 1).any())
    if lacking and len(train):
        mend = "fetch more of the data set; as it is these cannot be learnt, and are left out of the metrics"
        found.append(Finding("warning", "findings without a positive in train", len(lacking), lacking, mend))
    return found


def _views(manifest: Manifest) -> list[Finding]:
    # A row of text alone has no view to be known.
    pictured = manifest.frame[manifest.frame["image"] != ""]
    unknown = pictured["view"] == "unknown"
    if not unknown.any():
        return []
    share = float(unknown.mean())
    ids = tuple(pictured.loc[unknown, "image_id"])
    what = f"rows of unknown view ({share:.1%})"
    if share <= UNKNOWN_VIEWS:
        return [Finding("note", what, len(ids), ids)]
    mend = "add the views to the table where they are known, or train without the view as a condition"
    return [Finding("warning", what, len(ids), ids, mend)]


def _reports(manifest: Manifest) -> list[Finding]:
    studies = manifest.frame.drop_duplicates("study_id")
    texts = studies["report"]
    empty = texts == ""
    if empty.all():
        return [Finding("note", "no study has a report", len(studies))]
    found = []
    if empty.any():
        ids = tuple(studies.loc[empty, "study_id"])
        mend = "fetch the missing reports, take another section (--option section=first), or leave these studies out"
        found.append(Finding("warning", f"studies without a report ({empty.mean():.1%})", len(ids), ids, mend))
    short = ~empty & (texts.str.count(r"\S+") < SHORT_REPORT)
    if short.any():
        ids = tuple(studies.loc[short, "study_id"])
        mend = "read them in the source: where it is cut off fetch it again, else another section may say more"
        found.append(Finding("warning", f"reports of fewer than {SHORT_REPORT} words", len(ids), ids, mend))
    counts: pd.Series = texts[~empty].value_counts()
    text, number = str(counts.index[0]), int(counts.iloc[0])
    if number >= COMMON_STUDIES and number > COMMON_TEXT * len(studies):
        ids = tuple(studies.loc[texts == text, "study_id"])
        what = f"one and the same report in {number / len(studies):.0%} of the studies: {text[:60]!r}"
        mend = "see whether the table repeats one text by mistake; a set of one sentence teaches nothing"
        found.append(Finding("warning", what, number, ids, mend))
    return found
