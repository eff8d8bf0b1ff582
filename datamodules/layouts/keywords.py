"""Keyword sets that `python -m datamodules keywords` drew, or a user wrote, as studies without pictures and reports.

What stands in the column `report` is no report but the set, as `Keywords.prompt` writes it: "small left pleural
effusion ; heart". The prompter's mode "asked" writes texts from it, which then stand in its place with `prompts`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.layouts.source import open_root
from datamodules.manifest import Manifest, make_manifest
from datamodules.reports.keyword_rows import labels_of_keywords, read_rows
from datamodules.reports.keywords import Keywords

EXPECTED = "a JSON Lines file that `python -m datamodules keywords` wrote, or be it"
NAME = "keywords.jsonl"


def read(root: str | Path | None) -> Manifest:
    """Read the sets.

    Args:
        root: the file, or a folder with one of that name.

    Returns:
        One row a set, all in "test", since nothing should be learnt from them; `report_source` is "keywords", the
        labels are the set's. The patient of a counterfactual is the study that was changed.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and line, see `datamodules.reports.keyword_rows.read_rows`; also for labels that the
            keywords contradict, and for a pair that is not in the file; or for an empty file.
    """
    path = open_root(root, layout="keywords", expected=EXPECTED)
    path = path / NAME if path.is_dir() else path
    sets = read_rows(path)
    if not sets:
        raise ValueError(f"{path}: no keyword set in it; draw some with `python -m datamodules keywords`")
    _check(sets, path)
    rows = [
        {
            "image": "",
            "image_id": one["study_id"],
            "study_id": one["study_id"],
            "patient_id": one["pair"]["study_id"] if one["pair"] else one["study_id"],
            "view": one["view"] or "unknown",
            "split": "test",
            "report": Keywords(tuple(one["anatomy"]), tuple(one["pathology"])).prompt(),
            "report_source": "keywords",
            **one["labels"],
        }
        for one in sets
    ]
    try:
        return make_manifest(rows, source="keywords")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check(sets: Sequence[dict[str, Any]], path: Path) -> None:
    """Refuse what no line shows by itself: labels beside keywords that say otherwise, and pairs without their study."""
    lines = [number for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    studies = {one["study_id"] for one in sets}
    for number, one in zip(lines, sets, strict=True):
        expected = labels_of_keywords(Keywords(tuple(one["anatomy"]), tuple(one["pathology"])))
        # Null is "unknown" in either: it contradicts nothing.
        wrong = [f for f, found in one["labels"].items() if None not in (found, expected[f]) and found != expected[f]]
        if wrong:
            raise ValueError(
                f"{path}, line {number}: the label {wrong[0]} is {one['labels'][wrong[0]]}, expected "
                f"{expected[wrong[0]]} by the pathology {one['pathology']} ({len(wrong)} labels contradict it); mend "
                "the keywords, or leave the labels out, which are then taken from them"
            )
        if one["pair"] and one["pair"]["study_id"] not in studies:
            raise ValueError(
                f"{path}, line {number}: pair names the study {one['pair']['study_id']!r}, expected one of the "
                f"{len(studies)} of this file (first: {sets[0]['study_id']!r}); keep the line that was changed, or set "
                "pair to null"
            )


def recognise(root: Path) -> bool:
    """Whether it is a file whose first line is a keyword set; a folder may hold one beside a data set."""
    if not root.is_file() or not root.name.endswith(".jsonl"):
        return False
    with root.open(encoding="utf-8") as file:
        try:
            first = json.loads(file.readline())
        except json.JSONDecodeError:
            return False
    return isinstance(first, dict) and {"study_id", "anatomy", "pathology"} <= first.keys()
