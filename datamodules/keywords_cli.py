"""`python -m datamodules keywords`: draw keyword sets from a vocabulary, for the prompter to write reports from."""

import argparse
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.progress import bar
from datamodules.reports.counterfactuals import CHANGES
from datamodules.reports.drawing import Study
from datamodules.reports.keyword_rows import row, write_rows
from datamodules.reports.keyword_sampler import KeywordSampler, uniform
from datamodules.reports.keywords import SEVERITIES, SIDES
from datamodules.reports.labels import VIEWS
from datamodules.reports.vocabulary import Vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the command's arguments."""
    parser.add_argument("--vocabulary", type=Path, required=True, help="what the command `vocabulary` wrote")
    parser.add_argument("--n", type=int, required=True, help="how many sets, counterfactuals not counted")
    parser.add_argument("--seed", type=int, default=0)
    shares = 'a JSON object of shares between 0 and 1: {"%s": 0.2}'
    parser.add_argument("--marginals", type=_shares, help=f"of the sets that state a finding, {shares % 'Edema'}")
    parser.add_argument("--uniform", help="findings, joined by commas, that the same share of the sets states")
    parser.add_argument("--share", type=float, help="that share (default: 1 / number of the findings)")
    parser.add_argument("--normal", type=float, help="share of the sets that state nothing but devices")
    parser.add_argument("--sides", type=_shares, help=f"among the keywords that name a side, {shares % 'left'}")
    parser.add_argument("--severities", type=_shares, help=f"among those that name a severity, {shares % 'severe'}")
    parser.add_argument(
        "--ask",
        help='state this in each set and draw only the anatomy, joined by ";": "large left effusion; no pneumothorax"',
    )
    parser.add_argument("--certain", action="store_true", help="no keywords that are only possible")
    parser.add_argument("--view", choices=VIEWS, help="draw what this view can show")
    parser.add_argument(
        "--counterfactual",
        nargs="+",
        choices=CHANGES,
        default=[],
        help="after each set, the same with one finding changed so",
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON Lines file to write")


def run(given: argparse.Namespace) -> int:
    """Draw, write, and say what shares came out."""
    if given.n < 1:
        raise ValueError(f"--n is {given.n}; expected 1 or more")
    vocabulary = Vocabulary.load(given.vocabulary)
    sampler = KeywordSampler(
        vocabulary,
        seed=given.seed,
        marginals=_marginals(given),
        normal=given.normal,
        sides=given.sides,
        severities=given.severities,
        possible=not given.certain,
        view=given.view,
    )
    stated: Counter[str] = Counter()
    modified: Counter[str] = Counter()
    changed: Counter[str] = Counter()

    draws = _draws(given, sampler)
    digest = hashlib.sha256(vocabulary.to_json().encode()).hexdigest()

    def rows() -> Iterator[dict[str, Any]]:
        common = {"seed": given.seed, "vocabulary": digest, "view": given.view}
        studies = itertools.islice(draws, given.n)
        for i, study in enumerate(bar(desc="sets drawn", unit="set", iterable=studies, total=given.n)):
            one = row(study.keywords, index=i, **common)
            stated.update(finding for finding, value in one["labels"].items() if value)
            modified.update(value for k in study.pathology for value in (k.side, k.severity) if value)
            yield one
            for change in given.counterfactual:
                other = sampler.counterfactual(study, change, index=i)
                if other is not None:
                    changed[change] += 1
                    yield row(other.study.keywords, index=i, counterfactual=other, **common)

    written = write_rows(rows(), given.out)
    print(f"keywords: {given.n} sets in {written} lines from {given.vocabulary} → {given.out}")
    for finding, share in sampler.targets.items():
        print(f"{finding}: asked {share:.1%}, drawn {stated[finding] / given.n:.1%}")
    for what, names, shares in (("side", SIDES, given.sides), ("severity", SEVERITIES, given.severities)):
        total = sum(modified[name] for name in names)
        for name, share in (shares or {}).items():
            print(f"{name}: asked {share:.1%}, drawn {modified[name] / max(total, 1):.1%} of {total} with a {what}")
    for change in given.counterfactual:
        print(f"{change}: {changed[change]} counterfactuals; {given.n - changed[change]} sets cannot be changed so")
    if given.ask is None:
        reports = KeywordSampler(vocabulary, seed=given.seed).variety
        print(
            f"variety: as of {sampler.variety:.0f} equally likely sets of pathologies; the reports have {reports:.0f}"
        )
    print(
        "next: python main.py predict -c configs/base.yaml -c configs/prompter.yaml "
        f"-c configs/experiment/prompter-keywords.yaml --data.root={given.out} --ckpt_path=<prompter>"
    )
    return 0


def _draws(given: argparse.Namespace, sampler: KeywordSampler) -> Iterator[Study]:
    if given.ask is None:
        return sampler.draws()
    if sampler.targets or given.sides or given.severities or given.certain:
        raise ValueError("--ask says what is stated; give it without shares and without --certain")
    texts = [text.strip() for text in given.ask.split(";") if text.strip()]
    if not texts:
        raise ValueError(
            f'--ask is {given.ask!r} and states nothing; expected keywords joined by ";", or --normal 1 in its place '
            "for studies without findings"
        )
    sampler.asked(texts)  # refused before anything is written
    return (sampler.asked(texts, index=i) for i in itertools.count())


def _marginals(given: argparse.Namespace) -> dict[str, float]:
    marginals = dict(given.marginals or {})
    if given.uniform is None:
        if given.share is not None:
            raise ValueError("--share goes with --uniform; name the findings with it")
        return marginals
    findings = [name.strip() for name in given.uniform.split(",")]
    twice = sorted(set(findings) & marginals.keys())
    if twice:
        raise ValueError(f"{twice} stand in --uniform and in --marginals; name them in one of them")
    return marginals | uniform(findings, share=given.share, normal=given.normal)


def _shares(text: str) -> dict[str, float]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    numbers = isinstance(data, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in data.values()
    )
    if not numbers:
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object of numbers such as {{"Edema": 0.2}}')
    return data
