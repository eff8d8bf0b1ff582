"""The pointing game on constructed similarities."""

import math

import numpy as np
import pytest
import torch

from datamodules.reports.labels import FINDINGS
from lightning_modules.networks.alignment import Queries
from lightning_modules.networks.boxes import grid_boxes
from lightning_modules.networks.pointing import (
    PointingCase,
    case_scores,
    contrast_to_noise,
    heat_maps,
    pointing_cases,
    pointing_hits,
    splatted,
)
from lightning_modules.networks.prompted_pointing import prompted_cases
from lightning_modules.networks.retrieval import Pair
from lightning_modules.networks.tokenizer import WordTokenizer, train_tokenizer
from lightning_modules.networks.zero_shot import PromptedFindings

EFFUSION = FINDINGS.index("Pleural Effusion")


def one_hot_patches(place: int) -> torch.Tensor:
    """[4,2]: a 2 × 2 grid whose patch `place` is the query's direction."""
    patches = torch.tensor([[0.0, 1.0]]).repeat(4, 1)
    patches[place] = torch.tensor([1.0, 0.0])
    return patches


def pair(number: int, name: str, *, place: int) -> Pair:
    nothing = Queries(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0))
    return Pair(number, name, one_hot_patches(place), grid_boxes(2), torch.zeros(1, 2), nothing, number, number)


def quadrant(place: int) -> torch.Tensor:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    row, column = divmod(place, 2)
    mask[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = True
    return mask


def test_heat_maps_peak_at_the_patch_and_are_row_major() -> None:
    query = torch.tensor([[1.0, 0.0]])
    for place in range(4):
        heat = heat_maps(query, one_hot_patches(place)[None], grid_boxes(2)[None], size=(8, 8))
        assert heat.shape == (1, 8, 8)
        assert heat.max().item() == pytest.approx(1.0, abs=0.1)  # its neighbours count a little
        for other in range(4):
            assert pointing_hits(heat, quadrant(other)[None]).tolist() == [place == other]


def test_patches_are_drawn_where_they_lie() -> None:
    """The patch that resembles the query lies at (5.5, 2.5) of 8 × 8 pixels; between all patches is their mean."""
    similarity = torch.tensor([[1.0, 0.0, 0.5]])
    boxes = torch.tensor([[[5.0, 2.0, 6.0, 3.0], [1.0, 2.0, 2.0, 3.0], [1.0, 6.0, 2.0, 7.0]]]) / 8
    heat = splatted(similarity, boxes, size=(8, 8))[0]
    near = math.exp(-(0.5**2) / (2 * (1 / 32**2 + 0.25 / 3)))  # the weight of a patch half the image away
    diagonal = near**2
    assert heat[2, 5].item() == pytest.approx((1 + 0.5 * diagonal) / (1 + near + diagonal), abs=1e-4)
    assert heat[2, 1].item() == pytest.approx((near + 0.5 * near) / (1 + 2 * near), abs=1e-4)
    assert heat[6, 1].item() == pytest.approx((diagonal + 0.5) / (1 + near + diagonal), abs=1e-4)
    alone = splatted(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.4, 0.4, 0.5, 0.5]] * 2]), size=(8, 8))
    torch.testing.assert_close(alone, torch.full((1, 8, 8), 0.5))


def test_cases_are_present_findings_with_a_mask() -> None:
    report = "Large right pleural effusion. No pneumothorax. Possible consolidation. Cardiomegaly."
    tokens = WordTokenizer(train_tokenizer([report] * 4, kind="words", vocabulary=200))([report], max_length=60)
    words = torch.zeros(1, tokens.word_mask.shape[1], 2)
    for i, word in enumerate(tokens.words[0]):
        # Only the mention's own words point to the patch: "large" and "right" would point elsewhere.
        words[0, i] = torch.tensor([1.0, 0.0] if word in ("pleural", "effusion") else [-1.0, 0.0])
    masks = torch.zeros(1, len(FINDINGS), 8, 8, dtype=torch.bool)
    for finding in ("Pleural Effusion", "Pneumothorax", "Consolidation"):
        masks[0, FINDINGS.index(finding)] = quadrant(2)
    batch = {"image_id": ["i"], "patient_id": ["i"], "report": [report], "masks": masks}
    cases = pointing_cases(batch, tokens, words=words, patches=one_hot_patches(2)[None], boxes=grid_boxes(2)[None])  # type: ignore[arg-type]
    # The pneumothorax is denied, the consolidation is not sure, the big heart has no mask.
    assert [(case.finding, case.start, case.hit) for case in cases] == [(EFFUSION, report.index("pleural"), True)]
    assert np.unpackbits(cases[0].mask).sum() == 16
    assert not pointing_cases(batch, tokens, words=words, patches=one_hot_patches(0)[None], boxes=grid_boxes(2)[None])[
        0
    ].hit  # type: ignore[arg-type]


