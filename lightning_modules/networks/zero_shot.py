"""What the aligner knows of findings by words alone: presence by prompts, and whether it hears status and side.

Zero-shot AUROC (CheXzero, Tiu et al. 2022): an image scores by how much more of "There is X." it shows than of "No X.".
Unlike CheXzero the aligner has seen labels: its first stages may be a classifier's, and the prompts are trained on.
Flipped twins: of a true statement and the one with its status or its side exchanged, the true one should score higher.
Shapes: B images, P patches, D the aligner's space.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from datamodules.reports.entailment import SIDES, Fact, fact_of, facts, holds, pathologies
from datamodules.reports.labels import FINDINGS
from datamodules.reports.modifiers import Status
from datamodules.reports.phrases import lexicon, sentences
from datamodules.reports.sides import swap_sides
from lightning_modules.networks.alignment import AlignmentNetwork, Queries
from lightning_modules.networks.bootstrap import resampled, weighted_auroc
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.statements import prompt_pair, queries
from lightning_modules.networks.tokenizer import Tokens

STATUSES: tuple[Status, Status] = ("present", "absent")
Tokenize = Callable[[Sequence[str]], Tokens]


@dataclasses.dataclass(frozen=True)
class Twins:
    """A statement of one image's report and its flipped twin: which of the two scored higher."""

    image_id: str
    kind: str  # "stated" or "denied", of which the status was exchanged, or "side"
    right: bool


@dataclasses.dataclass(frozen=True)
class ShownFindings:
    """One image's zero-shot scores and its labels."""

    image_id: str
    patient_id: str
    scores: tuple[float, ...]  # [14], NaN where no word of the finding was learnt
    labels: tuple[float, ...]  # [14] of 1, 0 or NaN


def prompt_words(reports: Sequence[str]) -> dict[str, list[str]]:
    """For each finding the pathology words of its label that these reports state, sorted."""
    stated = {fact.word for report in reports for fact in facts(report) if fact.status == "present"}
    entities = lexicon().entities
    return {
        name: words for name in FINDINGS if (words := sorted(word for word in stated if entities[word].label == name))
    }


@dataclasses.dataclass(frozen=True)
class PromptedFindings:
    """What M prompts "There is X." ask, and how much more of each than of "No X." B images show."""

    owners: list[int]  # [M], the finding of each
    vectors: Tensor  # [M,D]
    values: Tensor  # [B,M]


def zero_shot(
    network: AlignmentNetwork, tokenize: Tokenize, patches: Tensor, words: dict[str, list[str]]
) -> PromptedFindings:
    """Ask images' patches [B,P,D] for each word of each finding."""
    owners = [FINDINGS.index(finding) for finding, of_finding in words.items() for _ in of_finding]
    if not owners:
        return PromptedFindings([], patches.new_zeros(0, patches.shape[-1]), patches.new_zeros(len(patches), 0))
    listed = [word for of_finding in words.values() for word in of_finding]
    asked = [(text, 0) for word in listed for text in prompt_pair(word)]
    read = _read(network, tokenize, asked)
    fits = network.fits(read, patches)
    return PromptedFindings(owners, read.vectors[::2], fits[:, ::2] - fits[:, 1::2])


def finding_scores(prompted: PromptedFindings) -> list[list[float]]:
    """Scores [B][14]: the highest of a finding's words counts; NaN without any."""
    scores = prompted.values.new_full((len(prompted.values), len(FINDINGS)), torch.nan)
    for finding in set(prompted.owners):
        own = [n for n, owner in enumerate(prompted.owners) if owner == finding]
        scores[:, finding] = prompted.values[:, own].amax(dim=1)
    return scores.tolist()


def _read(network: AlignmentNetwork, tokenize: Tokenize, asked: Sequence[tuple[str, int]]) -> Queries:
    """What texts' n-th pathologies ask for; of a text that is cut before it, its first word."""
    tokens = tokenize([text for text, _ in asked])
    found = []
    for row, (text, number) in enumerate(asked):
        named = pathologies(text)
        inside = mention_words(named[number], tokens.spans[row]) if number < len(named) else []
        found.append((row, inside or [0]))
    return queries(found, network.words(tokens))


