"""Pictures that are the same file twice, byte for byte: across splits, across patients, within a patient.

Fingerprints (size, first and last kB) pick the candidates; whole files are compared before anything is said. A picture
that was saved anew, or a DICOM with another header, is another file and is not found.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from datamodules.doctor.finding import Finding
from datamodules.doctor.headers import whole_digest
from datamodules.doctor.pictures import REMOTE_THREADS, Pass, granted_cores
from datamodules.images import PHANTOM
from datamodules.manifest import Level, Manifest


def duplicates(manifest: Manifest, looked: Pass, *, name: Callable[[str], str]) -> list[Finding]:
    """The findings.

    Args:
        manifest: the rows whose pictures `looked` holds.
        looked: the pass.
        name: shortens a path for the report.
    """
    on_disk = (manifest.frame["image"] != "") & ~manifest.frame["image"].str.startswith(PHANTOM)
    rows = manifest.frame.loc[on_disk, ["image", "patient_id", "split"]]
    numbers, _ = pd.factorize(rows["image"])
    same = _same_files(looked)
    groups = pd.Series(numbers, index=rows.index).map(same).fillna(-1).to_numpy(dtype=np.int64)
    # Rows that name one and the same file are a group too.
    groups = np.where(groups < 0, numbers + len(looked.images), groups)
    repeated = pd.Series(groups, index=rows.index).duplicated(keep=False).to_numpy()
    kinds: dict[str, list[str]] = {"splits": [], "patients": [], "one": []}
    for _, group in rows[repeated].groupby(groups[repeated]):
        kind = "splits" if group["split"].nunique() > 1 else "patients" if group["patient_id"].nunique() > 1 else "one"
        kinds[kind].append(" = ".join(name(image) for image in group["image"]))
    found = []
    if kinds["splits"]:
        mend = "find out whose picture it is and take the other rows out: a model is tested on what it was trained on"
        found.append(_finding("error", "the same picture in several splits: a leak", kinds["splits"], mend))
    if kinds["patients"]:
        mend = "find out whose picture it is and take the other rows out"
        found.append(_finding("error", "the same picture for several patients", kinds["patients"], mend))
    if kinds["one"]:
        mend = "take the repeated rows out, or know that this picture counts more than once"
        found.append(_finding("warning", "the same picture more than once for one patient", kinds["one"], mend))
    return found


def _finding(level: Level, what: str, ids: list[str], mend: str) -> Finding:
    return Finding(level, what, len(ids), tuple(ids), mend)


def _same_files(looked: Pass) -> dict[int, int]:
    """Number of each picture that equals another → number of the first of its kind."""
    order = np.argsort(looked.mark, kind="stable")
    marks = looked.mark[order]
    equal = np.zeros(len(marks), bool)
    equal[1:] |= marks[1:] == marks[:-1]
    equal[:-1] |= marks[1:] == marks[:-1]
    candidates = [int(number) for number in np.sort(order[equal]) if looked.size[number] > 0]
    if not candidates:
        return {}
    remote = "://" in looked.images[candidates[0]]
    first: dict[tuple[int, str], int] = {}
    same: dict[int, int] = {}
    # Hashing and reading release the interpreter's lock, so threads do.
    with ThreadPoolExecutor(REMOTE_THREADS if remote else granted_cores()) as threads:
        digests = threads.map(whole_digest, [looked.images[number] for number in candidates])
        for number, digest in zip(candidates, digests, strict=True):
            same[number] = first.setdefault((int(looked.size[number]), digest), number)
    return same
