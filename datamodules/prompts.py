"""Reports in place of a data set's own: written by the prompter, or of other patients with the same labels."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pandas as pd

from datamodules.manifest import Manifest, Remark

FLAGGED = "the prompter flagged the text it wrote: something is missing, added or odd in it"
WRITTEN = "prompter:"  # begins the report_source of what it wrote
MATCHED = "matched"  # begins the report_source of another patient's report: real text, but not of this image
RAW = "keywords"  # the report_source of a keyword set that stands in place of a report


def with_prompts(manifest: Manifest, path: str | Path, *, verified_only: bool = False) -> Manifest:
    """The manifest with other reports in place of its own, and in its notes the flagged ones.

    Args:
        manifest: any.
        path: JSON Lines with study_id and report, each study at most once, and perhaps whether it is verified. Studies
            without a line keep their report. A line of `match-reports` has the source "matched" and the split that its
            text serves.
        verified_only: each line must say whether it is verified, since the flagged ones are to be left out.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and line, for what is no such line; when no study of the manifest is in the file; when
            a matched text serves another split than its study's; or when a keyword set has no line, which is no report.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"prompts {path} do not exist; write them with the prompter's `predict`, or with `python -m datamodules "
            "match-reports`"
        )
    content = path.read_bytes()
    reports: dict[str, str] = {}
    flagged: set[str] = set()
    matched: dict[str, object] = {}
    for number, line in enumerate(content.decode().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            study, report = row["study_id"], row["report"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: line {number}: expected a JSON object with study_id and report, found {line[:80]!r}"
            ) from error
        if study in reports:
            raise ValueError(f"{path}: line {number}: study {study} is given twice; keep one report a study")
        if not str(report).strip():
            raise ValueError(f"{path}: line {number}: study {study} has an empty report; remove the line")
        reports[study] = str(report)
        verified = row.get("verified")
        if verified is None and verified_only:
            raise ValueError(
                f"{path}: line {number}: study {study} does not say whether its text is verified; write the prompts "
                "with the prompter's `predict`, or set data.init_args.prompts_verified to false"
            )
        if not isinstance(verified, bool | None):
            raise ValueError(f"{path}: line {number}: verified is {verified!r}, expected true or false")
        if verified is False:
            flagged.add(study)
        if row.get("source") == MATCHED:
            matched[study] = row.get("split")
    frame = manifest.frame.copy()
    written = frame["study_id"].map(reports)
    given = written.notna()
    if not given.any():
        example = next(iter(reports), "none")
        raise ValueError(
            f"{path}: none of its {len(reports)} studies (first: {example}) is in this data set (first: "
            f"{frame['study_id'].iat[0]}); write the prompts again for this data set"
        )
    raw = frame.loc[~given & (frame["report_source"] == RAW), "study_id"].drop_duplicates()
    if len(raw):
        raise ValueError(
            f"{path}: {len(raw)} of {frame['study_id'].nunique()} keyword sets have no text in it (first: "
            f"{raw.iat[0]}), and the words themselves are no report; write their texts with the prompter's `predict` "
            "(-c configs/experiment/prompter-keywords.yaml), or take these sets out of the keywords file"
        )
    frame.loc[given, "report"] = written[given]
    _check_splits(matched, frame, path=path)
    digest = hashlib.sha256(content).hexdigest()[:12]
    frame.loc[given, "report_source"] = f"{WRITTEN}{digest}"
    frame.loc[frame["study_id"].isin(matched), "report_source"] = f"{MATCHED}:{digest}"
    here = tuple(study for study in frame["study_id"].drop_duplicates() if study in flagged)
    mend = "data.init_args.prompts_verified=true leaves them out"
    notes = (Remark(FLAGGED, here, "warning", mend),) if here else ()
    return dataclasses.replace(manifest, frame=frame, notes=(*manifest.notes, *notes))


def _check_splits(matched: dict[str, object], frame: pd.DataFrame, *, path: Path) -> None:
    """Refuse matched texts of other splits: a text that is tested may then have been trained on."""
    here = frame.loc[frame["study_id"].isin(matched), ["study_id", "split"]]
    moved = here[here["split"] != here["study_id"].map(matched)]
    if len(moved):
        study, split = moved.iloc[0]
        raise ValueError(
            f"{path}: the text of study {study} serves the split {matched[study]!r}, and the study is in {split!r} "
            f"({moved['study_id'].nunique()} studies are elsewhere); match the reports again with the layout options "
            "of this run, which `-c <its config>` reads"
        )


def flagged_studies(manifest: Manifest) -> frozenset[str]:
    """The studies whose text the prompter flagged, by the notes."""
    return frozenset(study for note in manifest.notes if note.reason == FLAGGED for study in note.ids)