def zero_shot_auroc(
    cases: Sequence[ShownFindings], *, names: Sequence[str], least: int = 1, intervals: bool = False
) -> dict[str, float]:
    """AUROC of each finding, their mean and number; images whose label is uncertain are left out.

    Args:
        cases: of all images.
        least: images of either label that a finding needs.
        names: of the 14 findings in the keys "zero_shot_auroc/<name>"; the mean is "zero_shot_auroc".
        intervals: give "zero_shot_auroc_low" and "zero_shot_auroc_high" too, see `bootstrap`.
    """
    if not cases:
        return {}
    scores, labels = torch.tensor([c.scores for c in cases]), torch.tensor([c.labels for c in cases])
    found, taken = {}, []
    for i, name in enumerate(names):
        known = ~labels[:, i].isnan() & ~scores[:, i].isnan()
        positive = int((labels[known, i] == 1).sum())
        if FINDINGS[i] != "No Finding" and min(positive, int(known.sum()) - positive) >= max(1, least):
            taken.append((i, known))
            # Ranks: torchmetrics would take values beyond [0,1] for logits, and their sigmoid ties the largest.
            order = scores[known, i].unique(return_inverse=True)[1].double()
            found[f"zero_shot_auroc/{name}"] = float(
                binary_auroc(order / order.max().clamp_min(1), labels[known, i].long())
            )
    if not found:
        return {}
    found |= {"zero_shot_auroc": sum(found.values()) / len(found), "zero_shot_findings": float(len(found))}
    if intervals:

        def macro(times: Tensor) -> Tensor:
            each = [weighted_auroc(scores[k, i], labels[k, i] == 1, times[:, k]) for i, k in taken]
            return torch.stack(each).nanmean(dim=0)

        ends = resampled(macro, [case.patient_id for case in cases])
        found |= {"zero_shot_auroc_low": ends[0], "zero_shot_auroc_high": ends[1]}
    return found


def twin_texts(report: str) -> list[tuple[str, tuple[str, int], tuple[str, int]]]:
    """(kind, true statement, its twin) of a report; a statement is a text and the number of the pathology in it.

    A side is exchanged in the sentence itself. A status is exchanged between "There is X." and "No X.", whichever the
    report says, so that nothing but the status tells the two apart. Left out is what the report as a whole does not
    decide: "No left effusion. Right effusion." says neither of effusion in general.
    """
    found, stated = [], facts(report)
    texts = [f"{sentence.strip('. ')}." for _, sentence in sentences(report)]
    numbers: Counter[int] = Counter()
    for mention in pathologies(report):
        number = numbers[mention.sentence]
        numbers[mention.sentence] += 1
        if mention.status == "uncertain":
            continue
        stating, denying = ((text, 0) for text in prompt_pair(mention.word))
        there, none = (holds(Fact(mention.word, status), stated) for status in STATUSES)
        if mention.status == "present" and (there, none) == (1.0, 0.0):
            found.append(("stated", stating, denying))
        if mention.status == "absent" and (there, none) == (0.0, 1.0):
            found.append(("denied", denying, stating))
        text = texts[mention.sentence]
        turned = swap_sides(text)
        if mention.status == "present" and mention.side in SIDES and turned != text:
            fact = fact_of(mention)
            other = fact._replace(side=SIDES[mention.side == SIDES[0]])
            if holds(fact, stated, severity=False) == 1.0 and holds(other, stated, severity=False) == 0.0:
                found.append(("side", (text, number), (turned, number)))
    return list(dict.fromkeys(found))


def twins(
    network: AlignmentNetwork, tokenize: Tokenize, patches: Tensor, image_ids: Sequence[str], reports: Sequence[str]
) -> list[Twins]:
    """Both kinds of twins of each image: patches [B,P,D]."""
    told = [twin_texts(report) for report in reports]
    asked = list(dict.fromkeys(one for of_image in told for _, *pair in of_image for one in pair))
    if not asked:
        return []
    number = {one: i for i, one in enumerate(asked)}
    read = _read(network, tokenize, asked)
    found = []
    for b, of_image in enumerate(told):
        # Each image is asked its own statements: all of the batch's would be tens of times as many.
        own = [number[one] for _, *pair in of_image for one in pair]
        fits = network.fits(Queries(*(part[own] for part in read)), patches[b : b + 1])[0].tolist()
        found += [
            Twins(image_ids[b], kind, true > false)
            for (kind, *_), true, false in zip(of_image, fits[::2], fits[1::2], strict=True)
        ]
    return found


def twin_scores(cases: Sequence[Twins]) -> dict[str, float]:
    """The shares of true statements that score above their twins.

    Returns:
        "stated_flipped", "denied_flipped" and "side_flipped" with their "…_cases"; "status_flipped" is the mean of the
        first two: most statements deny, so that whoever always denies would be right in most cases.
    """
    scores: dict[str, float] = {}
    for kind in ("stated", "denied", "side"):
        of_kind = [case.right for case in cases if case.kind == kind]
        if of_kind:
            scores |= {f"{kind}_flipped": sum(of_kind) / len(of_kind), f"{kind}_flipped_cases": float(len(of_kind))}
    if {"stated_flipped", "denied_flipped"} <= scores.keys():
        scores["status_flipped"] = (scores["stated_flipped"] + scores["denied_flipped"]) / 2
    return scores
