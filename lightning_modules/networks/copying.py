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


def _fingerprints(text: str, n: int) -> list[int]:
    return [fingerprint(gram) for gram in ngrams(text, n)]


class CopiedNgrams:
    """Which runs of n words of a text stand in a training report.

    Args:
        reports: of the training split.
        n: length of a run in words.

    Attributes:
        repeating: share of the reports with a run that stands in another of them too, in [0,1]; 0 without reports.
    """

    def __init__(self, reports: Iterable[str], *, n: int = RUN) -> None:
        self.n = n
        rows = [sorted(set(_fingerprints(report, n))) for report in reports]
        runs = np.array([run for row in rows for run in row], dtype=np.int64)
        self._set(*np.unique(runs, return_counts=True))
        ends = np.cumsum([len(row) for row in rows])
        again = self._counts[np.searchsorted(self.known, runs)] > 1 if len(runs) else np.zeros(0, dtype=bool)
        shared = [bool(again[end - len(row) : end].any()) for row, end in zip(rows, ends, strict=True)]
        self.repeating = float(np.mean(shared)) if shared else 0.0

    def _set(self, known: np.ndarray, counts: np.ndarray) -> None:
        self.known, self._counts = known, counts

    def state(self) -> dict[str, Tensor | float]:
        """What a checkpoint holds of it: fingerprints from which no report can be read."""
        return {"runs": torch.from_numpy(self.known), "repeating": self.repeating}

    @classmethod
    def from_state(cls, state: dict[str, Tensor | float]) -> "CopiedNgrams":
        """The inverse of `state`, for runs of eight words."""
        made = cls([])
        runs = torch.as_tensor(state["runs"]).numpy()
        made._set(runs, np.ones_like(runs))
        made.repeating = float(state["repeating"])
        return made

    def _found(self, text: str) -> np.ndarray:
        """For each run of the text, in order, whether it stands in a training report: bool [runs]."""
        runs = np.array(_fingerprints(text, self.n), dtype=np.int64)
        if not len(self.known):
            return np.zeros(len(runs), dtype=bool)
        place = np.searchsorted(self.known, runs).clip(max=len(self.known) - 1)
        return np.asarray(self.known[place] == runs)

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
