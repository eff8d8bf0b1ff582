"""Choosing key patches by hand, what a box covers, and what a report fetches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork, encode_words
from lightning_modules.networks.key_patch_build import (
    Candidate,
    KeyPatchBuilder,
    KeyPatchOptions,
    cells_of_box,
    select,
    write_atlas,
    write_key_patches,
)
from lightning_modules.networks.key_patches import (
    ClueRetriever,
    KeyPatchCodebook,
    KeyPatchConfig,
    load_key_patches,
    patient_hash,
)
from lightning_modules.networks.tokenizer import train_tokenizer

CONFIG = AlignerConfig(resolution=16, patch=4, width=16, depth=1, heads=2, dim=8, dropout=0.0, text_width=16)
REPORTS = [
    "Large left pleural effusion.",
    "Right pleural effusion. No pneumothorax.",
    "No pleural effusion. The heart is enlarged, cardiomegaly.",
]
TOKENIZER = train_tokenizer(REPORTS * 3, kind="words", vocabulary=200)
DIGESTS = {"aligner": "a" * 64, "tokens": "t" * 64, "manifest": "m" * 64}


def entry(word: str, score: float, *, image: str, pair: float = 0.5, side: str = "", patient: str = "") -> Candidate:
    return Candidate(
        word=word,
        score=score,
        pair_score=pair,
        side=side,
        image_id=image,
        study_id=f"s-{image}",
        patient_id=patient or f"p-{image}",
        box=(0.0, 0.0, 0.25, 0.25),
        feature=np.eye(8, dtype=np.float32)[0],
        codes=(3,),
        positions=(0,),
    )


def test_cells_at_least_half_covered() -> None:
    # A 4 × 4 grid: cells of side 0.25.
    assert cells_of_box((0.25, 0.5, 0.5, 0.75), height=4, width=4) == [9]
    assert cells_of_box((0.0, 0.0, 0.375, 0.25), height=4, width=4) == [0, 1]  # the second is covered by half
    assert cells_of_box((0.0, 0.0, 0.36, 0.25), height=4, width=4) == [0]
    assert cells_of_box((0.125, 0.125, 0.375, 0.375), height=4, width=4) == [0]  # a quarter of each of four
    assert cells_of_box((0.0, 0.0, 1.0, 1.0), height=2, width=3) == list(range(6))
    # A patch that is a quarter of a codebook cell keeps that cell.
    assert cells_of_box((0.75, 0.25, 0.875, 0.375), height=4, width=4) == [7]
    assert cells_of_box((3 / 7, 0, 4 / 7, 1), height=1, width=7) == [3]


def test_selection_by_hand() -> None:
    options = KeyPatchOptions(top_pairs=2, top_words=2, word_quota=2, word_floor=1)
    builder = KeyPatchBuilder(options)
    builder.add(
        [
            entry("lungs", 0.9, image="a", pair=0.8),
            entry("edema", 0.7, image="a", pair=0.8),
            entry("heart", 0.1, image="a", pair=0.8),
            entry("lungs", 0.95, image="a", pair=0.8),
        ],
        split="train",
    )
    builder.add([entry("lungs", 0.6, image="b", pair=0.7)], split="train")
    builder.add([entry("nodule", 0.2, image="c", pair=0.1), entry("lungs", 0.99, image="c", pair=0.1)], split="train")
    pairs, floor = builder.candidates()
    chosen = select(pairs, floor, options=options)
    assert [(c.word, c.score, c.image_id) for c in chosen] == [
        ("edema", 0.7, "a"),
        ("heart", 0.1, "a"),  # third in its pair, but the floor keeps one entry of every word
        ("lungs", 0.95, "a"),  # the better one of two in the same report
        ("lungs", 0.6, "b"),  # 0.99 of image c is not in the best two pairs
        ("nodule", 0.2, "c"),
    ]
    # The order in which ranks hand over does not matter, and a quota of one cuts the second "lungs".
    assert select(pairs[::-1], floor[::-1], options=options) == chosen
    quota = KeyPatchOptions(top_pairs=2, top_words=2, word_quota=1, word_floor=1)
    assert [c.score for c in select(pairs, floor, options=quota) if c.word == "lungs"] == [0.95]


@pytest.mark.parametrize("split", ["validate", "test"])
def test_a_study_of_another_split_is_refused(split: str) -> None:
    builder = KeyPatchBuilder(KeyPatchOptions())
    with pytest.raises(ValueError, match=f"study s-x .* is of split '{split}'.*split 'train' only"):
        builder.add([entry("heart", 0.5, image="x")], split=split)
    assert builder.candidates() == ([], [])


def test_files_round_trip(tmp_path: Path) -> None:
    entries = [entry("edema", 0.7, image="a"), entry("heart", 0.6, image="b", side="left")]
    path = tmp_path / "key_patches.safetensors"
    write_key_patches(entries, path, digests=DIGESTS, options=KeyPatchOptions())
    config, arrays = load_key_patches(path, tokens_digest="t" * 64)
    assert config == KeyPatchConfig(2, 1, 8, ("edema", "heart"))
    assert arrays["word"].tolist() == [0, 1]
    assert arrays["side"].tolist() == [-1, 0]
    assert arrays["patient"].tolist() == [patient_hash("p-a"), patient_hash("p-b")]
    KeyPatchCodebook(config).load_state_dict(arrays)
    lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert [(line["word"], line["study_id"], line["codes"]) for line in lines] == [
        ("edema", "s-a", [3]),
        ("heart", "s-b", [3]),
    ]
    with pytest.raises(ValueError, match="holds codes of the codebook tttttttttttt, expected those of 000000000000"):
        load_key_patches(path, tokens_digest="0" * 64)
    with pytest.raises(FileNotFoundError, match=r"predict -c configs/base.yaml -c configs/aligner.yaml"):
        load_key_patches(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="no key patch was found"):
        write_key_patches([], path, digests=DIGESTS, options=KeyPatchOptions())
    assert not list(tmp_path.glob("*.tmp"))


def test_atlas_shows_only_entries_with_pixels(tmp_path: Path) -> None:
    from PIL import Image

    bright = Candidate(**{**entry("heart", 0.9, image="a").__dict__, "pixels": np.full((8, 8), 255, np.uint8)})
    write_atlas([bright, entry("edema", 0.8, image="b")], tmp_path / "atlas.png", size=20)
    picture = np.asarray(Image.open(tmp_path / "atlas.png"))
    assert picture.shape[0] == 24  # one row: edema has no pixels
    assert (picture[:20, 150:170] == 255).all()
    assert (picture[:, 174:] == 0).all()


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
        "patient": torch.tensor([patient_hash(e[2]) for e in entries]),
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
    words = encode_words(part.text, part.text_out, tokens)[0]
    query = functional.normalize(words[1:3].mean(dim=0), dim=0)  # "pleural effusion"
    scores = (part.codebook.features[:2] @ query).tolist()
    effusion = next(found for found in fetched if found.word == "pleural effusion")
    assert effusion.score == pytest.approx(max(scores), abs=1e-5)
    assert effusion.entry == int(np.argmax(scores))


def test_a_finding_without_entries_takes_its_neighbours_but_none_that_is_denied() -> None:
    part = retriever(
        [("cardiomegaly", "", "p1", 5, 7), ("pulmonary edema", "", "p2", 6, 7)], clue_entries=4, clue_tokens=3
    )
    reports = ["Left pneumothorax.", "Left pneumothorax. No edema.", "Lungs are clear."]
    tokens = part.tokenizer(reports[:1], max_length=CONFIG.max_length)
    word = encode_words(part.text, part.text_out, tokens)[0, 1]  # "pneumothorax"
    # The first entry is less alike than is asked, the second is as alike as can be.
    part.codebook.features[0], part.codebook.features[1] = -word, word
    clues = part.clues(reports)
    assert clues[0].tolist() == [[6, 7], [-1, -1], [-1, -1]]
    assert (clues[1:] == -1).all()


def test_the_best_entry_wins_a_position() -> None:
    part = retriever(
        [("pulmonary edema", "", "p1", 5, 7), ("pulmonary edema", "", "p2", 6, 7)], clue_entries=4, clue_tokens=3
    )
    tokens = part.tokenizer(["Pulmonary edema."], max_length=CONFIG.max_length)
    word = encode_words(part.text, part.text_out, tokens)[0, 0]
    part.codebook.features[0], part.codebook.features[1] = -word, word
    assert part.clues(["Pulmonary edema."])[0].tolist() == [[6, 7], [-1, -1], [-1, -1]]


def test_clues_from_a_state_dict_alone() -> None:
    part = retriever(ENTRIES, clue_entries=10, clue_tokens=6)
    copy = ClueRetriever(part.aligner_config, part.tokenizer.state, part.config).eval()
    copy.load_state_dict(part.state_dict())
    assert torch.equal(copy.clues(REPORTS), part.clues(REPORTS))
