"""Reports written by the prompter, in place of a data set's own."""

import dataclasses
import hashlib
import json
from pathlib import Path

from datamodules.manifest import Manifest


def with_prompts(manifest: Manifest, path: str | Path) -> Manifest:
    """The manifest with prompter-written reports in place of its own.

    Args:
        manifest: any.
        path: JSON Lines with study_id and report, each study at most once. Studies without a line keep their report.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and line, for what is no such line; or when no study of the manifest is in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"prompts {path} do not exist; write them with the prompter's `predict`")
    content = path.read_bytes()
    reports: dict[str, str] = {}
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
    frame = manifest.frame.copy()
    written = frame["study_id"].map(reports)
    given = written.notna()
    if not given.any():
        example = next(iter(reports), "none")
        raise ValueError(
            f"{path}: none of its {len(reports)} studies (first: {example}) is in this data set (first: "
            f"{frame['study_id'].iat[0]}); write the prompts again for this data set"
        )
    frame.loc[given, "report"] = written[given]
    frame.loc[given, "report_source"] = f"prompter:{hashlib.sha256(content).hexdigest()[:12]}"
    return dataclasses.replace(manifest, frame=frame)
