"""What `predict` asks for each study: its keywords, its view, and where they came from.

The keywords are those of its report or its labels, or a set that somebody asked for (the layout `keywords`).
"""

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from datamodules.manifest import Batch
from datamodules.reports.keyword_rows import keywords_of_prompt, labels_of_keywords
from datamodules.reports.keywords import Keywords, keywords_of, parse, verify
from datamodules.reports.labels import FINDINGS, VIEWS
from datamodules.reports.vocabulary import Vocabulary
from lightning_modules.networks.examples import vocabulary_keywords
from lightning_modules.networks.written import Request, Written

Mode = Literal["auto", "keywords", "labels", "rewrite", "asked"]
MODES: tuple[Mode, ...] = get_args(Mode)


class Study(NamedTuple):
    """One study's request, and the row that goes with it into prompts.jsonl."""

    request: Request
    row: dict[str, Any]

    @property
    def key(self) -> str:
        """What its text is drawn by: a counterfactual's is its study's, so that what both are asked reads alike."""
        return str(self.row.get("pair") or self.row["study_id"])


class Drawable(NamedTuple):
    """What a report sees for sure: what is asked for, and what is not, since it was not learnt or is denied too."""

    keywords: Keywords
    dropped: tuple[str, ...]


def drawable_keywords(report: str, vocabulary: Vocabulary) -> Drawable:
    """The keywords of what a report sees for sure; what it only suspects is left out.

    Comparisons, history and advice hold no keywords, since keywords say what is there and not since when. What a report
    states in one sentence and denies in another is not asked for.
    """
    everything, known = keywords_of(report), vocabulary_keywords(report, vocabulary)
    denied = {_place(text) for text in verify(report, everything).contradicting}
    asked = tuple(t for t in known.pathology if not parse(t).possible and _place(t) not in denied)
    words = {_place(text) for text in (*known.anatomy, *asked)}
    sure = [text for text in everything.pathology if not parse(text).possible]
    dropped = tuple(text for text in (*sure, *everything.anatomy) if _place(text) not in words)
    return Drawable(Keywords(known.anatomy, asked), dropped)


def _place(text: str) -> tuple[str, str | None]:
    keyword = parse(text)
    return keyword.word, keyword.side


def study_of(batch: Batch, i: int, *, mode: Mode, vocabulary: Vocabulary, seed: int) -> Study | None:
    """The request for row i of a batch; None where the mode finds nothing to ask.

    "keywords" takes the words of the study's report, "labels" draws words for its labels, "auto" does the first where
    there is a report and else the second, and "rewrite" takes of its report what can be drawn, and refuses comparisons,
    hedges, history and advice in what is written; "dropped" in its row is what the report sees for sure and is not
    asked for. "asked" is for the layout `keywords`, see `_asked`.
    """
    if mode == "asked":
        return _asked(batch, i, seed=seed)
    report, study = batch["report"][i], batch["study_id"][i]
    labels = batch["labels"][i].float().cpu().numpy()
    view = VIEWS[int(batch["view"][i])]
    dropped: tuple[str, ...] = ()
    from_labels = mode == "labels" or (mode == "auto" and not report)
    if from_labels:
        if np.isnan(labels).all():
            return None
        rng = np.random.default_rng([seed, zlib.crc32(study.encode())])
        keywords = vocabulary.from_labels(labels, rng, view=view)
    elif not report:
        return None
    elif mode == "rewrite":
        keywords, dropped = drawable_keywords(report, vocabulary)
    else:
        keywords = vocabulary_keywords(report, vocabulary)
    row = {
        "study_id": study,
        "keywords": keywords.as_dict(),
        "keywords_from": "labels" if from_labels else "rewrite" if mode == "rewrite" else "report",
        "labels": [None if math.isnan(x) else int(x) for x in labels],
        "view": view,
        "seed": seed,
    }
    if mode == "rewrite":
        row["dropped"] = list(dropped)
    source = "" if from_labels else report
    return Study(Request(keywords, view=view, drawable=mode == "rewrite", source=source), row)


