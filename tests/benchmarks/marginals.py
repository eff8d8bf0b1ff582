r"""The shares of findings in written texts against those that were asked for: `python -m tests.benchmarks.marginals`.

The files that it reads are made so:

    python -m datamodules keywords --vocabulary vocabulary.json --n 2000 --uniform "Edema,Fracture" --out keywords.jsonl
    python main.py predict -c configs/base.yaml -c configs/prompter.yaml -c configs/experiment/prompter-keywords.yaml \
        --data.root=keywords.jsonl --ckpt_path=<prompter> --run_dir=<folder>
    python -m tests.benchmarks.marginals --keywords keywords.jsonl --prompts <folder>/prompts.jsonl \
        --uniform "Edema,Fracture"

A finding is stated where it is present or possible, in keywords and texts alike.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.reports.keyword_rows import read_rows
from datamodules.reports.keyword_sampler import uniform
from datamodules.reports.labels import FINDINGS
from lightning_modules.networks.labelers import rules_or_network
from tests.benchmarks.record import write

MOST_POINTS = 2.0  # that a share may be off


def measure(
    sets: Sequence[Mapping[str, Any]],
    texts: Sequence[Mapping[str, Any]],
    *,
    asked: Mapping[str, float],
    labeler: str = "rules",
) -> dict[str, Any]:
    """All figures but the digests.

    Args:
        sets: rows of keywords.jsonl. Counterfactuals are left out: their shares follow from what was changed.
        texts: rows of prompts.jsonl.
        asked: finding → share of the sets that was asked for; "No Finding" of those that state nothing but devices.
        labeler: what reads the texts, see `rules_or_network`.

    Returns:
        Numbers of sets and texts, and by finding its shares, and how many points (hundredths) those of the texts are
        off: from what was asked, None where nothing was, and from the sets that have a text. "verified" is the same
        over verified texts, and "off" the largest of the asked findings, signs left out.

    Raises:
        ValueError: if a finding is unknown, if no set has a text, or if a text was written for other keywords.
    """
    unknown = sorted(asked.keys() - set(FINDINGS))
    if unknown:
        raise ValueError(f"asked: {unknown[0]!r} is no finding; expected of {list(FINDINGS)}")
    drawn = [one for one in sets if one["pair"] is None]
    by_study = {text["study_id"]: text for text in texts}
    pairs = [(one, by_study[one["study_id"]]) for one in drawn if one["study_id"] in by_study]
    if not pairs:
        raise ValueError(f"none of {len(drawn)} sets has one of the {len(texts)} texts; write them from these sets")
    for one, text in pairs:
        if any(sorted(text["keywords"][kind]) != sorted(one[kind]) for kind in ("anatomy", "pathology")):
            raise ValueError(
                f"study {one['study_id']}: the text was written for {text['keywords']}, and the set is "
                f"{ {kind: one[kind] for kind in ('anatomy', 'pathology')} }; write the texts again"
            )
    wanted = np.array([[bool(one["labels"][finding]) for finding in FINDINGS] for one in drawn])
    served = np.array([[bool(one["labels"][finding]) for finding in FINDINGS] for one, _ in pairs])
    stated = np.abs(rules_or_network(labeler)([text["report"] for _, text in pairs])) == 1  # NaN: not mentioned
    verified = np.array([text["verified"] for _, text in pairs])
    findings: dict[str, dict[str, float | None]] = {}
    for n, finding in enumerate(FINDINGS):
        share = asked.get(finding)
        everywhere, sure = _share(stated[:, n]), _share(stated[verified, n])
        findings[finding] = {
            "asked": share,
            "sets": _share(wanted[:, n]),
            "texts": everywhere,
            "verified": sure,
            "texts_off_points": _points(everywhere, share),
            "verified_off_points": _points(sure, share),
            "texts_off_sets_points": _points(everywhere, _share(served[:, n])),
        }
    figures: dict[str, Any] = {
        "sets": len(drawn),
        "counterfactuals_left_out": len(sets) - len(drawn),
        "texts": len(pairs),
        "sets_without_text": len(drawn) - len(pairs),
        "verified": int(verified.sum()),
        "labeler": labeler,
        "findings": findings,
    }
    for name in ("texts_off_points", "verified_off_points"):
        off = [abs(value) for finding in asked if (value := findings[finding][name]) is not None]
        figures[f"largest_{name}"] = max(off, default=None)
    return figures


def measure_files(
    keywords: Path, prompts: Path, *, asked: Mapping[str, float], labeler: str = "rules"
) -> dict[str, Any]:
    """`measure` of two files, with their digests and the seeds that made them."""
    sets = read_rows(keywords)
    texts = [json.loads(line) for line in prompts.read_text(encoding="utf-8").split("\n") if line.strip()]
    return {
        "keywords_sha256": hashlib.sha256(keywords.read_bytes()).hexdigest(),
        "prompts_sha256": hashlib.sha256(prompts.read_bytes()).hexdigest(),
        "vocabulary_sha256": sorted({one["vocabulary"] for one in sets if one["vocabulary"]}),
        "keywords_seed": sorted({one["seed"] for one in sets if one["seed"] is not None}),
        "prompts_seed": sorted({text["seed"] for text in texts}),
        **measure(sets, texts, asked=asked, labeler=labeler),
    }


def table(figures: Mapping[str, Any]) -> str:
    """The findings that were asked for, one a line."""
    lines = [f"{'finding':<28}{'asked':>8}{'sets':>8}{'texts':>8}{'off':>8}{'verified':>10}{'off':>8}"]
    for finding, one in figures["findings"].items():
        if one["asked"] is not None:
            shares = f"{one['asked']:>8.1%}{one['sets']:>8.1%}{one['texts']:>8.1%}{one['texts_off_points']:>+8.2f}"
            sure = "" if one["verified"] is None else f"{one['verified']:>10.1%}{one['verified_off_points']:>+8.2f}"
            lines.append(f"{finding:<28}{shares}{sure}")
    return "\n".join(lines)


def _share(stated: np.ndarray) -> float | None:
    return float(stated.mean()) if len(stated) else None


def _points(share: float | None, of: float | None) -> float | None:
    return None if share is None or of is None else 100 * (share - of)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure two files, write the figures, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.marginals", description=__doc__)
    parser.add_argument("--keywords", type=Path, required=True, help="what `python -m datamodules keywords` wrote")
    parser.add_argument("--prompts", type=Path, required=True, help="what the prompter wrote from them")
    parser.add_argument("--uniform", default="", help="as it was given to `keywords`")
    parser.add_argument("--share", type=float, help="as it was given to `keywords`")
    parser.add_argument("--normal", type=float, help="as it was given to `keywords`")
    parser.add_argument("--marginals", type=json.loads, default={}, help="as it was given to `keywords`")
    parser.add_argument("--labeler", default="rules", help="rules, or the folder of a CheXbert or RadGraph")
    parser.add_argument("--name", default="marginals", help="of the file under runs/benchmarks/")
    given = parser.parse_args(argv)
    asked = dict(given.marginals)
    if given.uniform:
        names = [name.strip() for name in given.uniform.split(",")]
        asked |= uniform(names, share=given.share, normal=given.normal)
    if given.normal is not None:
        asked["No Finding"] = given.normal
    if not asked:
        raise ValueError("nothing was asked for: give --uniform, --marginals or --normal as `keywords` got them")
    figures = measure_files(given.keywords, given.prompts, asked=asked, labeler=given.labeler)
    write(given.name, figures)
    print(table(figures))
    off = figures["largest_texts_off_points"]
    print(f"largest deviation {off:.2f} points, {'within' if off <= MOST_POINTS else 'more than'} {MOST_POINTS:g}")
    return figures


if __name__ == "__main__":
    main()
