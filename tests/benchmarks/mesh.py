"""What OpenI's annotators tagged against what is extracted: ten findings, sides and zones.

The tags (MeSH headings with qualifiers, e.g. `Opacity/lung/base/left/mild`) were set by people who read findings and
impression of each report, so both sections are read here. They cover the whole report and say nothing of negation: a
tag is "present", no tag is "not present". `FINDINGS` says which headings count as which finding and why; it was chosen
on reports with an odd number alone.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.layouts.openi import _read_archive
from datamodules.layouts.openi_report import NO_INDEXING, Report
from datamodules.reports.mentions import Mention, extract


@dataclass(frozen=True)
class Finding:
    """How one finding is tagged, and how it is extracted.

    Attributes:
        tags: pattern of the lower-case tags that mean it, matched from their start.
        words: canonical words of phrases.json that mean it.
        aliases: keys of radlabels' list that mean it.
        hedged: whether an uncertain mention counts as present.
        doubtful: pattern of tags that leave it open; a report with one, and without a tag that means it, is left out.
        lateral: whether tags name its side.
    """

    tags: str
    words: tuple[str, ...]
    aliases: tuple[str, ...]
    hedged: bool = False
    doubtful: str | None = None
    lateral: bool = True


# Hedged mentions: annotators do not tag what a report says "may represent" or "cannot be excluded". On odd reports
# precision rises without them from .83 to .99 for atelectasis, .87 to .98 for effusion, .85 to 1 for emphysema, and
# recall falls by .05, .06 and .02. What stands before "versus" or behind "probable" they do tag; that is lost.
# Cardiomegaly is the exception: a borderline heart has a tag of its own.
FINDINGS: dict[str, Finding] = {
    "cardiomegaly": Finding(
        # "Cardiac silhouette enlarged" is tagged as Cardiac Shadow, "heart enlarged" as Cardiomegaly.
        tags=r"cardiomegaly|cardiac shadow/(.*/)?(enlarged|borderline)",
        words=("cardiomegaly",),
        aliases=("cardiomegaly",),
        hedged=True,
        lateral=False,
    ),
    "effusion": Finding(
        # Fluid with air in the pleural space is an effusion and a pneumothorax. A blunted angle alone has its own tag.
        tags=r"pleural effusion|(hydro|hemo)pneumothorax|hemothorax",
        words=("pleural effusion",),
        aliases=("pleural_effusion",),
    ),
    "atelectasis": Finding(
        # Collapse is tagged so too; volume loss has a tag of its own.
        tags=r"pulmonary atelectasis",
        words=("atelectasis",),
        aliases=("atelectasis", "lobar_segmental_collapse", "whole_lung_or_majority_collapse"),
    ),
    "opacity": Finding(
        # Three headings for what readers call opacity, infiltrate and airspace disease, often two for one sentence.
        # "Round" is how a nodular opacity is tagged: see nodule. "Density" is tagged for dense lungs, dense nodules,
        # calcified granulomas and shadows of bones alike, so that it leaves the finding open; a nodular opacity too.
        tags=r"(opacity|infiltrate)(?!.*/round)|airspace disease",
        words=("opacity",),
        aliases=("air_space_opacity", "lung_opacity", "ground_glass_opacity", "infiltration"),
        doubtful=r"opacity|density",
    ),
    "consolidation": Finding(
        tags=r"consolidation",
        words=("consolidation",),
        aliases=("consolidation",),
    ),
    "edema": Finding(
        # Congestion and engorged or redistributed vessels are tagged Pulmonary Congestion, beside edema or instead of
        # it; "congestive heart failure" is tagged Heart Failure.
        tags=r"pulmonary edema|pulmonary congestion|heart failure",
        words=("pulmonary edema", "vascular congestion"),
        aliases=("pulmonary_edema", "pulmonary_congestion_pulmonary_venous_congestion"),
        lateral=False,
    ),
    "pneumothorax": Finding(
        tags=r"(hydro|hemo)?pneumothorax",
        words=("pneumothorax",),
        aliases=("pneumothorax",),
    ),
    "nodule or mass": Finding(
        # "Nodular opacity" and "round density" are tagged as Opacity or Density with the qualifier Round. A granuloma,
        # calcified or not, is no nodule to the annotators: of 165 odd reports tagged so, 11 are tagged Nodule.
        tags=r"nodule|mass(?!\w)|(opacity|density)/(.*/)?round",
        words=("nodule", "mass"),
        aliases=("lung_nodule_or_mass", "lung_lesion"),
    ),
    "emphysema": Finding(
        # "COPD" is written for the same lungs, and bullae are tagged Blister.
        tags=r"(pulmonary |bullous )?emphysema|pulmonary disease, chronic obstructive|blister",
        words=("emphysema",),
        aliases=("emphysema", "bullous_disease"),
        lateral=False,
    ),
    "hernia": Finding(
        tags=r"hernia",
        words=("hernia",),
        aliases=("hiatus_hernia", "other_hernia"),
        lateral=False,
    ),
}
ZONES = {
    "base": "base",
    "lower lobe": "lower",
    "upper lobe": "upper",
    "apex": "apex",
    "middle lobe": "mid",
    "lingula": "mid",
    "hilum": "hilar",
    "retrocardiac": "retrocardiac",
}


@dataclass(frozen=True)
class Disagreement:
    """A report whose tags and mentions differ in a finding."""

    study: str
    finding: str
    tagged: tuple[str, ...]
    extracted: tuple[str, ...]


def read(openi: Path, *, odd: bool) -> list[Report]:
    """The reports with an odd or even number that have tags and a text."""
    return [
        report
        for report in _read_archive(openi).reports
        if int(re.sub(r"\D", "", report.study)) % 2 == odd
        and report.tags
        and NO_INDEXING not in report.tags
        and text_of(report)
    ]


def text_of(report: Report) -> str:
    """Findings and impression."""
    return "\n\n".join(section for section in (report.findings, report.impression) if section)


def mentioned(report: Report, finding: Finding) -> list[Mention]:
    """The mentions of a finding that count as present."""
    counted = ("present", "uncertain") if finding.hedged else ("present",)
    return [m for m in extract(text_of(report)) if m.word in finding.words and m.status in counted]


def tags_of(report: Report, finding: Finding) -> tuple[str, ...]:
    """The tags that mean a finding."""
    return tuple(tag for tag in report.tags if re.match(finding.tags, tag))


def left_out(report: Report, finding: Finding) -> bool:
    """Whether a report's tags leave a finding open."""
    return finding.doubtful is not None and any(re.match(finding.doubtful, tag) for tag in report.tags)


