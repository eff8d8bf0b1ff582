"""Two runs side by side, figure by figure; a figure whose protocols differ is not compared, and it is said why."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from callbacks.figures import Figure, figures_of, with_interval
from callbacks.table import Merged

# What two runs are compared for: another model, trained from another seed.
POINT = ("stage", "checkpoint", "seed")
# How a test ran. Figures are made not to depend on it beyond rounding.
CIRCUMSTANCES = ("versions", "precision", "device", "world_size", "repeated")
SAMPLER = "sampling"
# The files that a figure is of, as a checkpoint is.
OBJECTS = (".samples.sha256", ".samples.table", ".synthetic.sha256")
# What made samples is described by the names of a test's own protocol, and the same of it may differ.
ORIGIN = ".samples.generator."
# Without these nobody can know that two protocols are equal.
NEEDED = ("data_digest", "split", "n")
ABSENT = "absent"


class Difference(NamedTuple):
    """One setting that differs."""

    path: str  # keys joined by dots, e.g. `metrics.generator/fid.extractor.digest`
    a: Any
    b: Any

    def __str__(self) -> str:
        """As `path: a | b`."""
        return f"{self.path}: {self.a} | {self.b}"


class Compared(NamedTuple):
    """One figure of both runs."""

    key: str
    a: Figure
    b: Figure
    differences: list[Difference]
    refused: list[Difference]  # those for which it is not compared


def compare(a: Merged, b: Merged, *, allow: Collection[Literal["sampler"]] = ()) -> list[Compared]:
    """The figures that both runs have, in the order of their keys.

    Args:
        a: see `callbacks.figures.open_run`.
        b: the other run.
        allow: "sampler": compare figures of differing sampler settings too.
    """
    left, right = figures_of(a), figures_of(b)
    compared = []
    for key in sorted(left.keys() & right.keys()):
        found = differences(left[key].settings, right[key].settings)
        unknown = [Difference(name, "unknown", "unknown") for name in NEEDED if left[key].settings.get(name) is None]
        refused = [one for one in found if _refused(one, allow)]
        compared.append(
            Compared(key, left[key], right[key], found, refused + [one for one in unknown if one not in refused])
        )
    return compared


def differences(a: Any, b: Any, path: str = "") -> list[Difference]:
    """The paths at which two trees of plain data differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        below = []
        for key in sorted({*a, *b}):
            deeper = f"{path}.{key}" if path else str(key)
            below += differences(a.get(key, ABSENT), b.get(key, ABSENT), deeper)
        return below
    return [] if a == b else [Difference(path, a, b)]


def _refused(one: Difference, allow: Collection[str]) -> bool:
    top = one.path.rpartition(ORIGIN)[2].split(".")[0]
    if top in (*POINT, *CIRCUMSTANCES) or one.path.endswith((".repeated_left_out", *OBJECTS)):
        return False
    return not (top == SAMPLER and "sampler" in allow)


def verdict(one: Compared) -> str:
    """Whether the two intervals overlap; that they do not is stronger than a difference at 95 %."""
    ends = (one.a.low, one.a.high, one.b.low, one.b.high)
    if any(end is None for end in ends):
        return "no interval"
    a_low, a_high, b_low, b_high = (float(end) for end in ends if end is not None)
    return "overlap" if a_low <= b_high and b_low <= a_high else "apart"


def report(a: Merged, b: Merged, compared: list[Compared]) -> str:
    """Text: the table of what is compared, what differs, and what is not compared and why."""
    rows = [("figure", "a", "b", "b - a", "intervals")]
    for one in compared:
        if not one.refused:
            gap = one.b.value - one.a.value if one.a.value is not None and one.b.value is not None else None
            change = f"{gap:+.4g}" if gap is not None else "null"
            rows.append((one.key, with_interval(one.a), with_interval(one.b), change, verdict(one)))
    lines = []
    if len(rows) > 1:
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines.insert(1, "-" * max(len(line) for line in lines))
    seen = {str(d): d for one in compared if not one.refused for d in one.differences}
    lines += [f"differs, as it may: {text}" for text in seen]
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in compared:
        if one.refused:
            groups.setdefault(tuple(str(d) for d in one.refused), []).append(one.key)
    for reasons, keys in groups.items():
        lines.append(f"not comparable: {', '.join(keys)}")
        lines += [f"  {reason}" for reason in reasons]
    for one in compared:
        for side, figure in (("a", one.a), ("b", one.b)):
            if figure.value is None:
                lines.append(f"{side}: {one.key} is null: {figure.reason}")
    common = {one.key for one in compared}
    for side, run in (("a", a), ("b", b)):
        if alone := sorted(figures_of(run).keys() - common):
            lines.append(f"only in {side}: {', '.join(alone)}")
    return "\n".join(lines)
