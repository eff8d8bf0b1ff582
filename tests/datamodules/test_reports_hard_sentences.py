"""200 hard sentences: word, status, side and severity of every pathology must be what a radiologist reads."""

import json
from pathlib import Path
from typing import Any

from datamodules.reports.phrases import lexicon
from tests.datamodules.readings import pathologies

PATH = Path(__file__).with_name("hard_sentences.json")
LEAST = 0.95


def read() -> list[tuple[str, str, list[list[Any]]]]:
    """(category, sentence, gold) of each."""
    groups = json.loads(PATH.read_text(encoding="utf-8"))
    groups.pop("about")
    return [(group, text, gold) for group, sentences in groups.items() for text, gold in sentences.items()]


def wrong() -> list[str]:
    """A line on each sentence that is not read as its gold says."""
    lines = []
    for group, text, gold in read():
        got = [list(one) for one in pathologies(text)]
        if got != gold:
            lines.append(f"[{group}] {text}\n  expected {gold}\n  found    {got}")
    return lines


def test_there_are_200_and_their_gold_is_well_formed() -> None:
    cases = read()
    assert len(cases) == len({text for _, text, _ in cases}) == 200
    for _, text, gold in cases:
        for word, status, side, severity in gold:
            assert lexicon().entities[word].kind == "pathology", text
            assert status in ("present", "absent", "uncertain"), text
            assert side in (None, "left", "right", "bilateral"), text
            assert severity in (None, "small", "mild", "moderate", "large", "severe"), text


def test_19_of_20_are_read_in_full() -> None:
    lines = wrong()
    assert 1 - len(lines) / len(read()) >= LEAST, "\n".join(lines)