def score(reports: list[Report], found: Callable[[Report, Finding], Any] = mentioned) -> dict[str, Any]:
    """Precision, recall and F1 of each finding and their mean F1; `found` is true where a report is said to have it."""
    findings: dict[str, dict[str, float]] = {}
    for name, finding in FINDINGS.items():
        both = added = missed = 0
        for report in reports:
            tagged, said = bool(tags_of(report, finding)), bool(found(report, finding))
            both += tagged and said
            added += said and not tagged and not left_out(report, finding)
            missed += tagged and not said
        findings[name] = {
            "precision": both / max(both + added, 1),
            "recall": both / max(both + missed, 1),
            "f1": 2 * both / max(2 * both + added + missed, 1),
            "tagged": both + missed,
            "added": added,
            "missed": missed,
        }
    return {"findings": findings, "macro_f1": sum(f["f1"] for f in findings.values()) / len(findings)}


def side_of(names: Iterable[str | None]) -> str | None:
    """One side from several: left and right together are bilateral."""
    named = {name for name in names if name}
    return next(iter(named)) if len(named) == 1 else "bilateral" if named else None


def tagged_side(tags: tuple[str, ...]) -> str | None:
    """The side that tags name; the lingula is on the left."""
    parts = [set(tag.split("/")) for tag in tags]
    sides = [side for part in parts for side in ("left", "right", "bilateral") if side in part]
    return side_of(sides + ["left" for part in parts if "lingula" in part])


def sides(reports: list[Report]) -> dict[str, Any]:
    """How often side and zone are the tags', of the findings that both have, where a tag names one."""
    counts = {"sides": 0, "sides_right": 0, "zones": 0, "zones_right": 0}
    for report in reports:
        for finding in FINDINGS.values():
            tags, mentions = tags_of(report, finding), mentioned(report, finding)
            if not (finding.lateral and tags and mentions):
                continue
            side = tagged_side(tags)
            if side is not None:
                counts["sides"] += 1
                counts["sides_right"] += side_of(m.side for m in mentions) == side
            zones = {ZONES[part] for tag in tags for part in tag.split("/") if part in ZONES}
            if len(zones) == 1:
                counts["zones"] += 1
                counts["zones_right"] += zones <= {m.zone for m in mentions}
    return counts | {
        "side_accuracy": counts["sides_right"] / counts["sides"],
        "zone_accuracy": counts["zones_right"] / counts["zones"],
    }


def disagreements(reports: list[Report]) -> list[Disagreement]:
    """All differences, to be read: the tags are not always right."""
    out = []
    for report in reports:
        for name, finding in FINDINGS.items():
            tags, mentions = tags_of(report, finding), mentioned(report, finding)
            if bool(tags) != bool(mentions) and (tags or not left_out(report, finding)):
                out.append(Disagreement(report.study, name, tags, tuple(m.word for m in mentions)))
    return out
