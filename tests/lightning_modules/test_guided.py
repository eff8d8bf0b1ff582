"""Texts written sentence by sentence: which continuation is kept, when a text ends, and when it is given up."""

import dataclasses
from collections.abc import Sequence

from datamodules.reports.keywords import Keywords
from lightning_modules.networks.generation import Continuation
from lightning_modules.networks.guided import Place, choose, write_guided
from lightning_modules.networks.written import Request, Written, read_back

ASKED = Request(Keywords(("heart",), ("small left pleural effusion",)))
SENTENCES = [
    "The heart is normal. ",
    "No pneumothorax. ",
    "Small left pleural effusion. ",
    "Large right pneumothorax. ",
    "No pleural effusion. ",
    "There is a small effusion on the left. ",
    "A small left pleural effusion",  # without full stop
    "A left pleural effusion is small, 2.",
]
HEART, CLEAR, EFFUSION, PNEUMOTHORAX, DENIED, OTHER, OPEN, NUMBER = range(len(SENTENCES))


def read(number: int, ids: Sequence[int], strict: bool = True) -> Written:
    return read_back("".join(SENTENCES[i] for i in ids).strip(), ASKED)


def drawn(*ids: int, likelihood: float = -1.0, ended: bool = False) -> Continuation:
    return Continuation(list(ids), ended, likelihood)


def chosen(
    before: list[int], *found: Continuation, detour: bool = False, few: int | None = None
) -> Continuation | None:
    kept = choose(read(0, before), [(one, read(0, before + one.ids)) for one in found], detour=detour, few=few)
    return None if kept is None else found[kept]


def test_the_most_probable_that_says_something_missing_is_kept() -> None:
    effusion, other = drawn(EFFUSION, likelihood=-3.0), drawn(OTHER, likelihood=-2.0)
    assert chosen([HEART], drawn(CLEAR), effusion, other) == other
    # A sub-word, not a sentence: two sub-words of -4 are as probable as one of -2.
    assert chosen([HEART], effusion, drawn(CLEAR, OTHER, likelihood=-4.0)) == drawn(CLEAR, OTHER, likelihood=-4.0)
    assert chosen([HEART], drawn(PNEUMOTHORAX, likelihood=0.0), drawn(DENIED, likelihood=0.0), effusion) == effusion


def test_a_detour_is_made_if_the_first_that_is_sound_is_one() -> None:
    assert chosen([HEART], drawn(PNEUMOTHORAX), drawn(CLEAR), drawn(EFFUSION), detour=True) == drawn(CLEAR)
    found = [drawn(CLEAR, likelihood=-value) for value in (2.0, 1.5, 1.5, 0.5)]
    assert chosen([HEART], *found, detour=True) == found[3]
    assert chosen([HEART], *found, detour=True, few=3) == found[1]
    found = [drawn(EFFUSION, likelihood=-value) for value in (2.0, 1.5, 1.5, 0.5)]
    assert chosen([HEART], drawn(CLEAR), *found, few=3) == found[1]
    assert chosen([HEART], drawn(EFFUSION, likelihood=-9), drawn(CLEAR), drawn(OTHER), detour=True) == drawn(OTHER)
    assert chosen([HEART], drawn(CLEAR), drawn(CLEAR)) is None
    assert chosen([HEART], drawn(PNEUMOTHORAX), drawn(DENIED), detour=True) is None


def test_one_that_copies_nothing_more_goes_first_where_copying_is_to_be_left_out() -> None:
    def kept(before: int, *copied: int, may_copy: bool) -> int | None:
        now = dataclasses.replace(read(0, [HEART]), copied=before)
        found = [
            (drawn(EFFUSION, likelihood=-float(n)), dataclasses.replace(read(0, [HEART, EFFUSION]), copied=runs))
            for n, runs in enumerate(copied)
        ]
        return choose(now, found, detour=False, may_copy=may_copy)

    assert kept(0, 1, 2, 0, may_copy=True) == 0
    assert kept(0, 1, 2, 0, may_copy=False) == 2
    assert kept(2, 3, 2, 2, may_copy=False) == 1  # what is copied already stays
    assert kept(0, 2, 1, may_copy=False) == 0  # nothing else says what is missing


