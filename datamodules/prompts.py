"""Reports written by the prompter, in place of a data set's own."""

import dataclasses
import hashlib
import json
from pathlib import Path

from datamodules.manifest import Manifest, Remark

FLAGGED = "the prompter flagged the text it wrote: something is missing, added or odd in it"
WRITTEN = "prompter:"  # begins the report_source of what it wrote
RAW = "keywords"  # the report_source of a keyword set that stands in place of a report


def with_prompts(manifest: Manifest, path: str | Path, *, verified_only: bool = False) -> Manifest:
    """The manifest with prompter-written reports in place of its own, and in its notes the flagged ones.

    Args:
        manifest: any.
        path: JSON Lines with study_id and report, each study at most once, and perhaps whether it is verified. Studies
            without a line keep their report.
        verified_only: each line must say whether it is verified, since the flagged ones are to be left out.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and line, for what is no such line; when no study of the manifest is in the file; or
            when a keyword set has no line, which is no report.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"prompts {path} do not exist; write them with the prompter's `predict`")
    content = path.read_bytes()
    reports: dict[str, str] = {}
    flagged: set[str] = set()
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
    frame.loc[given, "report_source"] = f"{WRITTEN}{hashlib.sha256(content).hexdigest()[:12]}"
    here = tuple(study for study in frame["study_id"].drop_duplicates() if study in flagged)
    mend = "data.init_args.prompts_verified=true leaves them out"
    notes = (Remark(FLAGGED, here, "warning", mend),) if here else ()
    return dataclasses.replace(manifest, frame=frame, notes=(*manifest.notes, *notes))


def flagged_studies(manifest: Manifest) -> frozenset[str]:
    """The studies whose text the prompter flagged, by the notes."""
    return frozenset(study for note in manifest.notes if note.reason == FLAGGED for study in note.ids)
