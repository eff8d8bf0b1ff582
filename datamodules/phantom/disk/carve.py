"""The rule by which a share for validation is carved out of a published training set, written a second time."""

import hashlib


def is_carved(patient: str, *, share: float, seed: int = 0) -> bool:
    """Whether this patient goes to validate: the first 8 bytes of the sha256 of "seed:patient", as a fraction."""
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8]
    return int.from_bytes(digest, "big") / 2.0**64 < share
