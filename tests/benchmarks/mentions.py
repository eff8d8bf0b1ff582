"""Mention extraction against human tags, phantom and hard sentences: `python -m tests.benchmarks.mentions`.

Needs CXR_REAL_DATA for the comparison with tags. Rules and phrases were tuned on OpenI's reports with an odd number;
the even ones are for measuring alone.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.phantom.report import report, study_labels
from datamodules.phantom.study import study
from datamodules.reports import mentions
from datamodules.reports.keywords import keywords_of, verify
from datamodules.reports.mentions import extract, labels_of
from datamodules.reports.sections import choose, split_sections
from tests.benchmarks import mesh, negex
from tests.benchmarks.record import write
from tests.datamodules.test_reports_hard_sentences import read, wrong

STUDIES, ROUNDS = 1000, 3


def measure() -> dict[str, Any]:
    """All figures."""
    root = os.environ.get("CXR_REAL_DATA")
    figures: dict[str, Any] = {}
    if root:
        figures |= on_tags(Path(root))
        texts = [mesh.text_of(r) for odd in (True, False) for r in mesh.read(Path(root) / "openi", odd=odd)]
        figures["reports_per_s_core_openi"] = rate(texts)
        figures |= on_own_keywords(texts)
    return write("mentions", figures | on_phantom() | on_hard_sentences())


def on_tags(root: Path) -> dict[str, Any]:
    """Precision, recall, F1, side and zone accuracy on odd and even reports, and the same of list and NegEx."""
    figures: dict[str, Any] = {}
    for name, odd in (("odd", True), ("even", False)):
        reports = mesh.read(root / "openi", odd=odd)
        figures[name] = {"reports": len(reports)} | mesh.score(reports) | mesh.sides(reports)
        figures[name]["disagreements"] = len(mesh.disagreements(reports))
        figures[f"{name}_radlabels_and_negex"] = mesh.score(reports, negex.finder(root / "rules"))
    return figures


def on_own_keywords(texts: list[str]) -> dict[str, Any]:
    """What `verify` says of real reports when asked for their own keywords: a perfect prompter would do no better."""
    found = [verify(text, keywords_of(text)) for text in texts if text]
    return {
        "own_keywords_reports": len(found),
        "own_keywords_uncontradicted": float(np.mean([not one.contradicting for one in found])),
        "own_keywords_stated": float(np.mean([not one.missing for one in found])),
    }


def on_phantom() -> dict[str, Any]:
    """Findings and their status against the truth of the phantom's grammar, and the speed on its reports."""
    found = agreed = missed = added = 0
    texts = []
    for index in range(STUDIES):
        one = study(5, index)
        text, _ = choose(split_sections(report(one)), "findings")
        texts.append(text)
        got, want = np.nan_to_num(labels_of(text)), study_labels(one)
        both = (got != 0) & (want != 0)
        found += int(both.sum())
        agreed += int((got == want)[both].sum())
        missed += int(((got == 0) & (want != 0)).sum())
        added += int(((got != 0) & (want == 0)).sum())
    return {
        "phantom_f1": 2 * found / (2 * found + missed + added),
        "phantom_status_accuracy": agreed / found,
        "reports_per_s_core_phantom": rate(texts),
    }


def on_hard_sentences() -> dict[str, Any]:
    """The share of hard sentences of which every word, status, side and severity is right."""
    return {"hard_sentences": len(read()), "hard_sentences_right": 1 - len(wrong()) / len(read())}


def rate(texts: list[str]) -> float:
    """Reports a second of processor time, each read once, with nothing remembered at the start."""
    best = 0.0
    extract(texts[0])
    for _ in range(ROUNDS):
        mentions._read.cache_clear()
        began = time.process_time()
        for text in texts:
            extract(text)
        best = max(best, len(texts) / (time.process_time() - began))
    return best


if __name__ == "__main__":
    measure()
