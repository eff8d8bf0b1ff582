"""Every planted fault is found, at its level and with its mend; the undamaged folder does not show it."""

import os
import re
import shutil
from pathlib import Path

import pytest

from datamodules.doctor.examine import examine
from datamodules.doctor.finding import Diagnosis, Finding
from datamodules.phantom import disk
from tests.datamodules.doctor.faults import PICTURES, Fault
from tests.datamodules.doctor.faults_more import MORE
from tests.datamodules.doctor.faults_tables import FAULTS

ALL = [*PICTURES, *FAULTS, *MORE]
SIZE = 80  # above what counts as a thumbnail


class Folders:
    """Folders of each layout and variant, written once, with what the doctor says of them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.known: dict[str, tuple[Path, Diagnosis]] = {}

    def fresh(self, fault: Fault) -> tuple[Path, Diagnosis]:
        key = f"{fault.layout} {sorted(fault.options.items())} {sorted(fault.read.items())} {fault.studies}"
        if key not in self.known:
            out = self.base / str(len(self.known))
            disk.write(fault.layout, out, studies=fault.studies, seed=3, size=SIZE, **fault.options)
            self.known[key] = out, examine(str(out), options=dict(fault.read), state=self.base / "state")
        return self.known[key]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("fresh"))


def matching(diagnosis: Diagnosis, fault: Fault) -> list[Finding]:
    return [f for f in diagnosis.findings if f.level == fault.level and re.search(fault.what, f.what)]


@pytest.mark.parametrize("fault", ALL, ids=str)
def test_a_planted_fault_is_found(fault, folders, tmp_path):
    if fault.layout == "vindr":
        pytest.importorskip("pydicom")
    source, before = folders.fresh(fault)
    assert before.count("error") == 0, [f for f in before.findings if f.level == "error"]
    root = tmp_path / "damaged"
    shutil.copytree(source, root)
    fault.damage(root)
    layout = fault.layout if fault.named else None
    after = examine(str(root), layout=layout, options=dict(fault.read), decode=fault.decode, state=tmp_path / "s")
    if fault.decode:
        first = examine(str(root), layout=layout, options=dict(fault.read), state=tmp_path / "first")
        assert not matching(first, fault), "it is found without decoding all"
    found = matching(after, fault)
    assert found, [(f.level, f.what, f.mend) for f in after.findings]
    assert any(re.search(fault.mend, f.mend) for f in found), found
    # It was not said of the undamaged folder too, or of fewer.
    counts = {f.what: f.count for f in matching(before, fault)}
    assert any(f.count > counts.get(f.what, 0) for f in found), found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_without_permission(folders, tmp_path):
    source, _ = folders.fresh(next(f for f in ALL if f.layout == "table" and not f.options))
    shutil.copytree(source, tmp_path / "damaged")
    next((tmp_path / "damaged" / "images").iterdir()).chmod(0)
    (found,) = [f for f in examine(str(tmp_path / "damaged"), state=tmp_path / "s").findings if f.level == "error"]
    assert "may not be read" in found.what
    assert "chmod" in found.mend


def test_there_are_many_kinds_of_faults_and_every_layout_has_some():
    assert len({fault.name for fault in ALL}) >= 20
    assert {fault.layout for fault in ALL} == set(disk.NAMES)
    assert len({str(fault) + str(fault.options) for fault in ALL}) == len(ALL)
