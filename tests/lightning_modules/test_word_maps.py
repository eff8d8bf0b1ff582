"""Heat maps of mentions: which are asked in what order, and where they peak, on patches made by hand."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork
from lightning_modules.networks.pointing import heat_maps
from lightning_modules.networks.statements import queries
from lightning_modules.networks.tokenizer import WordTokenizer, train_tokenizer
from lightning_modules.networks.word_maps import asked, word_maps

CONFIG = AlignerConfig(resolution=16, patch=4, width=16, depth=1, heads=2, dim=8, dropout=0.0, text_width=16)
REPORT = "No pneumothorax. Large left pleural effusion. Possible consolidation. The left lower lobe is clear."
TOKENIZER = WordTokenizer(train_tokenizer([REPORT] * 3, kind="words", vocabulary=200))


class HotPatch(AlignmentNetwork):
    """A network whose patch `hot` of each image is the vector of the words at `places`; the others are opposite."""

    hot, places = 6, (0,)

    def located_patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        query = queries([(0, self.places)], self.words(TOKENIZER([REPORT], max_length=60))).vectors[0]
        found = -query.expand(len(image), self.config.side**2, -1).clone()
        found[:, self.hot] = query
        return found, super().located_patches(image)[1]


def network(kind: type[AlignmentNetwork] = AlignmentNetwork, *, adaptive: bool = False) -> AlignmentNetwork:
    torch.manual_seed(0)
    return kind(dataclasses.replace(CONFIG, adaptive=adaptive), vocabulary=len(TOKENIZER)).eval()


def test_what_is_stated_comes_first_and_is_asked_once() -> None:
    mentions = asked(f"{REPORT} Again a left pleural effusion. Right pleural effusion.", anatomy=True)
    assert [(m.word, m.status, m.side, m.kind) for m in mentions] == [
        ("pleural effusion", "present", "left", "pathology"),
        ("pleural effusion", "present", "right", "pathology"),
        ("consolidation", "uncertain", None, "pathology"),
        ("pneumothorax", "absent", None, "pathology"),
        ("left lower lobe", "present", "left", "anatomy"),
    ]
    assert mentions[0].start == REPORT.index("pleural effusion")
    assert [m.kind for m in asked(REPORT, anatomy=False)] == ["pathology"] * 3
    assert asked("", anatomy=True) == []


@torch.no_grad()
def test_a_hot_patch_is_the_peak_of_its_word() -> None:
    tokens = TOKENIZER([REPORT], max_length=60)
    made = network(HotPatch)
    assert isinstance(made, HotPatch)
    made.places = tuple(i for i, word in enumerate(tokens.words[0]) if word in ("pleural", "effusion"))
    maps = word_maps(made, tokens, torch.zeros(1, 1, 16, 16), [REPORT])[0]
    effusion = maps[0]
    assert (effusion.word, effusion.side, effusion.status) == ("pleural effusion", "left", "present")
    assert (effusion.label, REPORT[slice(*effusion.span)]) == ("Pleural Effusion", "pleural effusion")
    # Patch 6 of a 4 × 4 grid is row 1, column 2: its centre at 16 pixels is between pixels 9 and 10, 5 and 6.
    assert effusion.peak[0] == pytest.approx(10 / 16, abs=0.5 / 16)
    assert effusion.peak[1] == pytest.approx(6 / 16, abs=0.5 / 16)
    x, y = (int(edge * 16) for edge in effusion.peak)
    assert effusion.heat.shape == (16, 16)
    assert effusion.heat[y, x] == effusion.heat.max() == effusion.cosine
    # The smooth maximum of one cosine of 1 and fifteen of -1, by the network's first gain 10 and the words' threshold.
    threshold = made.words(tokens).thresholds[0, list(made.places)].mean().item()
    expected = math.log((math.exp(10) + 15 * math.exp(-10)) / 16) + threshold
    assert effusion.evidence == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("adaptive", [False, True])
def test_maps_and_peaks_are_those_of_the_pointing_game(adaptive: bool) -> None:
    reports = ["Cardiomegaly.", REPORT, "Nothing to tell."]
    tokens, images = TOKENIZER(reports, max_length=60), torch.rand(3, 1, 16, 16) * 2 - 1
    made = network(adaptive=adaptive)
    maps = word_maps(made, tokens, images, reports, anatomy=True)
    assert [len(of_image) for of_image in maps] == [1, 4, 0]
    (patches, places), words = made.located_patches(images), made.words(tokens)
    for b, of_image in enumerate(maps):
        for found in of_image:
            inside = [i for i, (a, z) in enumerate(tokens.spans[b]) if a < found.span[1] and z > found.span[0]]
            query = functional.normalize(words.vectors[b, inside].mean(dim=0), dim=0)
            heat = heat_maps(query[None], patches[b : b + 1], places[b : b + 1], size=(16, 16))[0]
            torch.testing.assert_close(found.heat, heat)
            row, column = divmod(int(found.heat.argmax()), 16)
            assert found.peak == ((column + 0.5) / 16, (row + 0.5) / 16)
            evidence = made.evidence(queries([(b, inside)], words), patches[b : b + 1])
            assert found.evidence == pytest.approx(evidence.item(), abs=1e-5)


@torch.no_grad()
def test_what_lies_beyond_the_longest_text_has_no_map() -> None:
    report = REPORT + " Cardiomegaly."
    tokens = TOKENIZER([report], max_length=8)
    found = word_maps(network(), tokens, torch.zeros(1, 1, 16, 16), [report])[0]
    assert "cardiomegaly" not in [one.word for one in found]
    assert "pneumothorax" in [one.word for one in found]
    assert word_maps(network(), TOKENIZER([""], max_length=8), torch.zeros(1, 1, 16, 16), [""]) == [[]]
