"""OpenI / Indiana University reports (Demner-Fushman et al., JAMIA 2016): XML in an archive or Kaggle's tables, PNGs.

The collection says nothing of patients: each report is taken as a patient of its own. Labels come from the MeSH major
tags, see `openi_report`. Views come from Kaggle's projections or from a table that the user names, see `openi_views`.
"""

import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datamodules.layouts import openi_kaggle
from datamodules.layouts.openi_report import Report, Source, is_published_name, picture_key, tag_labels, tag_notes
from datamodules.layouts.openi_splits import assign_splits
from datamodules.layouts.openi_views import FRONTAL, merge_views, read_views
from datamodules.layouts.source import hashed_split, list_files, open_root
from datamodules.manifest import Manifest, Remark, make_manifest
from datamodules.reports.sections import Section, Sections, choose, clean

ARCHIVE = "NLMCXR_reports.tgz"
FOLDER = "ecgen-radiology"
EXPECTED = (
    f"{ARCHIVE} or {FOLDER}/*.xml, with pictures named <parentImage id>.png in any folder under it; "
    f"or {openi_kaggle.EXPECTED}"
)
PUBLISHED = {"images": 7470, "reports": 3955}
PICTURES = "fetch NLMCXR_png.tgz (or Kaggle's images) again"


def read(
    root: str | Path | None,
    *,
    images: bool = True,
    section: Section = "findings",
    without_report: Literal["drop", "keep"] = "drop",
    views: str | None = None,
    frontal: Literal["PA", "unknown"] = "PA",
    seed: int = 0,
    split_file: str | None = None,
) -> Manifest:
    """Read the reports and the pictures that they name.

    Args:
        root: the archive itself (it is read without unpacking), a folder with it or with `ecgen-radiology/`, or a
            folder with Kaggle's tables.
        images: False reads the reports alone: one row a named picture, image "".
        section: which section is the report, by the rules of `datamodules.reports.sections.choose`.
        without_report: whether a report without that section goes to `drops` or stays as a row with report "".
        views: a CSV of pictures and views, see `openi_views.read_views`; without it the archive's views are unknown.
        frontal: the view of a picture that is only known as frontal. "PA" is right for 93 % of the 2,140 frontal
            pictures whose DICOM header names a view; the captions do not tell the others.
        seed: of the split by patient, 80/10/10; the data set has no official one. Both editions split alike.
        split_file: a CSV of reports or pictures and their split instead, see `openi_splits.assign_splits`; what it
            does not name goes to `drops`.

    Returns:
        One row a picture on disk. Where no picture at all is on disk it is one row a report, image ""; a report that
        names no picture is such a row too.

    Raises:
        FileNotFoundError: when the root or the reports in it are missing.
        ValueError: when a report is not readable XML or has no uId, or a table is wrong, naming file and row.
    """
    for name, value, known in (
        ("without_report", without_report, ("drop", "keep")),
        ("frontal", frontal, ("PA", "unknown")),
    ):
        if value not in known:
            raise ValueError(f"layout_options.{name} is {value!r}; expected one of {list(known)}")
    path = open_root(root, layout="openi", expected=EXPECTED)
    kaggle = path.is_dir() and (path / openi_kaggle.REPORTS).is_file()
    source = openi_kaggle.read_tables(path) if kaggle else _read_archive(path)
    drops, notes = list(source.drops), list(source.notes)
    found = dict(source.views)
    if views is not None:
        tagged = read_views(views)
        found, wrong = merge_views(found, tagged)
        named = {picture_key(picture): picture for report in source.reports for picture in report.pictures}
        against = "layout_options.views contradicts indiana_projections.csv, which is kept"
        notes.append(Remark(against, tuple(named.get(key, key) for key in wrong), "warning", "look at the pictures"))
        strange = "named in layout_options.views and in no report"
        notes.append(Remark(strange, tuple(sorted(tagged.keys() - named.keys())), "note"))

    chosen, lost = _with_text(source.reports, section, keep=without_report == "keep")
    drops += lost
    if not chosen:
        raise ValueError(
            f"{path}: none of the {len(source.reports)} reports has the section {section!r}; set layout_options.section"
        )
    on_disk, odd = _pictures(path) if images else ({}, [])
    rows, lost, told = _rows(chosen, source.reports, on_disk, images=images)
    drops += lost
    notes += [*odd, *told]
    notes += _set_views(rows, found, frontal)
    notes += tag_notes([report for report, _, _ in chosen])
    if not rows:
        raise FileNotFoundError(
            f"layout openi: no report with the section {section!r} has a picture under {path}; {PICTURES}, "
            "or set layout_options.images to false"
        )
    if split_file is None:
        splits = hashed_split([row["patient_id"] for row in rows], seed=seed)
        rows = [row | {"split": split} for row, split in zip(rows, splits, strict=True)]
    else:
        rows, lost, told = assign_splits(rows, reports=source.reports, file=split_file)
        drops, notes = drops + lost, notes + told
    for row in rows:
        del row["caption"]
    try:
        return make_manifest(rows, source="openi", drops=drops, notes=notes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def recognise(root: Path) -> bool:
    """Whether this is the archive of reports, or a folder with it, unpacked or as Kaggle's tables."""
    if root.is_file():
        return root.name == ARCHIVE
    names = (ARCHIVE, openi_kaggle.REPORTS, openi_kaggle.PROJECTIONS)
    return any((root / name).is_file() for name in names) or root.name == FOLDER or (root / FOLDER).is_dir()


def published(root: Path) -> dict[str, int]:
    """The published counts of the archive or of Kaggle's edition."""
    return openi_kaggle.PUBLISHED if (root / openi_kaggle.REPORTS).is_file() else PUBLISHED


def _read_archive(path: Path) -> Source:
    reports: dict[str, Report] = {}
    repeated: list[str] = []
    for name, data in _documents(path):
        report = _parse(data, f"{path}: {name}")
        if report.study in reports:
            repeated.append(name)
        reports.setdefault(report.study, report)
    again = "a report of this uId was read already"
    return Source(list(reports.values()), {}, (Remark(again, tuple(repeated), "error", "remove the repeated file"),))


def _parse(data: bytes, name: str) -> Report:
    try:
        document = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"{name} is not readable XML ({error}); fetch the archive again") from error
    identifier = document.find("uId")
    study = identifier.get("id", "") if identifier is not None else ""
    if not study:
        raise ValueError(f"{name} has no <uId id=...>; expected a report of the NLMCXR archive")
    sections = {part.get("Label", "").lower(): clean(part.text or "") for part in document.iter("AbstractText")}
    pictures = document.findall("parentImage")
    return Report(
        study,
        sections.get("findings", ""),
        sections.get("impression", ""),
        tuple((tag.text or "").strip().lower() for tag in document.findall("MeSH/major")),
        next((caption for picture in pictures if (caption := (picture.findtext("caption") or "").strip())), ""),
        tuple(picture.get("id") or "?" for picture in pictures),
    )


