"""Writing sentence by sentence, each chosen by what the mention extractor reads: guided decoding with a verifier.

A text that must say eight things and nothing else is seldom drawn as a whole, but its next sentence nearly always is.
So several next sentences are drawn from the model, which sees what was kept so far; what adds, denies, misspells or
repeats something is out. Of the first few others that say something missing the most probable is kept, and between two
such sentences there may be one that says nothing missing, if the model drew it first. Where none says anything missing,
sentences are tried that the model writes for the missing keywords alone, the most probable of all of them in this text.
When nothing is missing, the model goes on and ends as it would by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from datamodules.reports.keywords import Verification
from lightning_modules.networks.generation import Continuation

FULL_STOPS = (".", "?", "!")
MOST_SENTENCES = 24
DETOURS = 2  # sentences that say nothing of what is missing, in a text; never two in a row
FEW = 2  # drawn sentences of which the most probable is kept: of all of them it would be a stock phrase
STRICT = 2  # times that nothing would do, after which a text may say a thing again
MOST_STUCK = 4  # times that nothing drawn would do, before a text is given up


class Read(Protocol):
    """A text that was read back."""

    @property
    def report(self) -> str:
        """The text."""

    @property
    def check(self) -> Verification:
        """What it lacks, contradicts or adds."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What else is wrong with it."""

    @property
    def copied(self) -> int:
        """How many runs of its words stand in a training report."""


Text = TypeVar("Text", bound=Read)


class Place(NamedTuple):
    """Where a sentence is to be written: after `ids` of text number `text`, as its sentence number `sentence`."""

    text: int
    sentence: int
    ids: list[int]


@dataclass
class Draft(Generic[Text]):
    """A text on its way."""

    ids: list[int]
    read: Text
    detours: int = 0
    astray: bool = False
    stuck: int = 0
    done: bool = False


def wrong(text: Read) -> int:
    """How much a text says that it should not; what is missing may still come."""
    return len(text.check.contradicting) + len(text.check.unasked) + len(text.faults)


def choose(
    now: Text,
    candidates: Sequence[tuple[Continuation, Text]],
    *,
    detour: bool,
    few: int | None = None,
    may_copy: bool = True,
) -> int | None:
    """Which continuation to keep, None if none will do.

    Args:
        now: the text so far.
        candidates: continuations in the order in which they were drawn, each with the text as it would read.
        detour: whether one may be kept that says nothing of what is missing, if the first does not.
        few: the most probable of so many that will do is kept; None takes that of all. Where nothing is missing it is
            always the first, so that a text ends where the model would end it.
        may_copy: if not, one that copies nothing more from a training report goes before all others.
    """
    sound = [n for n, one in enumerate(candidates) if wrong(one[1]) <= wrong(now) and _complete(*one)]
    if not may_copy:
        original = [n for n in sound if candidates[n][1].copied <= now.copied]
        kept = _choose(now, candidates, original, detour=detour, few=few)
        if kept is not None:
            return kept
    return _choose(now, candidates, sound, detour=detour, few=few)


def _choose(
    now: Text, candidates: Sequence[tuple[Continuation, Text]], sound: list[int], *, detour: bool, few: int | None
) -> int | None:
    if sound and not now.check.missing:
        return sound[0]
    helpful = [n for n in sound if len(candidates[n][1].check.missing) < len(now.check.missing)]
    fitting = (sound if detour and sound and sound[0] not in helpful else helpful)[:few]
    # Rounded: the last bits depend on the batch, and what is written should not.
    return max(fitting, key=lambda n: (round(_mean(candidates[n][0]), 3), -n), default=None)


def _complete(continuation: Continuation, text: Read) -> bool:
    """Whether the text can go on or end here; a last sentence may do without its full stop."""
    over = continuation.ended and not text.check.missing
    # After a digit it may be a decimal point: only what goes on tells.
    return over or (bool(continuation.ids) and text.report[-1:] in FULL_STOPS and not text.report[-2:-1].isdigit())


def _mean(continuation: Continuation) -> float:
    return continuation.log_likelihood / max(1, len(continuation.ids) + continuation.ended)


def write_guided(
    empty: Sequence[Text],
    *,
    sample: Callable[[Sequence[Place]], list[list[Continuation]]],
    excerpts: Callable[[Sequence[Place], Sequence[Text]], list[list[Continuation]]] | None,
    read: Callable[[int, list[int], bool], Text],
    may_copy: Sequence[bool],
    rooms: Sequence[int],
) -> list[Text]:
    """Write texts sentence by sentence.

    Args:
        empty: what nothing written reads as, one a text.
        sample: for each place some continuations, up to the end of a sentence.
        excerpts: for each place some sentences for what is missing in the text there; None where there are none.
        read: reads text number n back from its ids; whether saying a thing again is a fault.
        may_copy: whether each may say what stands in a training report word for word, where it could do without.
        rooms: longest text of each in sub-words.

    Returns:
        The texts as they were when they ended, ran out of room or could not go on without a fault.
    """
    drafts = [Draft([], one) for one in empty]

    def advance(places: Sequence[Place], found: list[list[Continuation]], *, drawn: bool) -> list[Place]:
        """Keep a continuation at each place; the places where none would do."""
        stuck = []
        for place, continuations in zip(places, found, strict=True):
            draft = drafts[place.text]
            strict = draft.stuck < STRICT
            candidates = [(one, read(place.text, place.ids + one.ids, strict)) for one in continuations]
            detour = drawn and draft.detours < DETOURS and not draft.astray
            few = FEW if drawn else None
            kept = choose(draft.read, candidates, detour=detour, few=few, may_copy=may_copy[place.text])
            if kept is None:
                stuck.append(place)
                continue
            one, text = candidates[kept]
            got_on = len(text.check.missing) < len(draft.read.check.missing)
            draft.ids, draft.read = place.ids + one.ids, text
            draft.astray = not got_on
            draft.detours += not got_on
            draft.done = (one.ended and not text.check.missing) or len(draft.ids) >= rooms[place.text]
        return stuck

    for sentence in range(MOST_SENTENCES):
        places = [Place(n, sentence, draft.ids) for n, draft in enumerate(drafts) if not draft.done]
        if not places:
            break
        stuck = advance(places, sample(places), drawn=True)
        if excerpts is not None and (stuck := [p for p in stuck if drafts[p.text].read.check.missing]):
            stuck = advance(stuck, excerpts(stuck, [drafts[p.text].read for p in stuck]), drawn=False)
        for place in stuck:
            draft = drafts[place.text]
            draft.astray, draft.stuck = False, draft.stuck + 1
            draft.detours = min(draft.detours, DETOURS - 1)  # another sentence may lead to where one will do
            draft.done = draft.stuck > MOST_STUCK
    return [draft.read for draft in drafts]
