"""The search of the key-patch codebook, against a plain loop over all entries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.key_patches import KeyPatchCodebook, KeyPatchConfig
from lightning_modules.networks.text_numbers import text_number


def unit(*shape: int, generator: torch.Generator) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def codebook(entries: int, *, words: int, seed: int = 0, dim: int = 8) -> KeyPatchCodebook:
    g = torch.Generator().manual_seed(seed)
    book = KeyPatchCodebook(KeyPatchConfig(entries, 1, dim, tuple(f"word {i:03d}" for i in range(words))))
    drawn = {
        "features": unit(entries, dim, generator=g),
        "word": torch.randint(words, (entries,), generator=g),
        "side": torch.randint(-1, 2, (entries,), generator=g),
        "patient": torch.randint(1, 5, (entries,), generator=g),
        "centres": unit(words, dim, generator=g),
        "pathology": torch.arange(words) % 2 == 0,
    }
    book.load_state_dict(book.state_dict() | drawn)
    return book


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    entries=st.integers(1, 60),
    words=st.integers(1, 6),
    queries=st.integers(1, 70),
    count=st.integers(1, 12),
)
def test_the_same_as_a_loop(seed: int, entries: int, words: int, queries: int, count: int) -> None:
    book = codebook(entries, words=words, seed=seed)
    g = torch.Generator().manual_seed(seed + 1)
    features = unit(queries, 8, generator=g)
    asked = torch.randint(words, (queries,), generator=g)
    sides = torch.randint(-1, 2, (queries,), generator=g)
    patients = torch.randint(0, 5, (queries,), generator=g)
    scores, found = book.retrieve(features, asked, sides, patients, count=count)
    assert scores.shape == found.shape == (queries, count)
    for q in range(queries):
        right = [
            e
            for e in range(entries)
            if book.word[e] == asked[q]
            and not (sides[q] >= 0 and book.side[e] >= 0 and sides[q] != book.side[e])
            and not (patients[q] != 0 and patients[q] == book.patient[e])
        ]
        cosines = (book.features[right] @ features[q]).tolist() if right else []
        best = sorted(zip(cosines, right, strict=True), reverse=True)[:count]
        kept = scores[q] > float("-inf")
        assert kept.sum() == len(best)
        assert scores[q][kept].tolist() == pytest.approx([score for score, _ in best], abs=1e-5)
        assert found[q][kept].tolist() == [entry for _, entry in best]


def test_nearest_word_among_those_allowed_by_what_they_do_not_share() -> None:
    book = KeyPatchCodebook(KeyPatchConfig(1, 1, 3, ("a", "b", "c")))
    # All lie close to one axis; without it they stand at right angles or opposite.
    book.centres[:] = torch.tensor([[0.1, 0.0, 1.0], [-0.1, 0.0, 1.0], [0.0, 0.1, 1.0]])
    query = torch.tensor([[0.1, 0.1 / 3, 1.0]]).repeat(4, 1)  # beside a, seen from the mean (0, 1/30, 1)
    allowed = torch.tensor([[True, True, True], [False, True, True], [False, True, False], [False, False, False]])
    cosine, word = book.nearest_words(query, allowed)
    assert word[:3].tolist() == [0, 2, 1]
    near = 0.1 / (0.1**2 + (0.1 / 3) ** 2) ** 0.5
    assert cosine.tolist() == pytest.approx([near, 0.0, -near, float("-inf")], abs=1e-5)


def test_a_patient_has_the_same_number_everywhere() -> None:
    assert text_number("p10000032") == -2556966255663743717
