"""Numbers that stand for texts and ids, the same in every process: what tensors compare, and an order without ranks."""

import hashlib


def text_number(text: str) -> int:
    """A signed 64-bit number for a text or an id, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
