"""Where the reports of MIMIC-CXR come from: a folder of texts, the published zip, or a table of sections.

The folder and the zip hold `files/p10/p10000032/s50414267.txt`, beside the folders of the studies. The table is what
the published code writes of them: study, impression, findings, last_paragraph, comparison. Its column `comparison` is
not read: it holds the statement of a few studies only, and of the others the date of an earlier picture.

That code names the studies whose statement stands elsewhere; `datamodules/reports/mimic_rules.json` lists them. Its
table leaves these studies out.
"""

import dataclasses
import functools
import importlib.resources
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from datamodules.layouts.source import as_path, find_file, list_files, read_csv, with_gz
from datamodules.manifest import Level, Remark
from datamodules.progress import bar
from datamodules.reports.sections import Section, Sections, choose, clean, split_sections

ARCHIVE = "mimic-cxr-reports.zip"
TABLES = with_gz("mimic_cxr_sectioned.csv")
COLUMNS = ("study", "impression", "findings", "last_paragraph")
EXPECTED = f"reports as files/p10/p10000032/s50414267.txt, as {ARCHIVE} or as {TABLES[0]}"
MANY = 5000  # reports; from here on a progress bar is shown
REPORT = re.compile(r"(?:^|/)(p1\d/p1\d{7}/s\d{8})\.txt$")

# Why a study has no text, how bad that is, and what the user can do about it.
LOST: dict[str, tuple[Level, str]] = {
    "no report of this study": ("error", "fetch the study's s*.txt, or the zip, again with MIMIC-CXR"),
    "no row of this study in the table of sections": (
        "warning",
        f"the published code leaves out the studies that have rules of their own; give {ARCHIVE} as option reports",
    ),
    "report is damaged": ("error", "fetch the zip or the study's s*.txt again with MIMIC-CXR"),
    "report is not UTF-8": ("error", "fetch the report again, or save it as UTF-8"),
    "report is empty": ("error", "fetch the report again"),
    "report states nothing, as the published rules say": ("warning", "set without_report: keep to use its pictures"),
}
MISSING, UNLISTED, DAMAGED, UNDECODABLE, EMPTY, SILENT = LOST


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the reports are.

    Attributes:
        kind: what it is; "none" where no reports are wanted.
        path: the folder that holds `p10/`, the zip, or the table.
        names: of a folder the texts in it, relative to `path`.
        notes: why this place, where there were two.
    """

    kind: Literal["folder", "zip", "table", "none"]
    path: Path
    names: tuple[str, ...] = ()
    notes: tuple[Remark, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reports:
    """What the reports say. A study is named as its place in the data set, "p10/p10000032/s50414267".

    Attributes:
        texts: study → (report, rule); ("", "none") where the report lacks the section.
        lost: studies without a text, by a reason of LOST.
        orphans: reports of studies that the data set does not name, as the source calls them.
        repeated: studies with a second report; the first was taken.
    """

    texts: dict[str, tuple[str, str]]
    lost: dict[str, list[str]]
    orphans: list[str]
    repeated: list[str]


def locate(root: Path, *, named: str | Path | None, texts: Sequence[str]) -> Place:
    """Find the reports.

    Args:
        root: of the data set.
        named: the folder, zip or table that the user named; "none" for no reports; None looks for the folder and the
            zip under the root, of which the one with more reports is taken (a zip may be unpacked in part), and then
            for the table.
        texts: the `*.txt` below `root`/files, relative to it.

    Raises:
        FileNotFoundError: when there are none, saying where they may be.
    """
    if named is not None and str(named) == "none":
        return Place("none", root)
    mend = "fetch it with MIMIC-CXR, name its place with the option reports, or go without by reports: none"
    if named is None:
        archive, table = find_file(root, [ARCHIVE]), find_file(root, TABLES)
        if unpacked := _count(texts):
            place = Place("folder", root / "files", tuple(texts))
            return place if archive is None else _fuller(place, archive, unpacked=unpacked)
        if archive is None and table is None:
            raise FileNotFoundError(f"layout mimic_cxr: {root} has no reports; expected {EXPECTED}; {mend}")
        return Place("zip", archive) if archive is not None else Place("table", table or root)
    path = as_path(named)
    if not path.exists():
        raise FileNotFoundError(f"layout mimic_cxr: reports {named} does not exist; expected {EXPECTED}; {mend}")
    if path.is_file():
        return Place("zip" if path.name.endswith(".zip") else "table", path)
    folder = path / "files" if (path / "files").exists() else path
    names = list_files(folder, suffixes=(".txt",))
    if not any(map(REPORT.search, names)):
        raise FileNotFoundError(f"layout mimic_cxr: reports {named} holds no {EXPECTED.split(',')[0]}; {mend}")
    return Place("folder", folder, tuple(names))


def _fuller(folder: Place, archive: Path, *, unpacked: int) -> Place:
    """The folder or the zip, whichever has more reports; of two with the same the folder, whose texts may be mended."""
    try:
        with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
            packed = _count(opened.namelist())
    except zipfile.BadZipFile as error:
        reason = f"files/ was read: {archive.name} beside it is not a readable zip ({error})"
        mend = f"fetch {archive.name} again, or take it away if all of it is in files/"
        return dataclasses.replace(folder, notes=(Remark(reason, (archive.name,), "warning", mend),))
    counts = f"files/ holds {unpacked:,} reports and {archive.name} {packed:,}"
    if packed > unpacked:
        mend = f"unpack {archive.name} whole, or name the place that you mean with layout_options.reports"
        return Place("zip", archive, notes=(Remark(f"{counts}: the zip was read", ("files/",), "warning", mend),))
    return dataclasses.replace(folder, notes=(Remark(f"{counts}: files/ was read", (archive.name,), "note"),))


def _count(names: Iterable[str]) -> int:
    """How many of these are a report's."""
    return sum(REPORT.search(name) is not None for name in names)