def test_scores_by_hand() -> None:
    query = np.array([1.0, 0.0], dtype=np.float32)

    def case(number: int, finding: int, *, hit: bool, place: int) -> PointingCase:
        bits = np.packbits(quadrant(place).numpy().reshape(-1))
        return PointingCase(f"c{number}", f"c{number}", 0, finding, query, hit, float(number), bits)

    cases = [case(i, EFFUSION, hit=i < 3, place=2 if i < 2 else 3) for i in range(4)]
    cases += [case(4, 2, hit=True, place=0), case(5, 2, hit=True, place=0), case(6, 3, hit=False, place=0)]
    # The only other image always points at quadrant 2.
    pairs = [pair(0, "x", place=2)]
    scores = case_scores(cases, pairs, size=(8, 8), least=2)
    assert scores["pointing/pleural_effusion"] == 0.75
    assert scores["pointing/cardiomegaly"] == 1.0
    assert "pointing/lung_opacity" not in scores  # one case only
    assert scores["pointing"] == pytest.approx((0.75 + 1) / 2)
    assert scores["pointing_chance"] == pytest.approx(0.25)
    assert scores["pointing_centre"] == pytest.approx((0.5 + 1) / 2)  # half of the effusions are in either quadrant
    assert scores["pointing_other_image"] == pytest.approx((0.5 + 0) / 2)
    assert scores["pointing_micro"] == pytest.approx(5 / 7)
    assert scores["contrast/pleural_effusion"] == pytest.approx(1.5)
    assert scores["contrast"] == pytest.approx((1.5 + 4.5) / 2)
    assert scores["pointing_cases"] == 7
    assert case_scores([], pairs, size=(8, 8), least=1) == {}


def test_a_case_is_never_its_own_other_image() -> None:
    bits = np.packbits(quadrant(2).numpy().reshape(-1))
    cases = [PointingCase("a", "a", 0, EFFUSION, np.array([1.0, 0.0], np.float32), True, 0.0, bits)]
    pairs = [pair(n, name, place=place) for n, (name, place) in enumerate([("a", 2), ("b", 1)])]
    assert case_scores(cases, pairs, size=(8, 8), least=1)["pointing_other_image"] == 0.0
    alone = case_scores(cases, pairs[:1], size=(8, 8), least=1)
    assert alone["pointing"] == 1.0
    assert not any("other" in name for name in alone)


def test_contrast_by_hand_and_its_sign() -> None:
    maps = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]])
    masks = torch.tensor([[[True, True], [False, False]], [[True, True], [False, False]], [[True, True], [True, True]]])
    found = contrast_to_noise(maps, masks)
    assert found[0].item() == pytest.approx((2 - 0) / (1 + 0) ** 0.5)
    assert found[1].item() == pytest.approx(-1.5 / 0.5)  # a hole is no peak
    assert found[2].item() == 0.0  # nothing is outside


def test_maps_keep_what_is_flat_and_prefer_neighbours_to_one_patch() -> None:
    boxes = grid_boxes(32)[None]
    assert torch.allclose(splatted(torch.full((1, 1024), 0.7), boxes, size=(96, 96)), torch.tensor(0.7))
    grid = torch.zeros(32, 32)
    grid[4, 4], grid[20:23, 20:23] = 1.0, 0.6
    found = splatted(grid.flatten()[None], boxes, size=(96, 96))[0]
    assert divmod(int(found.argmax()), 96) == (21 * 3 + 1, 21 * 3 + 1)


