"""What a report fetches: sides, negation, own patients, words without entries, places."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork, read_words
from lightning_modules.networks.clue_retriever import ClueRetriever, asked
from lightning_modules.networks.key_patches import KeyPatchConfig
from lightning_modules.networks.text_numbers import text_number
from lightning_modules.networks.tokenizer import train_tokenizer

CONFIG = AlignerConfig(resolution=16, patch=4, width=16, depth=1, heads=2, dim=8, dropout=0.0, text_width=16)
REPORTS = [
    "Large left pleural effusion.",
    "Right pleural effusion. No pneumothorax.",
    "No pleural effusion. The heart is enlarged, cardiomegaly.",
]
TOKENIZER = train_tokenizer(REPORTS * 3, kind="words", vocabulary=200)
ANATOMY = {"lungs", "heart"}


def retriever(entries: list[tuple[str, str, str, int, int]], **sizes: int) -> ClueRetriever:
    """From (word, side, patient, code, position); features agree with the words' own."""
    torch.manual_seed(0)
    words = tuple(sorted({e[0] for e in entries}))
    config = KeyPatchConfig(len(entries), 1, 8, words, **sizes)
    network = AlignmentNetwork(CONFIG, vocabulary=len(ClueRetriever(CONFIG, TOKENIZER, config).tokenizer))
    generator = torch.Generator().manual_seed(1)
    arrays = {
        "features": functional.normalize(torch.randn(len(entries), 8, generator=generator), dim=1),
        "codes": torch.tensor([[e[3]] for e in entries]),
        "positions": torch.tensor([[e[4]] for e in entries]),
        "word": torch.tensor([words.index(e[0]) for e in entries]),
        "side": torch.tensor([{"left": 0, "right": 1}.get(e[1], -1) for e in entries]),
        "patient": torch.tensor([text_number(e[2]) for e in entries]),
        "centres": functional.normalize(torch.randn(len(words), 8, generator=generator), dim=1),
        "pathology": torch.tensor([word not in ANATOMY for word in words]),
    }
    return ClueRetriever(CONFIG, TOKENIZER, config).load_stages(network.state_dict(), arrays)


ENTRIES = [
    ("pleural effusion", "left", "p1", 10, 1),
    ("pleural effusion", "left", "p2", 11, 2),
    ("pleural effusion", "right", "p3", 12, 3),
    ("cardiomegaly", "", "p4", 13, 4),
    ("pneumothorax", "left", "p5", 14, 5),
]


def codes_of(clues: torch.Tensor) -> list[set[int]]:
    return [{int(code) for code, _ in row.tolist() if code >= 0} for row in clues]


def test_side_negation_and_same_patient() -> None:
    part = retriever(ENTRIES, clue_entries=10, clue_tokens=6)
    clues = part.clues(REPORTS)
    assert clues.shape == (3, 6, 2)
    assert codes_of(clues) == [{10, 11}, {12}, {13}]  # own side only; "no ..." fetches nothing
    pairs = {(c, p) for c, p in clues[0].tolist() if c >= 0}
    assert pairs == {(10, 1), (11, 2)}
    assert codes_of(part.clues(REPORTS, exclude_patients=["p1", "p3", "p9"])) == [{11}, set(), {13}]
    assert codes_of(part.clues(["No pleural effusion.", "", "No pneumothorax or cardiomegaly."])) == [set()] * 3
    assert codes_of(part.clues(["Bilateral pleural effusions."])) == [{10, 11, 12}]


def test_every_present_finding_keeps_a_clue_and_the_rest_goes_to_the_best() -> None:
    part = retriever(ENTRIES, clue_entries=2, clue_tokens=6)
    report = "Left pleural effusion. Cardiomegaly."
    fetched = part.fetch([report])[0]
    assert {found.word for found in fetched} == {"pleural effusion", "cardiomegaly"}
    tokens = part.tokenizer([report], max_length=CONFIG.max_length)
    words = functional.normalize(part.text_out(read_words(part.text, tokens)), dim=-1)[0]
    query = functional.normalize(words[1:3].mean(dim=0), dim=0)  # "pleural effusion"
    scores = (part.codebook.features[:2] @ query).tolist()
    effusion = next(found for found in fetched if found.word == "pleural effusion")
    assert effusion.score == pytest.approx(max(scores), abs=1e-5)
    assert effusion.entry == int(np.argmax(scores))