def read_reports(place: Place, *, wanted: Sequence[str], known: Collection[str], section: Section) -> Reports:
    """Read the reports of some studies, with a progress bar on standard error where they are many.

    Args:
        place: from `locate`.
        wanted: the studies, each once.
        known: all studies that the data set names.
        section: as for `datamodules.reports.sections.choose`.

    Raises:
        ValueError: naming the zip or the table, when it cannot be read at all.
    """
    if place.kind == "none":
        return Reports(dict.fromkeys(wanted, ("", "none")), {}, [], [])
    if place.kind == "table":
        return _of_table(place.path, wanted=wanted, known=known, section=section)
    texts: dict[str, tuple[str, str]] = {}
    lost: dict[str, list[str]] = {reason: [] for reason in LOST}
    with _opened(place) as (named, load):
        members, orphans, repeated = _by_study(named)
        chosen = set(wanted)
        orphans += [f"{study}.txt" for study in members if study not in known]
        lost[MISSING] += [study for study in wanted if study not in members]
        # In the order of the source: a zip is read from front to back.
        studies = [study for study in members if study in chosen]
        hidden = len(studies) < MANY
        for study in bar(iterable=studies, desc="reports", unit="report", disable=hidden):
            name = study.rsplit("/", 1)[-1]
            try:
                text = load(members[study]).decode().replace("\r\n", "\n")
            except UnicodeDecodeError:
                lost[UNDECODABLE].append(study)
            except (zipfile.BadZipFile, zlib.error, EOFError):
                lost[DAMAGED].append(study)
            else:
                if not text.strip():
                    lost[EMPTY].append(study)
                elif is_silent(name):
                    lost[SILENT].append(study)
                else:
                    texts[study] = of_text(text, study=name, section=section)
    return Reports(texts, lost, orphans, repeated)


def of_text(text: str, *, study: str, section: Section) -> tuple[str, str]:
    """The part of a report that trains, and the rule that gave it.

    Args:
        text: as published; the rules of some studies count its characters.
        study: as "s50414267".
        section: as for `datamodules.reports.sections.choose`; a study with a rule of its own gives what that names.

    Returns:
        As of `choose`, or with the rule "rule:span" or for instance "rule:indication".
    """
    rule = rules().get(study, {})
    if "span" in rule:
        start, end = rule["span"]
        part, name = clean(text[start:end]), "rule:span"
    else:
        sections = split_sections(text)
        part, name = sections.other.get(rule.get("section", ""), ""), f"rule:{rule.get('section')}"
        if not part:
            return choose(sections, section)
    return (part, name) if part else choose(split_sections(text), section)


@functools.cache
def rules() -> dict[str, dict[str, Any]]:
    """Study → {"section": name} or {"span": [start, end]}, from mimic_rules.json."""
    file = importlib.resources.files("datamodules.reports") / "mimic_rules.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["rules"])


def is_silent(study: str) -> bool:
    """Whether the rules say that the report states nothing."""
    return bool(rules().get(study, {}).get("span") == [0, 0])


@contextmanager
def _opened(place: Place) -> Iterator[tuple[list[tuple[str, Any]], Callable[[Any], bytes]]]:
    """Name and member of each text, in the order of the source, and what loads a member."""
    if place.kind == "folder":
        yield [(name, place.path / name) for name in place.names], _load
        return
    try:
        with place.path.open("rb") as file, zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            named = [(info.filename, info) for info in infos if info.filename.endswith(".txt")]
            if not any(REPORT.search(name) for name, _ in named):
                raise ValueError(f"{place.path}: holds no files/p10/p10000032/s50414267.txt; fetch {ARCHIVE} again")
            yield named, archive.read
    except zipfile.BadZipFile as error:
        raise ValueError(f"{place.path}: is not a readable zip ({error}); fetch {ARCHIVE} again") from error


def _by_study(named: list[tuple[str, Any]]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Study → member; the names that are no study's; the studies that come twice."""
    members: dict[str, Any] = {}
    strays: list[str] = []
    repeated: list[str] = []
    for name, member in named:
        match = REPORT.search(name)
        if match is None:
            strays.append(name)
        elif match[1] in members:
            repeated.append(match[1])
        else:
            members[match[1]] = member
    return members, strays, repeated


def _load(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read()


def _of_table(path: Path, *, wanted: Sequence[str], known: Collection[str], section: Section) -> Reports:
    table = read_csv(path, columns=COLUMNS)
    # "s50414267" as the published code writes it, or the number alone.
    table.index = "s" + table["study"].str.removeprefix("s")
    repeated = table.index.duplicated()
    first = table[~repeated]
    names = {study.rsplit("/", 1)[-1]: study for study in known}
    orphans = [name for name in first.index if name not in names]
    found: dict[str, tuple[str, str]] = {}
    columns = (first.index, *(first[column] for column in ("findings", "impression", "last_paragraph")))
    for name, findings, impression, last in zip(*columns, strict=True):
        found[name] = choose(Sections(clean(findings), clean(impression), clean(last)), section)
    texts = {study: found[name] for study in wanted if (name := study.rsplit("/", 1)[-1]) in found}
    lost = {UNLISTED: [study for study in wanted if study not in texts]}
    return Reports(texts, lost, orphans, sorted(set(table.index[repeated])))
