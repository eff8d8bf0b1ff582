"""A diagnosis for people (a table) and for machines (JSON)."""

import shlex
import shutil
import textwrap
from typing import Any

import pandas as pd

from datamodules.doctor.finding import LEVELS, Diagnosis, Finding
from datamodules.doctor.issues import ISSUES
from datamodules.doctor.tables import count
from datamodules.manifest import Manifest
from datamodules.reports.labels import FINDINGS, SPLITS

SCHEMA = 1
EXAMPLES = 3
ENOUGH = 200  # pictures, from which a rate says something
LEFT = 19  # columns before the text: level and count


def text(diagnosis: Diagnosis, *, options: list[str]) -> str:
    """What is in the data set, what is wrong with it, what to run next.

    Args:
        diagnosis: what was found.
        options: "NAME=VALUE" options that the layout was read with.
    """
    parts = [summary(diagnosis.manifest)] if diagnosis.manifest is not None else []
    if diagnosis.looked is not None:
        parts.append("\n".join(_pass(diagnosis)))
    parts.append(table(diagnosis.findings) if diagnosis.findings else "nothing is wrong")
    counts = ", ".join(f"{diagnosis.count(level)} × {level}" for level in LEVELS)
    parts.append(f"{diagnosis.layout or 'unknown layout'}: {counts}")
    following = next_step(diagnosis, options=options)
    if diagnosis.count("error"):
        parts.append("mend the errors and run the doctor again" + (f"; then: {following}" if following else ""))
    else:
        parts.append(f"next: {following}")
    return "\n\n".join(parts)


def document(diagnosis: Diagnosis, *, options: list[str]) -> dict[str, Any]:
    """The same as plain data, with all ids."""
    manifest, looked = diagnosis.manifest, diagnosis.looked
    return {
        "schema": SCHEMA,
        "root": diagnosis.root,
        "layout": diagnosis.layout,
        "options": options,
        "rows": None if manifest is None else len(manifest),
        "digest": None if manifest is None else manifest.digest(),
        "counts": None if manifest is None else count(manifest),
        "published": diagnosis.published,
        "levels": {level: diagnosis.count(level) for level in LEVELS},
        "findings": [
            {"level": f.level, "what": f.what, "count": f.count, "ids": list(f.ids), "mend": f.mend}
            for f in diagnosis.findings
        ],
        "pictures": None
        if looked is None
        else {
            "total": len(looked.images),
            "examined": looked.examined,
            "unchanged": len(looked.images) - looked.examined,
            "seconds": looked.seconds,
            "workers": looked.workers,
        },
        "rate": None if looked is None or not looked.rate else looked.rate,
        "estimate_seconds": estimate(diagnosis),
        "next": next_step(diagnosis, options=options),
    }


def summary(manifest: Manifest) -> str:
    """Rows, patients, splits by view, where the texts come from, labels."""
    frame = manifest.frame
    views = pd.crosstab(frame["split"], frame["view"]).reindex([s for s in SPLITS if (frame["split"] == s).any()])
    labels = frame[list(FINDINGS)]
    counts = {"1": (labels == 1).sum(), "0": (labels == 0).sum(), "uncertain": (labels == -1).sum()}
    texts = frame.drop_duplicates("study_id")
    sources = ", ".join(f"{source} {number:,}" for source, number in texts["report_source"].value_counts().items())
    return "\n".join(
        [
            f"{manifest.source}: {len(manifest):,} rows, {len(texts):,} studies, "
            f"{frame['patient_id'].nunique():,} patients, digest {manifest.digest()[:12]}",
            views.to_string(),
            f"reports: {int((texts['report'] != '').sum()):,} of {len(texts):,} studies have a text ({sources})",
            pd.DataFrame(counts | {"unknown": labels.isna().sum()}).to_string(),
        ]
    )


def table(findings: tuple[Finding, ...]) -> str:
    """One block a finding: level, count, what, then examples and mend below."""
    width = min(max(shutil.get_terminal_size((120, 24)).columns, 80), 140)
    lines = [f"{'level':<8}{'count':>9}  what", "-" * width]
    for finding in findings:
        examples = ", ".join(finding.ids[:EXAMPLES]) + (", …" if len(finding.ids) > EXAMPLES else "")
        head = f"{finding.level:<8}{finding.count:>9,}  "
        lines += _wrapped(finding.what, width, head)
        if examples:
            lines += _wrapped(f"e.g. {examples}", width, " " * LEFT)
        if finding.mend:
            lines += _wrapped(f"mend: {finding.mend}", width, " " * LEFT)
    return "\n".join(lines)


def estimate(diagnosis: Diagnosis) -> float | None:
    """Seconds that a pass over the published number of pictures takes at the measured rate."""
    published = diagnosis.published.get("images")
    if published is None or diagnosis.looked is None or diagnosis.looked.examined < ENOUGH:
        return None
    return published / diagnosis.looked.rate


def next_step(diagnosis: Diagnosis, *, options: list[str]) -> str:
    """The command that follows; "" where nothing could be read."""
    if diagnosis.manifest is None:
        return ""
    if diagnosis.layout == "keywords":
        return (
            "python main.py predict -c configs/base.yaml -c configs/prompter.yaml -c "
            f"configs/experiment/prompter-keywords.yaml --data.root={shlex.quote(diagnosis.root)} "
            "--ckpt_path=<prompter>"
        )
    root = f"--layout {diagnosis.layout} --root {shlex.quote(diagnosis.root)}"
    given = "".join(f" --option {shlex.quote(option)}" for option in options)
    if diagnosis.looked is None and diagnosis.layout != "phantom":
        return f"python -m datamodules vocabulary {root}{given} --out vocabulary.json"
    return f"python -m datamodules prepare {root}{given} --size 256 --out runs/shards/{diagnosis.layout}"


def _pass(diagnosis: Diagnosis) -> list[str]:
    looked = diagnosis.looked
    assert looked is not None
    total = len(looked.images)
    bad = sum(any(ISSUES[code].level == "error" for code, _ in issues) for issues in looked.issues.values())
    lines = [f"images: {total - bad:,} of {total:,} can be read; {bad:,} cannot"]
    if looked.examined < total:
        lines.append(f"{total - looked.examined:,} have not changed since an earlier pass and were not read again")
    if looked.rate:
        lines.append(
            f"looked at {looked.examined:,} in {looked.seconds:.1f} s: {looked.rate:,.0f} a second "
            f"({looked.workers} threads)"
        )
    seconds = estimate(diagnosis)
    if seconds is not None and total < diagnosis.published["images"]:
        lines.append(f"all {diagnosis.published['images']:,} published would take about {_duration(seconds)}")
    return lines


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _wrapped(content: str, width: int, head: str) -> list[str]:
    lines: list[str] = []
    for part in content.split("\n"):
        lines += textwrap.wrap(part, width - LEFT, break_long_words=False, break_on_hyphens=False) or [""]
    return [(head if number == 0 else " " * LEFT) + line for number, line in enumerate(lines)]