def test_an_end_is_kept_only_when_nothing_is_missing() -> None:
    end = drawn(ended=True)
    assert chosen([HEART], end, drawn(CLEAR), detour=True) == drawn(CLEAR)
    assert chosen([HEART, EFFUSION], end, drawn(CLEAR)) == end
    assert chosen([HEART, EFFUSION], drawn(CLEAR), end) == drawn(CLEAR)
    # Without a full stop a sentence can only be the last.
    assert chosen([HEART], drawn(OPEN)) is None
    assert chosen([HEART], drawn(NUMBER)) is None
    assert chosen([HEART], drawn(OPEN, ended=True)) == drawn(OPEN, ended=True)
    assert chosen([], drawn(OPEN, ended=True)) is None


def write(
    script: list[list[Continuation]], *, excerpts: list[Continuation] | None = None, room: int = 99
) -> tuple[str, list[int]]:
    """The text, and how many of each sentence's continuations were asked for excerpts."""
    asked: list[int] = []

    def for_missing(places: Sequence[Place], texts: Sequence[Written]) -> list[list[Continuation]]:
        assert [text.check.missing for text in texts] == [("small left pleural effusion",)]
        asked.extend(place.sentence for place in places)
        assert excerpts is not None
        return [excerpts]

    written = write_guided(
        [read(0, [])],
        sample=lambda places: [script[min(place.sentence, len(script) - 1)] for place in places],
        excerpts=None if excerpts is None else for_missing,
        read=read,
        may_copy=[True],
        rooms=[room],
    )
    return written[0].report, asked


def test_a_text_is_written_to_its_end() -> None:
    script = [[drawn(HEART)], [drawn(CLEAR), drawn(EFFUSION)], [drawn(EFFUSION)], [drawn(ended=True)]]
    assert write(script)[0] == "The heart is normal. No pneumothorax. Small left pleural effusion."
    assert write(script, room=2)[0] == "The heart is normal. No pneumothorax."
    ends = [[drawn(HEART)], [drawn(EFFUSION, ended=True)], [drawn(CLEAR)]]
    assert write(ends)[0] == "The heart is normal. Small left pleural effusion."


def test_excerpts_are_asked_for_where_nothing_else_says_what_is_missing() -> None:
    script = [[drawn(HEART)], [drawn(PNEUMOTHORAX)], [drawn(ended=True)]]
    excerpts = [drawn(EFFUSION, likelihood=-5.0), drawn(OTHER, likelihood=-4.0), drawn(DENIED, likelihood=-1.0)]
    text, asked = write(script, excerpts=excerpts)
    assert text == "The heart is normal. There is a small effusion on the left."
    assert asked == [1]


def test_a_text_that_cannot_go_on_is_given_up_as_it_is() -> None:
    text, asked = write([[drawn(HEART)], [drawn(PNEUMOTHORAX)]], excerpts=[drawn(DENIED)])
    assert text == "The heart is normal."
    assert asked == [1, 2, 3, 4, 5]


def test_after_two_failures_a_thing_may_be_said_again() -> None:
    seen: list[bool] = []

    def lenient(number: int, ids: Sequence[int], strict: bool) -> Written:
        seen.append(strict)
        found = read(number, ids)
        return dataclasses.replace(found, faults=("again: effusion",)) if strict and EFFUSION in ids else found

    script = [[drawn(HEART)], [drawn(EFFUSION, ended=True)]]
    written = write_guided(
        [read(0, [])],
        sample=lambda places: [script[min(place.sentence, 1)] for place in places],
        excerpts=None,
        read=lenient,
        may_copy=[True],
        rooms=[9],
    )
    assert written[0].report == "The heart is normal. Small left pleural effusion."
    assert seen == [True, True, True, False]
