"""From a pair to its word-patches: which mentions are taken, which patch shows them, how good the pair is."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.alignment import BAD, AlignerConfig, AlignmentNetwork
from lightning_modules.networks.boxes import grid_boxes
from lightning_modules.networks.key_patch_build import Candidate, KeyPatchOptions
from lightning_modules.networks.key_patch_candidates import pair_candidates, shown_best
from lightning_modules.networks.statements import queries, stated
from lightning_modules.networks.tokenizer import Tokens, WordTokenizer, train_tokenizer

CONFIG = AlignerConfig(resolution=16, patch=4, width=16, depth=1, heads=2, dim=8, dropout=0.0, text_width=16)
REPORT = "No pneumothorax. Large left pleural effusion. Possible consolidation. The left lower lobe is clear."
TOKENIZER = WordTokenizer(train_tokenizer([REPORT] * 3, kind="words", vocabulary=200))
CODES = torch.arange(16).view(1, 4, 4) + 100


def tokenize(texts: Any) -> Tokens:
    return TOKENIZER(texts, max_length=60)


@pytest.fixture
def network() -> AlignmentNetwork:
    torch.manual_seed(0)
    return AlignmentNetwork(CONFIG, vocabulary=len(TOKENIZER)).eval()


def taken(network: AlignmentNetwork, report: str, **options: Any) -> list[Candidate]:
    names = {name: ["i"] for name in ("image_id", "study_id", "patient_id")}
    batch: Any = {"report": [report], "image": image(), "codes": CODES} | names
    return pair_candidates(
        batch, 0, network=network, tokenize=tokenize, options=KeyPatchOptions(atlas=False, **options)
    )


def image() -> Tensor:
    return torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_findings_that_are_not_denied_are_taken_and_anatomy_where_asked(network: AlignmentNetwork) -> None:
    found = taken(network, REPORT)
    assert [(c.word, c.kind, c.side) for c in found] == [
        ("pleural effusion", "pathology", "left"),
        ("consolidation", "pathology", ""),
    ]
    more = taken(network, REPORT, anatomy=True)
    assert [(c.word, c.kind) for c in more][2:] == [("left lower lobe", "anatomy")]
    assert [c.box for c in more[:2]] == [c.box for c in found]


@torch.no_grad()
def test_a_pair_is_as_good_as_its_statements_are_likely(network: AlignmentNetwork) -> None:
    tokens = tokenize([REPORT])
    asked = queries([(0, phrase) for _, phrase in stated(REPORT, tokens.spans[0])], network.words(tokens))
    assert len(asked.vectors) == 2  # the suspicion counts for nothing
    fits = network.fits(asked, network.patches(image()))
    expected = functional.logsigmoid(fits).mean().item()
    assert [c.pair_score for c in taken(network, REPORT)] == pytest.approx([expected] * 2)
    assert [c.pair_score for c in taken(network, "Possible consolidation.")] == [BAD]
    assert taken(network, "No pneumothorax.") == []


def test_the_cell_is_the_one_where_the_patch_looks(network: AlignmentNetwork) -> None:
    for candidate in (*taken(network, REPORT), *moved(network, by=0.25)):
        x0, y0, x1, y1 = candidate.box
        assert min(x0, y0) >= 0
        assert max(x1, y1) <= 1
        column, row = min(3, round(x0 * 4)), min(3, round(y0 * 4))
        assert candidate.positions == (row * 4 + column,)
        assert candidate.codes == (100 + row * 4 + column,)


def moved(network: AlignmentNetwork, *, by: float) -> list[Candidate]:
    """As if all patches looked so far to the right of their cells."""
    before = taken(network, REPORT)
    network.image.offset.copy_(torch.tensor([by, 0.0]))
    after = taken(network, REPORT)
    assert [c.box for c in after] != [c.box for c in before]
    return after


def test_the_patch_is_the_one_at_the_peak_of_the_heat_map() -> None:
    grid = torch.zeros(2, 32, 32)
    grid[0, 4, 4], grid[0, 20:23, 9:12] = 1.0, 0.6  # several neighbours outweigh one patch
    grid[1, 31, 0] = 1.0
    height, place = shown_best(grid.flatten(1), grid_boxes(32)[None], size=64)
    assert [divmod(int(p), 32) for p in place] == [(21, 10), (31, 0)]
    assert 0.3 < height[0] < 0.6
    # Where the patches look elsewhere the map moves with them, and the patch is the same.
    _, shifted = shown_best(grid.flatten(1), grid_boxes(32)[None] - 0.7 / 64, size=64)
    assert torch.equal(shifted, place)
