"""What the doctor hands on: a finding, and the diagnosis that holds all of them."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from datamodules.manifest import Level, Manifest

if TYPE_CHECKING:
    from datamodules.doctor.pictures import Pass

LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing about the data set that a user should know.

    Attributes:
        level: "error" where training on it would be wrong or fail, "warning" where something is lost or doubtful,
            "note" where nothing needs doing.
        what: what was found.
        count: how many it concerns.
        ids: which; image ids, or paths under the root where it is about files.
        mend: the command or step that mends it; never empty for errors and warnings.
    """

    level: Level
    what: str
    count: int = 1
    ids: tuple[str, ...] = ()
    mend: str = ""

    def __post_init__(self) -> None:
        if self.level != "note" and not self.mend:
            raise ValueError(f"a finding of level {self.level} needs a mend: {self.what}")


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All that the doctor found.

    Attributes:
        root: the folder, file or URL as it was given.
        layout: the layout that it was read with; "" where none was recognised.
        findings: errors first, then warnings, then notes.
        manifest: what the reader gave; None where it could not read.
        looked: the pass over the pictures; None where there was none to make.
        published: the published counts of the layout.
    """

    root: str
    layout: str
    findings: tuple[Finding, ...]
    manifest: Manifest | None = None
    looked: "Pass | None" = None
    published: dict[str, int] = dataclasses.field(default_factory=dict)

    def count(self, level: Level) -> int:
        """How many findings have this level."""
        return sum(finding.level == level for finding in self.findings)


def by_level(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; within a level in the order in which they were found."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))
