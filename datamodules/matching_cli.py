"""`python -m datamodules match-reports`: weak real texts for images that have labels alone."""

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules import layouts
from datamodules.layout_options import add_option, parse_options
from datamodules.manifest import Manifest
from datamodules.prompts import MATCHED
from datamodules.reports.keyword_rows import write_rows
from datamodules.reports.labels import FINDINGS, SPLITS
from datamodules.reports.matching import Match, Texts, match, read_texts, with_hierarchy

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the command's own arguments; which images these are comes from the caller."""
    parser.add_argument(
        "--reports-layout", choices=sorted(layouts.NAMES), required=True, help="of the reports' data set"
    )
    parser.add_argument("--reports-root", help="its folder, file or URL; no image of it is read")
    add_option(parser, "an option of the reports' layout: --reports-option section=first", name="--reports-option")
    parser.add_argument("--draw-seed", type=int, default=0, help="of the texts' splits and of the draws (default 0)")
    parser.add_argument(
        "--out", type=Path, required=True, help="the JSON Lines file to write, for data.init_args.prompts"
    )


def run(given: argparse.Namespace, manifest: Manifest) -> int:
    """Match, write, and say how well it went."""
    options = parse_options(given.reports_option)
    if layouts.takes_images(given.reports_layout):
        options = {"images": False} | options
    source = layouts.read(given.reports_layout, given.reports_root, **options)
    frame = manifest.frame
    splits = frame.drop_duplicates("study_id")["split"]
    shares = {split: float((splits == split).mean()) for split in SPLITS}
    reports = {str(study): text for study, text in zip(source.frame["study_id"], source.frame["report"], strict=True)}
    told = {study: text for study, text in reports.items() if text}
    if not told:
        raise ValueError(
            f"layout {source.source}: none of {len(reports)} studies has a report; name a set with reports"
        )
    texts, silent = read_texts(told, shares=shares, seed=given.draw_seed)
    found = match(frame, texts, seed=given.draw_seed)
    split_of = dict(zip(frame["study_id"].astype(str), frame["split"], strict=True))
    common = {
        "schema": SCHEMA,
        "source": MATCHED,
        "reports": f"{source.source}:{source.digest()[:12]}",
        "images": manifest.digest()[:12],
        "seed": given.draw_seed,
    }
    write_rows(_rows(found, texts, split_of=split_of, common=common), given.out)
    digest = hashlib.sha256(given.out.read_bytes()).hexdigest()[:12]
    print(
        f"match-reports: {len(found)} studies of {manifest.source} have a text of {source.source} → {given.out}, "
        f"digest {digest}\n"
        "These texts are of other patients: findings agree, side, place and size do not. Say so with every figure."
    )
    print(f"texts: {len(texts.ids)} different ones of {len(told)} reports; {len(silent)} say nothing of findings")
    left_out = frame["study_id"].nunique() - len(found)
    if left_out:
        print(f"left out: {left_out} studies without a label")
    _tell(found, texts, split_of=split_of, frame=frame)
    configs = ["configs/base.yaml", "configs/aligner.yaml"]
    configs += [str(path) for path in given.config if str(path) not in configs]
    if not given.config:
        configs.append(f"configs/data/{manifest.source}.yaml")
    named = " ".join(f"-c {path}" for path in configs)
    print(f"next: python main.py fit {named} --data.init_args.prompts={given.out}")
    return 0


def _rows(
    found: dict[str, Match], texts: Texts, *, split_of: dict[str, str], common: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    for study, one in found.items():
        yield {
            "study_id": study,
            "report": texts.texts[one.text],
            "report_id": texts.ids[one.text],
            "split": split_of[study],
            "missing": list(one.missing),
            "extra": list(one.extra),
            **common,
        }


def _tell(found: dict[str, Match], texts: Texts, *, split_of: dict[str, str], frame: pd.DataFrame) -> None:
    exact = sum(not one.missing and not one.extra for one in found.values())
    others = max(1, len(found) - exact)
    missing = sum(len(one.missing) for one in found.values()) / others
    extra = sum(len(one.extra) for one in found.values()) / others
    print(f"the same findings: {exact} of {len(found)} studies", end="")
    print(
        f"; the nearest of the others lack {missing:.2f} and add {extra:.2f} on average" if exact < len(found) else ""
    )
    for split in SPLITS:
        used = Counter(one.text for study, one in found.items() if split_of[study] == split)
        if used:
            print(
                f"{split}: {used.total()} studies share {len(used)} of {int((texts.splits == split).sum())} texts, one "
                f"of them {max(used.values())} times"
            )
    lacking = Counter(name for one in found.values() for name in one.missing)
    added = Counter(name for one in found.values() for name in one.extra)
    matched = frame[frame["study_id"].astype(str).isin(found)].groupby("study_id")[list(FINDINGS)].max()
    shown = pd.Series((with_hierarchy(matched.to_numpy(dtype="float32")) == 1).sum(axis=0), index=FINDINGS)
    for name in FINDINGS:
        if shown[name] or added[name]:
            print(f"{name}: {shown[name]} studies, not in the text of {lacking[name]}; {added[name]} texts add it")
