"""Re-weighting what the reports state until it has wanted shares, by iterative proportional fitting.

Deming and Stephan (1940): the weights are scaled to each wanted share in turn until all hold. Of all weights with these
shares the result is nearest to the reports' (in relative entropy), so that what was not asked about stays plausible.
"""

from collections.abc import Mapping

import numpy as np

from datamodules.reports.keywords import SEVERITIES, SIDES, Keyword

STEPS = 2000
CLOSE = 1e-9  # no share still moves
TOLERANCE = 0.002  # a tenth of the two points that a measured share may miss by


def fit_sets(weights: np.ndarray, *, has: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> np.ndarray:
    """Scale the probabilities of sets until each finding has its share.

    Args:
        weights: float64 [sets], summing to 1.
        has: finding → bool [sets], whether the set states it.
        shares: finding → wanted share, of the same findings.

    Returns:
        float64 [sets], summing to 1.

    Raises:
        ValueError: if no weights give all shares, with what can be reached.
    """
    for _ in range(STEPS if shares else 0):
        before = weights
        for finding, share in shares.items():
            now = weights[has[finding]].sum()
            with_it, without = share / max(now, 1e-300), (1 - share) / max(1 - now, 1e-300)
            weights = np.where(has[finding], weights * with_it, weights * without)
            weights = weights / max(weights.sum(), 1e-300)
        if np.abs(weights - before).max() < CLOSE:
            break
    reached = {finding: float(weights[has[finding]].sum()) for finding in shares}
    _refuse(shares, reached, what="finding", cause="the reports that state one often state, or never state, another")
    return weights


def fit_modifiers(
    forms: Mapping[str, Mapping[Keyword, float]],
    *,
    rates: Mapping[str, float],
    sides: Mapping[str, float] | None = None,
    severities: Mapping[str, float] | None = None,
) -> dict[str, dict[Keyword, float]]:
    """Scale the forms of all words until sides and severities have their shares.

    Args:
        forms: word → keyword → weight.
        rates: word → how many of the drawn sets state it; kept.
        sides: "left", "right", "bilateral" → wanted share of the keywords that name a side.
        severities: "small", ... → wanted share of the keywords that name a severity.

    Returns:
        The forms of the words that have a rate; a word's weights sum to it.

    Raises:
        ValueError: for an unknown name, shares over 1, or shares that these words cannot have.
    """
    words = [word for word in forms if rates.get(word, 0) > 0]
    cells = [(i, keyword, weight) for i, word in enumerate(words) for keyword, weight in forms[word].items()]
    rows = np.array([i for i, _, _ in cells], dtype=np.int64)
    mass = np.array([weight for _, _, weight in cells], dtype=np.float64)
    total = np.array([rates[word] for word in words])
    wanted = []
    for what, names, shares in (("side", SIDES, sides), ("severity", SEVERITIES, severities)):
        if shares:
            _check_shares(what, names, shares)
            value = np.array([names.index(v) if (v := getattr(k, what)) else -1 for _, k, _ in cells], dtype=np.int64)
            wanted.append((what, names, shares, value))

    def balance(mass: np.ndarray) -> np.ndarray:
        sums = np.bincount(rows, mass, minlength=len(words))
        return mass * (total / np.maximum(sums, 1e-300))[rows]

    mass = balance(mass)
    for _ in range(STEPS if wanted else 0):
        before = mass
        for _, names, shares, value in wanted:
            now = _shares(mass, value, len(names))
            rest = 1 - sum(shares.values())
            free = sum(now[i] for i, name in enumerate(names) if name not in shares)
            factor = np.array(
                [shares[name] / max(now[i], 1e-300) if name in shares else rest / max(free, 1e-300)
                 for i, name in enumerate(names)]
            )  # fmt: skip
            mass = balance(np.where(value >= 0, mass * factor[value], mass))
        if np.abs(mass - before).max() < CLOSE:
            break
    for what, names, shares, value in wanted:
        reached = dict(zip(names, _shares(mass, value, len(names)), strict=True))
        _refuse(shares, reached, what=what, cause="the words that are drawn do not occur so in the reports")
    fitted: dict[str, dict[Keyword, float]] = {word: {} for word in words}
    for (i, keyword, _), weight in zip(cells, mass, strict=True):
        fitted[words[i]][keyword] = float(weight)
    return fitted


def _shares(mass: np.ndarray, value: np.ndarray, count: int) -> np.ndarray:
    """Of the cells that have a value, the share of each."""
    named = np.bincount(value[value >= 0], mass[value >= 0], minlength=count)
    return named / max(named.sum(), 1e-300)


def _check_shares(what: str, names: tuple[str, ...], shares: Mapping[str, float]) -> None:
    wrong = {name: share for name, share in shares.items() if name not in names or not 0 <= share <= 1}
    if wrong:
        raise ValueError(f"{what} shares: {wrong}; expected shares in [0, 1] of some of {list(names)}")
    total = sum(shares.values())
    if total > 1 + 1e-9 or (len(shares) == len(names) and total < 1 - 1e-9):
        raise ValueError(
            f"{what} shares: {dict(shares)} sum to {total:g}; expected at most 1, or 1 where all are named"
        )


def _refuse(shares: Mapping[str, float], reached: Mapping[str, float], *, what: str, cause: str) -> None:
    off = {name: share for name, share in shares.items() if abs(reached[name] - share) > TOLERANCE}
    if off:
        found = ", ".join(f"{name}: asked {share:.3g}, near it {reached[name]:.3g}" for name, share in off.items())
        raise ValueError(
            f"these {what} shares cannot be had together ({found}): {cause}; lower a share, or ask for fewer"
        )
