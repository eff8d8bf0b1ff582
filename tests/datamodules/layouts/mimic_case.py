"""What the tests of MIMIC-CXR share: the phantoms that are written, and reading and writing one of the tables."""

from pathlib import Path

import pandas as pd

from datamodules.manifest import Remark
from datamodules.phantom.disk import common
from datamodules.phantom.disk.mimic_cxr import Written, plan

STUDIES = 12
SEED = 3


def plans(studies: int = STUDIES, seed: int = SEED) -> list[Written]:
    return [plan(one) for one in common.phantoms(studies=studies, seed=seed, size=16)]


def table(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / f"mimic-cxr-2.0.0-{name}.csv", dtype=str, keep_default_na=False)


def save(root: Path, name: str, frame: pd.DataFrame) -> None:
    frame.to_csv(root / f"mimic-cxr-2.0.0-{name}.csv", index=False)


def remark(remarks: tuple[Remark, ...], reason: str) -> Remark:
    found = [r for r in remarks if r.reason == reason]
    assert len(found) == 1, [r.reason for r in remarks]
    return found[0]