def _documents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each report, in the order of their names."""
    archive = path / ARCHIVE if path.is_dir() else path
    if archive.is_file():
        contents: dict[str, bytes] = {}
        try:
            with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
                for member in tar:
                    stream = tar.extractfile(member) if member.name.endswith(".xml") else None
                    if stream is not None:
                        contents[member.name] = stream.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{archive} is not a readable tar archive ({error}); fetch it again") from error
        if not contents:
            raise FileNotFoundError(f"layout openi: {archive} holds no *.xml; expected {FOLDER}/*.xml in it")
        yield from sorted(contents.items())
        return
    folder = path / FOLDER if (path / FOLDER).exists() else path
    files = list_files(folder, suffixes=(".xml",))
    if not files:
        raise FileNotFoundError(f"layout openi: {path} holds no reports; expected {EXPECTED}")
    for name in files:
        with (folder / name).open("rb") as file:
            yield name, file.read()


def _with_text(
    reports: list[Report], section: Section, *, keep: bool
) -> tuple[list[tuple[Report, str, str]], list[Remark]]:
    """(report, text, rule) of those that are kept, and what is said of those that are not."""
    chosen: list[tuple[Report, str, str]] = []
    other: list[str] = []
    empty: list[str] = []
    for report in reports:
        text, rule = choose(Sections(report.findings, report.impression), section)
        if text or keep:
            chosen.append((report, text, rule))
        else:
            (other if report.findings or report.impression else empty).append(report.study)
    stay = "layout_options.without_report=keep keeps the pictures"
    return chosen, [
        Remark(f"no section {section!r}", tuple(other), "warning", f"layout_options.section=first, or {stay}"),
        Remark("neither findings nor an impression", tuple(empty), "warning", stay),
    ]


def _pictures(path: Path) -> tuple[dict[str, str], list[Remark]]:
    """`picture_key` → file, of all pictures under a folder, or beside an archive and in its folder images/."""
    if path.is_dir():
        names = list_files(path)
    else:
        path = path.parent
        beside = [file.name for file in path.iterdir() if is_published_name(file.name) and "." in file.name]
        names = sorted([*beside, *(f"images/{name}" for name in list_files(path / "images"))])
    found: dict[str, str] = {}
    twice: list[str] = []
    for name in names:
        key = picture_key(name)
        if key in found:
            twice.append(name)
        found.setdefault(key, str(path / name))
    again = "a second file of one picture; the first is taken"
    return found, [Remark(again, tuple(twice), "warning", "remove one of the two files")]


def _rows(
    chosen: list[tuple[Report, str, str]], reports: list[Report], on_disk: dict[str, str], *, images: bool
) -> tuple[list[dict], list[Remark], list[Remark]]:
    """The rows, what is dropped and what is noted of the pictures."""
    named = {picture_key(picture): report.study for report in reports[::-1] for picture in report.pictures}
    present = images and not named.keys().isdisjoint(on_disk)
    rows: list[dict] = []
    missing, again, bare, alone = [], [], [], []
    for report, text, rule in chosen:
        row: dict[str, Any] = {"study_id": report.study, "patient_id": report.study, "report": text}
        row |= {"report_source": rule, "caption": report.caption, **tag_labels(report.tags)}
        own = [p for p in report.pictures if named[picture_key(p)] == report.study]
        again += [p for p in report.pictures if p not in own]
        if images and not present:
            bare.append(report.study)
        elif not report.pictures:
            alone.append(report.study)
        else:
            there = [p for p in own if not images or picture_key(p) in on_disk]
            missing += [p for p in own if p not in there]
            rows += [row | {"image_id": p, "image": on_disk.get(picture_key(p), "")} for p in there]
            continue
        rows.append(row | {"image_id": report.study, "image": ""})
    orphans = sorted(on_disk[key] for key in on_disk.keys() - named.keys())
    alike = f"{PICTURES}, or read the reports alone: layout_options.images=false"
    drops = [
        Remark("no file of the picture that a report names", tuple(missing), "error", alike),
        Remark("a picture that an earlier report names too", tuple(again), "error", "remove it from one report"),
    ]
    notes = [
        Remark("no picture of the set is on disk: the reports alone are read", tuple(bare), "warning", PICTURES),
        Remark("a report that names no picture: a row of text alone", tuple(alone), "note"),
        Remark("a picture that no report names", tuple(orphans), "warning", "remove the file, or fetch its report"),
    ]
    return rows, drops, notes


def _set_views(rows: list[dict], views: dict[str, str], frontal: str) -> list[Remark]:
    """Give each row its view; says what was inferred, is unknown, or is doubtful."""
    inferred, unknown, studies = [], [], dict[str, list[dict]]()
    for row in rows:
        view = views.get(picture_key(row["image_id"]), "unknown")
        if view == FRONTAL:
            view = frontal
            inferred.append(row["image_id"])
        # A row of text alone has no view to be known.
        elif view == "unknown" and row["image_id"] != row["study_id"]:
            unknown.append(row["image_id"])
        row["view"] = view
        studies.setdefault(row["study_id"], []).append(row)
    doubtful = [
        row["image_id"]
        for study in studies.values()
        if len(study) > 1 and "lat" in study[0]["caption"].lower() and all(row["view"] in ("PA", "AP") for row in study)
        for row in study
    ]
    finer = "name a CSV of PA and AP in layout_options.views"
    return [
        Remark(f"a frontal picture, taken as {frontal}", tuple(inferred), "note", finer),
        Remark(
            "view unknown",
            tuple(unknown),
            "warning",
            "name a CSV of views in layout_options.views, e.g. Kaggle's indiana_projections.csv",
        ),
        Remark(
            "all pictures of the study are PA or AP, though its caption names a lateral",
            tuple(doubtful),
            "warning",
            "take Kaggle's indiana_projections.csv as layout_options.views, or look at the pictures",
        ),
    ]
