"""Fixtures that the tests of the layouts share."""

import shutil
from pathlib import Path

import pytest

from datamodules.manifest import Manifest
from datamodules.phantom import disk
from tests.datamodules.layouts.mimic_case import SEED, STUDIES


@pytest.fixture(scope="session")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Phantoms as MIMIC-CXR with a folder of reports and plain tables, and what they must give. Read-only for tests."""
    out = tmp_path_factory.mktemp("mimic") / "data"
    return out, disk.write("mimic_cxr", out, studies=STUDIES, seed=SEED, size=32, reports="folder", gz=False)


@pytest.fixture
def mimic_copy(mimic: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy of `mimic` that the test may damage."""
    return Path(shutil.copytree(mimic[0], tmp_path / "copy"))
