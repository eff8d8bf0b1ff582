"""Choosing key patches: by hand, what a box covers, and that no word fills the codebook."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.networks.key_patch_build import Candidate, KeyPatchBuilder, KeyPatchOptions, cells_of_box, select
from tests.lightning_modules.key_patch_entries import entry


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
    # 0.375 of a cell across is enough for a coverage of 0.25, and three quarters of both are not for 0.6.
    assert cells_of_box((0.0, 0.0, 0.34375, 0.25), height=4, width=4, coverage=0.25) == [0, 1]
    assert cells_of_box((0.0, 0.0, 0.4375, 0.4375), height=4, width=4, coverage=0.6) == [0, 1, 4]


@given(
    corner=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    size=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    coverage=st.floats(0.05, 1),
)
def test_cells_are_those_that_are_covered_enough(
    corner: tuple[float, float], size: tuple[float, float], grid: tuple[int, int], coverage: float
) -> None:
    (height, width), (x0, y0) = grid, corner
    x1, y1 = min(1.0, x0 + size[0]), min(1.0, y0 + size[1])
    shares = {}
    for cell in range(height * width):
        row, column = divmod(cell, width)
        across = min(x1, (column + 1) / width) - max(x0, column / width)
        down = min(y1, (row + 1) / height) - max(y0, row / height)
        shares[cell] = max(0.0, across) * max(0.0, down) * width * height
    found = cells_of_box((x0, y0, x1, y1), height=height, width=width, coverage=coverage)
    assert found == sorted(set(found))
    if max(shares.values()) < coverage - 1e-3:
        assert len(found) == 1
        assert shares[found[0]] >= max(shares.values()) - 1e-6
    else:
        assert {cell for cell, share in shares.items() if share > coverage + 1e-3} <= set(found)
        assert all(shares[cell] > coverage - 1e-3 for cell in found)


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


def test_both_sides_of_one_place_are_kept() -> None:
    """ "Small right and large left effusions": one phrase, so one place, and two mentions."""
    builder = KeyPatchBuilder(KeyPatchOptions())
    builder.add([entry("effusion", 0.5, image="a", side=side) for side in ("left", "right")], split="train")
    pairs, floor = builder.candidates()
    assert [c.side for c in select(pairs, floor, options=KeyPatchOptions())] == ["left", "right"]


def test_a_repeated_sample_counts_once() -> None:
    """Lightning's sampler repeats samples where the ranks do not divide them: on one rank, and on two."""
    options = KeyPatchOptions(top_pairs=2, word_floor=0)
    one, other = KeyPatchBuilder(options), KeyPatchBuilder(options)
    for builder, images in ((one, "aab"), (other, "ca")):
        for image in images:
            builder.add([entry("edema", 0.5, image=image, pair={"a": 0.9, "b": 0.8, "c": 0.7}[image])], split="train")
    (pairs, floor), (more, too) = one.candidates(), other.candidates()
    chosen = select([*pairs, *more], [*floor, *too], options=options)
    assert [c.image_id for c in chosen] == ["a", "b"]  # a twice would have left no room for b


@pytest.mark.parametrize("split", ["validate", "test"])
def test_a_study_of_another_split_is_refused(split: str) -> None:
    builder = KeyPatchBuilder(KeyPatchOptions())
    with pytest.raises(ValueError, match=f"study s-x .* is of split '{split}'.*split 'train' only"):
        builder.add([entry("heart", 0.5, image="x")], split=split)
    assert builder.candidates() == ([], [])


def test_nothing_to_choose_from_and_senseless_options_are_refused() -> None:
    with pytest.raises(
        ValueError, match="no key patch was found: no training report has a mention that is not negated"
    ):
        select([], [], options=KeyPatchOptions())
    with pytest.raises(ValueError, match=r"key_patch_options\.word_quota is 0; expected at least 1"):
        KeyPatchOptions(word_quota=0)
    with pytest.raises(ValueError, match=r"word_floor 20 and coverage 0; expected at least 0, and a share above 0"):
        KeyPatchOptions(coverage=0)


def chosen_of(images: list[list[Candidate]], options: KeyPatchOptions, *, ranks: int = 1) -> list[Candidate]:
    builders = [KeyPatchBuilder(options) for _ in range(ranks)]
    for i, candidates in enumerate(images):
        builders[i % ranks].add(candidates, split="train")
    handed = [builder.candidates() for builder in builders]
    pairs, floor = [p for ps, _ in handed for p in ps], [c for _, cs in handed for c in cs]
    return select(pairs, floor, options=options)


def test_a_word_in_every_report_does_not_fill_the_codebook() -> None:
    """100 reports name the lungs, with the best scores of all; three an edema."""
    images = [[entry("lungs", 0.9, image=f"{i:03d}", pair=0.9)] for i in range(100)]
    for i in range(3):
        images[i].append(entry("edema", 0.1, image=f"{i:03d}", pair=0.9))
    options = KeyPatchOptions(top_pairs=50, word_quota=5, word_floor=2)
    assert Counter(c.word for c in chosen_of(images, options)) == {"lungs": 5, "edema": 3}


SCORES = st.integers(0, 20).map(lambda n: n / 20)
REPORTS = st.lists(
    st.tuples(SCORES, st.lists(st.tuples(st.sampled_from(["lungs"] * 6 + ["edema", "mass", "heart"]), SCORES))),
    min_size=1,
    max_size=25,
).filter(lambda reports: any(words for _, words in reports))


@settings(max_examples=150, deadline=None)
@given(
    reports=REPORTS,
    pairs=st.integers(1, 8),
    words=st.integers(1, 3),
    quota=st.integers(1, 5),
    floor=st.integers(0, 6),
)
def test_options_do_what_they_say(
    reports: list[tuple[float, list[tuple[str, float]]]], pairs: int, words: int, quota: int, floor: int
) -> None:
    images = [
        [entry(word, score, image=f"{i:02d}", pair=pair) for word, score in mentions]
        for i, (pair, mentions) in enumerate(reports)
    ]
    options = KeyPatchOptions(top_pairs=pairs, top_words=words, word_quota=quota, word_floor=floor)
    chosen = chosen_of(images, options)
    assert chosen_of(images[::-1], options) == chosen == chosen_of(images, options, ranks=2)
    assert len({c.key for c in chosen}) == len(chosen)

    counts = Counter(c.word for c in chosen)
    assert max(counts.values()) <= quota
    # What each word could have: its best patch of every image.
    images_of = Counter(word for candidates in images for word in {c.word for c in candidates})
    for word, there in images_of.items():
        assert counts[word] >= min(there, floor, quota)
    # Without the floor only the best pairs give, and each no more than its best words.
    bare = chosen_of(images, KeyPatchOptions(top_pairs=pairs, top_words=words, word_quota=quota, word_floor=0))
    ranked = sorted((c for c in images if c), key=lambda c: (-c[0].pair_score, c[0].image_id))
    assert {c.image_id for c in bare} <= {c[0].image_id for c in ranked[:pairs]}
    for image_id, number in Counter(c.image_id for c in bare).items():
        assert number <= words
        of_image = {c.word: c.score for c in bare if c.image_id == image_id}
        best = {c.word: max(d.score for d in images[int(image_id)] if d.word == c.word) for c in images[int(image_id)]}
        assert all(score == best[word] for word, score in of_image.items())
        assert min(of_image.values()) >= sorted(best.values(), reverse=True)[:words][-1]
