"""`python -m datamodules vocabulary`: mine the vocabulary of the training reports, and draw what stands together."""

import argparse
from collections import Counter
from pathlib import Path

from datamodules.manifest import Manifest
from datamodules.reports.cooccurrence_picture import save_cooccurrence
from datamodules.reports.stop_words import read_stop_words
from datamodules.reports.vocabulary import mine

EXAMPLES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the command's own arguments; what data set it is comes from the caller."""
    parser.add_argument("--min-count", type=int, default=5, help="leave rarer words out (default 5)")
    parser.add_argument("--max-words", type=int, default=500, help="keep so many of each kind (default 500)")
    parser.add_argument(
        "--stop-words", type=Path, help="a JSON file of words that are no keywords (default: the package's own list)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write; a PNG is written beside it")


def run(given: argparse.Namespace, manifest: Manifest) -> int:
    """Mine from the training split, write both files, say what was left out."""
    for option, value in (("--min-count", given.min_count), ("--max-words", given.max_words)):
        if value < 1:
            raise ValueError(f"{option} is {value}; expected 1 or more")
    picture = given.out.with_suffix(".png")
    if picture == given.out:
        raise ValueError(f"--out {given.out} is the picture's name; give the JSON file, e.g. {given.out.stem}.json")
    stop = read_stop_words(given.stop_words)
    train = manifest.split("train").frame.drop_duplicates("study_id")
    reports = [text for text in train["report"] if text]
    if not reports:
        raise ValueError(f"{manifest.source}: none of {len(train)} training studies has a report to mine words from")
    found = mine(reports, min_count=given.min_count, max_words=given.max_words, stop_words=stop)
    found.save(given.out)
    save_cooccurrence(found, picture)
    print(
        f"vocabulary: {len(found.words)} words from {len(reports)} training reports of {manifest.source} "
        f"(digest {manifest.digest()[:12]}) → {given.out}"
    )
    for drop in manifest.drops:
        print(f"not read: {drop.count} × {drop.reason}, e.g. {', '.join(drop.ids[:3])}")
    kinds = Counter(entry.kind for entry in found.entries.values())
    print(f"{kinds['anatomy']} anatomy and {kinds['pathology']} pathology words; what stands together → {picture}")
    reasons: dict[str, list[str]] = {}
    for word, why in sorted(found.left_out.items(), key=lambda item: -item[1]["reports"]):
        reasons.setdefault("on the stop list" if stop.reason(word) else why["reason"], []).append(
            f"{word} ({why['reports']})"
        )
    for reason, words in reasons.items():
        rest = ", ..." if len(words) > EXAMPLES else ""
        print(f"left out: {len(words)} words {reason}, e.g. {', '.join(words[:EXAMPLES])}{rest}")
    print(f"next: python -m datamodules keywords --vocabulary {given.out} --n 2000 --out keywords.jsonl")
    return 0