def word_vector(part: ClueRetriever, report: str, place: int) -> torch.Tensor:
    tokens = part.tokenizer([report], max_length=CONFIG.max_length)
    return functional.normalize(part.text_out(read_words(part.text, tokens)), dim=-1)[0, place]


def test_a_word_without_entries_takes_those_of_the_nearest_word() -> None:
    part = retriever(
        [
            ("cardiomegaly", "", "p1", 5, 7),
            ("pulmonary edema", "left", "p2", 6, 8),
            ("pulmonary edema", "right", "p3", 7, 9),
            ("heart", "", "p4", 8, 10),
        ],
        clue_entries=4,
        clue_tokens=3,
    )
    asks = word_vector(part, "Left pneumothorax.", 1)
    # Words in order: cardiomegaly, heart, pulmonary edema. Anatomy is more alike, and is no pathology.
    away = functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(0)), dim=0)
    part.codebook.centres[:] = torch.stack([-asks, asks, functional.normalize(asks + 0.5 * away, dim=0)])
    reports = ["Left pneumothorax.", "Left pneumothorax. No edema.", "No pneumothorax."]
    clues = part.clues(reports)
    assert clues[0].tolist() == [[6, 8], [-1, -1], [-1, -1]]  # the neighbour's, of the side that asks
    assert (clues[1:] == -1).all()  # never what the report denies
    # A word that is like no other fetches nothing.
    part.codebook.centres[:] = -asks
    assert (part.clues(reports) == -1).all()


def test_anatomy_without_entries_takes_anatomy() -> None:
    entries = [("cardiomegaly", "", "p1", 5, 7), ("heart", "", "p4", 8, 10), ("pneumothorax", "", "p5", 9, 11)]
    part = retriever(entries, clue_entries=4, clue_tokens=2)
    report = "The trachea is midline."
    assert [mention.word for mention in asked(report).mentions] == ["trachea"]
    alike = word_vector(part, report, 1)
    part.codebook.centres[:] = torch.stack([alike, 0.9 * alike, -alike])  # cardiomegaly is as near, and no anatomy
    assert part.clues([report])[0].tolist() == [[8, 10], [-1, -1]]
    part = retriever([("cardiomegaly", "", "p1", 5, 7)], clue_entries=4, clue_tokens=2)
    part.codebook.centres[:] = word_vector(part, report, 1)
    assert (part.clues([report]) == -1).all()


def test_what_a_report_asks_for() -> None:
    wanted = asked("No edema. No effusion on the left. Small right effusion.")
    assert [(m.word, m.side) for m in wanted.mentions] == [("pleural effusion", "right")]
    assert wanted.denied == {"pulmonary edema"}  # the effusion is affirmed elsewhere


def test_the_best_entry_wins_a_position() -> None:
    part = retriever(
        [("pulmonary edema", "", "p1", 5, 7), ("pulmonary edema", "", "p2", 6, 7)], clue_entries=4, clue_tokens=3
    )
    word = word_vector(part, "Pulmonary edema.", 0)
    part.codebook.features[0], part.codebook.features[1] = -word, word
    assert part.clues(["Pulmonary edema."])[0].tolist() == [[6, 7], [-1, -1], [-1, -1]]


def test_clues_from_a_state_dict_alone() -> None:
    part = retriever(ENTRIES, clue_entries=10, clue_tokens=6)
    copy = ClueRetriever(part.aligner_config, part.tokenizer.state, part.config).eval()
    copy.load_state_dict(part.state_dict())
    assert torch.equal(copy.clues(REPORTS), part.clues(REPORTS))