def _asked(batch: Batch, i: int, *, seed: int) -> Study:
    """The request for a keyword set, which stands in place of the report; nothing is added, drawn or left out.

    Its labels are those of the set, also where it is only possible, which a batch's labels do not tell from unknown.
    "pair" is the study that a counterfactual was made from, else None.

    Raises:
        ValueError: if what stands there is no keyword set.
    """
    study, text = batch["study_id"][i], batch["report"][i]
    try:
        keywords = keywords_of_prompt(text)
    except ValueError as error:
        raise ValueError(
            f"study {study}: mode 'asked' writes from keyword sets (--data.init_args.layout=keywords), and this study "
            f"has {text[:60]!r}: {error}; for a data set with reports take mode 'keywords'"
        ) from error
    view, labels, patient = VIEWS[int(batch["view"][i])], labels_of_keywords(keywords), batch["patient_id"][i]
    row = {
        "study_id": study,
        "keywords": keywords.as_dict(),
        "keywords_from": "asked",
        "labels": [labels[finding] for finding in FINDINGS],
        "view": view,
        "seed": seed,
        "pair": None if patient == study else patient,
    }
    return Study(Request(keywords, view=view), row)


def studies_of(
    batch: Batch, *, done: Container[str], mode: Mode, vocabulary: Vocabulary, seed: int
) -> dict[str, Study | None]:
    """`study_of` of each study of a batch that is not among those done, by its first row."""
    found: dict[str, Study | None] = {}
    for i, study in enumerate(batch["study_id"]):
        if study not in found and study not in done:
            found[study] = study_of(batch, i, mode=mode, vocabulary=vocabulary, seed=seed)
    return found


def finished(row: Mapping[str, Any], written: Written) -> dict[str, Any]:
    """The row with what was written and what the check found."""
    return {
        **row,
        "report": written.report,
        "verified": written.verified,
        "attempts": written.attempts,
        "guided": written.guided,
        "copied": written.copied,
        **asdict(written.check),
        "faults": list(written.faults),
    }


def unlearnt_words(rows: Iterable[Mapping[str, Any]], vocabulary: Vocabulary) -> dict[str, int]:
    """The words asked for that a vocabulary lacks → rows that ask for them, most often asked first."""
    words = Counter(word for row in rows for word in {parse(text).word for text in _asked_of(row)})
    return {word: count for word, count in words.most_common() if word not in vocabulary.words}


def unlearnt_words_text(words: Mapping[str, int], vocabulary: Vocabulary, *, of: int) -> str:
    """What `unlearnt_words` found, and what to do about it."""
    named = ", ".join(f"{word} ({count})" for word, count in words.items())
    return (
        f"of {of} sets some ask for words that the prompter has not learnt, since fewer than {vocabulary.min_count} of "
        f"its training reports say them: {named}; most such texts will be flagged. Leave these words out (python -m "
        "datamodules keywords draws none where --vocabulary is that of the prompter's training reports), or train a "
        "prompter on reports that say them"
    )


def _asked_of(row: Mapping[str, Any]) -> list[str]:
    return [*row["keywords"]["anatomy"], *row["keywords"]["pathology"]]


def often_missing(rows: Iterable[Mapping[str, Any]], *, most: int = 5) -> list[str]:
    """The asked words that were missing most often, without modifiers, e.g. "hernia 3 of 4"."""
    asked: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for row in rows:
        asked.update(parse(text).word for text in _asked_of(row))
        missing.update(parse(text).word for text in row["missing"])
    ranked = sorted(missing.items(), key=lambda item: (-item[1], item[0]))
    return [f"{word} {count} of {asked[word]}" for word, count in ranked[:most]]


def write_prompts(
    path: Path,
    rows: Mapping[str, Mapping[str, Any]],
    *,
    unasked: Collection[str],
    learnt: Vocabulary | None = None,
) -> None:
    """Write prompts.jsonl under a temporary name, then rename; say what was written and what was left out.

    Args:
        path: the file.
        rows: study → row; one whose report is empty is left out.
        unasked: studies of which nothing was known to ask for.
        learnt: the words that the model can write, where others were allowed to be asked for.
    """
    empty = sorted(study for study, row in rows.items() if not row["report"])
    kept = [rows[study] for study in sorted(rows) if rows[study]["report"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    os.replace(temporary, path)
    verified = sum(row["verified"] for row in rows.values())
    missing = often_missing(rows.values())
    print(
        f"prompter: wrote {len(kept)} reports to {path}, {verified / max(1, len(rows)):.1%} verified"
        + (f" (asked for and most often missing: {', '.join(missing)})" if missing else "")
        + f"; {len(empty)} left out because nothing was written"
        + (f" (first: {empty[0]})" if empty else "")
        + (f"; {len(unasked)} because nothing was known to ask for (first: {min(unasked)})" if unasked else "")
        + f". Next: give them to a later stage with --data.init_args.prompts={path}",
        flush=True,
    )
    if learnt is not None and (words := unlearnt_words(rows.values(), learnt)):
        print(f"prompter: {unlearnt_words_text(words, learnt, of=len(rows))}", flush=True)
