"""Runs of eight words that stand in a training report: what a written text has copied, and how much it may.

Reports repeat one another word for word: a text may copy as often as a training report repeats another one, no more.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

RUN = 8  # words


def fingerprint(text: str) -> int:
    """63 bits: collisions among a million texts are as unlikely as 1 in 10 million."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def ngrams(text: str, n: int) -> list[str]:
    """The lower-cased white-space word n-grams of a text, in order."""
    words = text.lower().split()
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def _runs(text: str, n: int) -> np.ndarray:
    """The fingerprints of its n-grams, in order: int64 [runs]."""
    return np.array([fingerprint(gram) for gram in ngrams(text, n)], dtype=np.int64)


def _among(runs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each of the runs is one of the known, which are sorted: bool [runs]."""
    if not len(known):
        return np.zeros(len(runs), dtype=bool)
    return np.asarray(known[np.searchsorted(known, runs).clip(max=len(known) - 1)] == runs)


class CopiedNgrams:
    """Which runs of n words of a text stand in a training report.

    Args:
        reports: of the training split.
        n: length of a run in words.

    Attributes:
        known: the fingerprints of their runs, sorted: int64 [different runs].
        repeating: share of the reports with a run that stands in another of them too, in [0,1]; 0 without reports.
    """

    def __init__(self, reports: Iterable[str], *, n: int = RUN) -> None:
        self.n = n
        rows = [np.unique(_runs(report, n)) for report in reports]
        self.known, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *rows]), return_counts=True)
        shared = self.known[counts > 1]
        self.repeating = float(np.mean([_among(row, shared).any() for row in rows])) if rows else 0.0

    def state(self) -> dict[str, Tensor | float]:
        """What a checkpoint holds of it: fingerprints from which no report can be read."""
        return {"runs": torch.from_numpy(self.known), "repeating": self.repeating}

    @classmethod
    def from_state(cls, state: dict[str, Tensor | float]) -> "CopiedNgrams":
        """The inverse of `state`, for runs of eight words."""
        made = cls([])
        made.known = torch.as_tensor(state["runs"]).numpy()
        made.repeating = float(state["repeating"])
        return made

    def _found(self, text: str) -> np.ndarray:
        """For each run of the text, in order, whether it stands in a training report: bool [runs]."""
        return _among(_runs(text, self.n), self.known)

    def __call__(self, text: str) -> bool:
        """Whether any run of the text stands in a training report."""
        return bool(self._found(text).any())

    def count(self, text: str) -> int:
        """How many do."""
        return int(self._found(text).sum())

    def new(self, text: str) -> tuple[int, int]:
        """How many runs of the text stand in no training report, and how many it has."""
        found = self._found(text)
        return int((~found).sum()), len(found)

    def may_copy(self, keys: Sequence[str], *, seed: int) -> list[bool]:
        """Which texts may copy a run: drawn for each key by itself, as often as training reports repeat one another."""
        return [
            bool(np.random.default_rng([seed, zlib.crc32(key.encode()), RUN]).random() < self.repeating) for key in keys
        ]
