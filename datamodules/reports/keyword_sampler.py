"""Drawing keyword sets that are plausible and have wanted shares of findings, sides, severities and normal studies.

Sets of pathologies come from the table of sets that occurred in the training reports, re-weighted as `fitting` says.
The draws are stratified (a random permutation of equal parts of [0, 1), block by block), so that the shares of a
thousand draws are nearer to their targets than chance would bring them.
"""

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from datamodules.reports.consistency import check_consistent, read_keywords
from datamodules.reports.counterfactuals import Change, Counterfactual, counterfactual
from datamodules.reports.drawing import Drawer, Study, forms_of, shows
from datamodules.reports.fitting import fit_modifiers
from datamodules.reports.keywords import parse
from datamodules.reports.labels import FINDINGS, VIEWS
from datamodules.reports.vocabulary import Vocabulary

# Parts of [0, 1) that are used up before one is used again: many for the sets, few for what is drawn for a few sets.
BLOCKS = {"set": 500}
BLOCK = 20


def uniform(findings: Sequence[str], *, share: float | None = None, normal: float | None = None) -> dict[str, float]:
    """Equal marginals: each of the findings is stated by the same share of the sets.

    A set may state several of them, and others besides, as in the reports.

    Args:
        findings: CheXpert names.
        share: of the sets that state a finding. By default (1 - normal) / number of findings: as if each set that is
            not normal stated one of them.
        normal: share of normal sets, None where it is left open.

    Raises:
        ValueError: for no, a repeated or an unknown finding.
    """
    unknown = [finding for finding in findings if finding not in FINDINGS[1:]]
    twice = sorted({finding for finding in findings if findings.count(finding) > 1})
    if unknown or twice or not findings:
        found = f"{unknown} are none" if unknown else f"{twice} stand there twice" if twice else "there is none"
        raise ValueError(f"uniform over {list(findings)}: {found}; expected some of {list(FINDINGS[1:])}, each once")
    each = (1 - (normal or 0)) / len(findings) if share is None else share
    return dict.fromkeys(findings, each)


class KeywordSampler:
    """Endless keyword sets. The same seed gives the same draws, and draw i is the same however many are drawn.

    Args:
        vocabulary: mined from training reports.
        seed: of all draws.
        marginals: CheXpert finding → share of the sets that state it as present or possible. Findings that are not
            named stay as they go with those that are. See `uniform`.
        normal: share of the sets that state nothing but devices; the same as `marginals["No Finding"]`.
        sides: "left", "right", "bilateral" → share among the pathology keywords that name a side.
        severities: "small", "mild", "moderate", "large", "severe" → share among those that name a severity.
        possible: keep "possible ..." keywords as often as the reports have them; else all are stated as certain.
        view: see `Vocabulary.from_labels`.

    Raises:
        ValueError: for shares that are unknown, contradict one another or cannot be had from these reports.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        seed: int,
        marginals: Mapping[str, float] | None = None,
        normal: float | None = None,
        sides: Mapping[str, float] | None = None,
        severities: Mapping[str, float] | None = None,
        possible: bool = True,
        view: str | None = None,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected 0 or more")
        if view is not None and view not in VIEWS:
            raise ValueError(f"view is {view!r}; expected one of {list(VIEWS)}, or none")
        if view == "LATERAL" and sides:
            raise ValueError("sides with the view LATERAL: left and right lie over each other there; give one of them")
        targets = dict(marginals or {})
        if normal is not None and targets.setdefault("No Finding", normal) != normal:
            raise ValueError(
                f"normal is {normal} and the share of No Finding {targets['No Finding']}; give one of them"
            )
        self.vocabulary, self.seed, self.view, self.targets = vocabulary, seed, view, targets
        sets, weights = vocabulary.set_weights(targets)
        # Sets with the same findings side by side, so that a finding covers few stretches of [0, 1).
        names = (*targets, *(finding for finding in FINDINGS if finding not in targets))
        found = [vocabulary.findings_of(words) for words in sets]
        order = sorted(range(len(sets)), key=lambda i: ([name in found[i] for name in names], sets[i]))
        self.sets = [sets[i] for i in order]
        self.weights = weights[order]
        forms = forms_of(vocabulary, possible=possible)
        if sides or severities:
            rates: dict[str, float] = {}
            for words, weight in zip(self.sets, self.weights, strict=True):
                for word in words:
                    rates[word] = rates.get(word, 0.0) + float(weight)
            forms |= fit_modifiers(forms, rates=rates, sides=sides, severities=severities)
        self.drawer = Drawer(vocabulary, forms=forms)

    @property
    def variety(self) -> float:
        """As many sets of pathologies, each as likely as the other, would be as varied; normal studies not counted.

        1 / the chance that two draws are the same set (the inverse of Simpson's index).
        """
        weights = self.weights[[bool(words) for words in self.sets]]
        return float(weights.sum() ** 2 / max(np.square(weights).sum(), 1e-300))

    def draws(self) -> Iterator[Study]:
        """Studies 0, 1, 2, ... without end."""
        strata = Strata(self.seed)
        ends = np.cumsum(self.weights)
        # A share of 0 leaves sets of no weight, at the end too.
        last = int(np.flatnonzero(self.weights)[-1])
        for i in itertools.count():
            at = min(int(np.searchsorted(ends, strata("set") * ends[-1], side="right")), last)
            rng = np.random.default_rng([self.seed, i])
            study = self.drawer.study(self.sets[at], rng=rng, variate=strata, view=self.view)
            check_consistent(study.keywords.pathology)
            yield study

    def draw(self, n: int) -> list[Study]:
        """The first n studies."""
        return list(itertools.islice(self.draws(), n))

    def asked(self, texts: Sequence[str], *, index: int = 0) -> Study:
        """A study that states what somebody asked for, the anatomy that goes with it drawn; targets do not matter.

        Args:
            texts: see `consistency.check_consistent`.
            index: another one draws other anatomy.

        Raises:
            ValueError: if two keywords contradict each other or one the view, or if one is not understood or not in
                the vocabulary.
        """
        keywords = read_keywords(texts)
        for text in (*keywords.pathology, *keywords.anatomy):
            word = parse(text).word
            if not shows(parse(text), self.view):
                raise ValueError(
                    f"a {self.view} view does not show {text!r}; ask for it without a side, or another view"
                )
            if word not in self.vocabulary.entries:
                why = self.vocabulary.left_out.get(word, {}).get("reason", "no report mentions it")
                raise ValueError(f"the vocabulary does not hold {word!r} ({why}), so that nothing is written about it")
        rng = np.random.default_rng([self.seed, index])
        return self.drawer.complete(keywords, rng=rng, view=self.view)

    def counterfactual(self, study: Study, change: Change, *, index: int) -> Counterfactual | None:
        """Study `index` with one finding changed, see `counterfactuals`; the same for the same seed and index."""
        rng = np.random.default_rng([self.seed, index, zlib.crc32(change.encode())])
        return counterfactual(study, change, drawer=self.drawer, rng=rng, view=self.view)


class Strata:
    """Numbers in [0, 1) by name: of each block of them, each equal part of [0, 1) gets one, in random order.

    The order is drawn for each name, so that choices of different names do not depend on each other.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._used: dict[str, int] = {}
        self._blocks: dict[str, np.ndarray] = {}

    def __call__(self, name: str) -> float:
        """The next number of that name."""
        used = self._used.get(name, 0)
        size = BLOCKS.get(name, BLOCK)
        if used % size == 0:
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), used // size])
            self._blocks[name] = (rng.permutation(size) + rng.random(size)) / size
        self._used[name] = used + 1
        return float(self._blocks[name][used % size])
