"""Where clues come from: the entries behind a report's clues, their training images, and the grid they lie on."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork
from lightning_modules.networks.clue_origins import ClueOrigin, ClueSources, clue_origins, grid_side
from lightning_modules.networks.clue_retriever import ClueRetriever
from lightning_modules.networks.key_patch_build import Candidate, KeyPatchOptions, cells_of_box
from lightning_modules.networks.key_patch_files import load_key_patches, write_key_patches
from lightning_modules.networks.tokenizer import train_tokenizer
from tests.lightning_modules.key_patch_entries import DIGESTS

CONFIG = AlignerConfig(resolution=16, patch=4, width=16, depth=1, heads=2, dim=8, dropout=0.0, text_width=16)
REPORT = "Left pleural effusion. Cardiomegaly. No pneumothorax."
TOKENIZER = train_tokenizer([REPORT] * 3, kind="words", vocabulary=200)
# word, side, row and column of the top left cell on a grid of 4 × 4, cells down and across
ENTRIES = [
    ("cardiomegaly", "", 2, 1, 1, 2),
    ("cardiomegaly", "", 2, 2, 1, 2),  # shares a cell with the one before
    ("pleural effusion", "left", 3, 3, 1, 1),
    ("pleural effusion", "right", 3, 0, 1, 1),
    ("pneumothorax", "left", 0, 3, 1, 1),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    made = []
    for i, (word, side, row, column, down, across) in enumerate(ENTRIES):
        box = (column / 4, row / 4, (column + across) / 4, (row + down) / 4)
        positions = cells_of_box(box, height=4, width=4)
        feature = generator.normal(size=8).astype(np.float32)
        feature /= np.linalg.norm(feature)
        made.append(
            Candidate(
                word, "pathology", 0.5, 0.5, side, f"image-{i}", f"study-{i}", f"patient-{i}", box, feature, feature,
                tuple(10 * i + k for k in range(len(positions))), tuple(positions),
            )
        )  # fmt: skip
    write_key_patches(made, tmp_path / "key_patches.safetensors", digests=DIGESTS, options=KeyPatchOptions())
    return tmp_path / "key_patches.safetensors"


def retriever(path: Path) -> ClueRetriever:
    config, arrays = load_key_patches(path)
    made = ClueRetriever(CONFIG, TOKENIZER, config)
    torch.manual_seed(0)
    network = AlignmentNetwork(CONFIG, vocabulary=len(made.tokenizer))
    return made.load_stages(network.state_dict(), arrays)


def test_the_origins_are_what_the_clues_are_made_of(path: Path) -> None:
    part, sources = retriever(path), ClueSources(path)
    reports = [REPORT, "Right pleural effusion.", "No cardiomegaly.", ""]
    found = clue_origins(part, sources, reports)
    for origins, clues in zip(found, part.clues(reports), strict=True):
        pairs = [(code, place) for one in origins for code, place in zip(one.codes, one.positions, strict=True)]
        assert pairs == [(code, place) for code, place in clues.tolist() if code >= 0]
    by_entry = {one.entry: one for one in found[0]}
    assert sorted(by_entry) == [0, 1, 2]  # the left effusion alone, and nothing for what is denied
    effusion = by_entry[2]
    assert (effusion.word, effusion.entry_word, effusion.side) == ("pleural effusion", "pleural effusion", "left")
    assert (effusion.image_id, effusion.positions, effusion.codes, effusion.grid) == ("image-2", (15,), (20,), 4)
    assert effusion.box == (0.75, 0.75, 1.0, 1.0)
    hearts = sorted((by_entry[0], by_entry[1]), key=lambda one: -one.score)
    assert len(hearts[0].positions) == 2
    assert len(hearts[1].positions) == 1  # the shared cell went to the better entry
    assert [[one.entry for one in origins] for origins in found[1:]] == [[3], [], []]


def test_a_patient_s_own_patches_are_left_out_and_the_tokens_are_bounded(path: Path) -> None:
    part, sources = retriever(path), ClueSources(path)
    (found,) = clue_origins(part, sources, [REPORT], exclude_patients=["patient-2"])
    assert {one.image_id for one in found} == {"image-0", "image-1"}
    part.config = dataclasses.replace(part.config, clue_tokens=2)
    (few,) = clue_origins(part, sources, [REPORT])
    assert sum(len(one.positions) for one in few) == 2
    assert isinstance(few[0], ClueOrigin)


def test_without_the_list_of_entries_the_images_are_unknown(path: Path) -> None:
    table = path.with_suffix(".parquet")
    pd.read_parquet(table)[1:].to_parquet(table)
    with pytest.raises(ValueError, match=r"lists 4 entries, .* holds 5: they are of two runs"):
        ClueSources(path)
    table.unlink()
    assert ClueSources(path).image_ids == [None] * 5


@pytest.mark.parametrize("grid", [3, 8, 16])
def test_the_grid_is_found_from_boxes_and_positions(grid: int) -> None:
    side = 32  # patches smaller than a cell, and for 3 across its edges
    boxes = [(c / side, r / side, (c + 1) / side, (r + 1) / side) for r in range(side) for c in range(side)]
    cells = torch.tensor([cells_of_box(box, height=grid, width=grid) for box in boxes])
    assert grid_side(torch.tensor(boxes), cells) == grid
    with pytest.raises(ValueError, match="on no grid of up to 256 cells"):
        grid_side(torch.tensor(boxes), cells.flip(0))
