"""Candidates for tests: everything but what a test is about has a fixed value."""

from typing import Any

import numpy as np

from lightning_modules.networks.key_patch_build import Candidate
from lightning_modules.networks.key_patch_files import Digests

DIGESTS = Digests(aligner="a" * 64, tokens="t" * 64, manifest="m" * 64, splits="s" * 64)


def entry(word: str, score: float, *, image: str, pair: float = 0.5, **other: Any) -> Candidate:
    axis = np.eye(8, dtype=np.float32)
    fixed: dict[str, Any] = {
        "kind": "pathology",
        "side": "",
        "study_id": f"s-{image}",
        "patient_id": f"p-{image}",
        "box": (0.0, 0.0, 0.25, 0.25),
        "feature": axis[0],
        "word_half": axis[1],
        "codes": (3,),
        "positions": (0,),
    }
    return Candidate(word=word, score=score, pair_score=pair, image_id=image, **(fixed | other))