def test_between_large_patches_maps_go_over_from_one_to_the_next() -> None:
    heat = splatted(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), grid_boxes(2)[None], size=(64, 64))[0]
    along = heat[32]
    assert bool((along[:-1] >= along[1:]).all())
    # At a patch's centre, half the image from the other: 1 and the Gaussian of that distance share the weight.
    assert along[16].item() == pytest.approx(1 / (1 + math.exp(-(0.5**2) / (2 * (1 / 32**2 + 1 / 16)))), abs=0.01)
    assert (along[31] + along[32]).item() == pytest.approx(1.0, abs=1e-3)


def test_heat_maps_do_not_depend_on_the_precision_around_them() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=-1)
    patches = torch.nn.functional.normalize(torch.randn(3, 64, 8, generator=generator), dim=-1)
    plain = heat_maps(queries, patches, grid_boxes(8)[None], size=(16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = heat_maps(queries, patches, grid_boxes(8)[None], size=(16, 16))
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_without_enough_cases_of_any_finding_the_mean_over_all_cases_remains() -> None:
    bits = np.packbits(quadrant(2).numpy().reshape(-1))
    query = np.array([1.0, 0.0], dtype=np.float32)
    # The first patient has one image, the second two.
    cases = [
        PointingCase(f"c{max(n - 1, 0)}", f"p{n // 2}", n, finding, query, n < 2, 0.0, bits)
        for n, finding in enumerate([2, 3, 4, 5])
    ]
    pairs = [pair(0, "x", place=1)]
    scores = case_scores(cases, pairs, size=(8, 8), least=2, intervals=True)
    assert scores == {
        "pointing_micro": 0.5,
        "pointing_micro_chance": 0.25,
        "pointing_micro_centre": 1.0,
        "pointing_micro_other_image": 0.0,
        "pointing_micro_low": 0.0,  # the draws of either patient alone
        "pointing_micro_high": 1.0,
        "pointing_cases": 4.0,
        "pointing_patients": 2.0,
    }


def test_the_interval_of_a_mean_over_findings_leaves_out_what_a_draw_has_lost() -> None:
    bits = np.packbits(quadrant(2).numpy().reshape(-1))
    query = np.array([1.0, 0.0], dtype=np.float32)
    # One finding is always hit, the other never: their mean is 1/2 unless a draw has one of them alone.
    cases = [PointingCase(f"c{n:02d}", f"c{n:02d}", 0, 2 + n % 2, query, n % 2 == 0, 0.0, bits) for n in range(20)]
    pairs = [pair(0, "x", place=1)]
    scores = case_scores(cases, pairs, size=(8, 8), least=5, intervals=True)
    assert (scores["pointing"], scores["pointing_low"], scores["pointing_high"]) == (0.5, 0.5, 0.5)
    assert 0.2 < scores["pointing_micro_low"] < 0.4 < 0.6 < scores["pointing_micro_high"] < 0.8
    assert not any(key.endswith("_low") for key in case_scores(cases, pairs, size=(8, 8), least=5))


def test_a_prompt_asks_for_each_label_with_a_mask_by_the_word_that_is_shown_best() -> None:
    heart = FINDINGS.index("Cardiomegaly")
    masks = torch.zeros(2, len(FINDINGS), 8, 8, dtype=torch.bool)
    labels = torch.zeros(2, len(FINDINGS))
    for row, finding in ((0, EFFUSION), (1, EFFUSION), (1, heart)):
        masks[row, finding], labels[row, finding] = quadrant(2), 1.0
    labels[0, 3] = 1.0  # no mask
    batch = {"image_id": ["a", "b"], "patient_id": ["a", "b"], "labels": labels, "masks": masks}
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Both words are of effusions: the first is shown best by image a, the second by image b.
    prompted = PromptedFindings([EFFUSION, EFFUSION], vectors, torch.tensor([[0.9, 0.1], [-0.5, -0.2]]))
    patches = torch.stack([one_hot_patches(2), one_hot_patches(2)])
    cases = prompted_cases(batch, prompted, patches=patches, boxes=grid_boxes(2).expand(2, -1, -1))  # type: ignore[arg-type]
    assert [(case.image_id, case.finding, case.hit) for case in cases] == [
        ("a", EFFUSION, True),
        ("b", EFFUSION, False),
    ]
    assert [case.query.tolist() for case in cases] == [[1.0, 0.0], [0.0, 1.0]]
    assert (
        prompted_cases(
            {**batch, "labels": labels * 0}, prompted, patches=patches, boxes=grid_boxes(2).expand(2, -1, -1)
        )
        == []
    )  # type: ignore[arg-type]
