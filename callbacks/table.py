"""Merges the metrics files of a run's stages into one, checks figures against targets, and lays out one table."""

import json
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.metrics_json import SCHEMA, write_json

# What a reader looks at first, in this order; every other figure follows by name.
CHAIN_FIGURES: tuple[str, ...] = (
    "codebook/psnr",
    "codebook/ssim",
    "codebook/ms_ssim",
    "codebook/usage",
    "codebook/bits",
    "codebook/rfid",
    "codebook/auroc_retained",
    "aligner/pointing",
    "aligner/pointing_chance",
    "aligner/pointing_other_image",
    "aligner/zero_shot_auroc",
    "aligner/status_flipped",
    "aligner/side_flipped",
    "prompter/coverage",
    "classifier/auroc_real",
    "classifier/auroc_synthetic",
    "classifier/auroc_ratio",
    "generator/fid",
    "generator/fid_floor",
    "generator/fid_n",
    "generator/kid",
    "generator/fid_blur",
    "generator/fid_random_tokens",
)
# What `make evaluation` adds.
MORE_FIGURES: tuple[str, ...] = (
    "generator/lite0/fid",
    "generator/lite0/fid_floor",
    "generator/lite0/kid",
    "generator/consistency_side_ratio",
    "generator/consistency_side_ratio_chance",
    "generator/consistency_severity_ratio",
    "generator/consistency_severity_ratio_chance",
    "generator/alignment_share",
    "generator/diversity_excess",
    "generator/niqe",
    "generator/niqe_real",
    "generator/privacy_flagged",
    "generator/privacy_false_alarms_expected",
    "generator/privacy_copies",
    "generator/memorisation_difference",
    "generator/utility_auroc/0/1",  # of classifiers trained on synthetic images alone, real ones alone, and both
    "generator/utility_auroc/1/0",
    "generator/utility_auroc/1/1",
)
KEY_FIGURES = CHAIN_FIGURES + MORE_FIGURES
# The same data and weights give the same figure up to summation order.
TOLERANCE = 1e-5

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
TARGET = re.compile(
    rf"\s*(?P<op>>=|<=|>|<)\s*(?:(?P<number>{NUMBER})\s*(?:\*\s*(?P<scaled>\S+))?|(?P<key>[A-Za-z_]\S*))\s*"
)


class Merged(NamedTuple):
    """The figures of all stages."""

    metrics: dict[str, float | None]
    origin: dict[str, str]  # metric → the stage folder it came from first
    protocols: dict[str, Any]  # stage folder → protocol


class Verdict(NamedTuple):
    """One target and whether it was met."""

    key: str
    target: str
    met: bool


def read_metrics(path: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Figures and protocol of one stage's file.

    Raises:
        ValueError: naming the file and what is wrong in it.
    """
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no valid JSON ({error}); run the stage's test again") from error
    protocol = document.pop("protocol", None) if isinstance(document, dict) else None
    if not isinstance(protocol, dict) or protocol.get("schema") != SCHEMA:
        found = protocol.get("schema") if isinstance(protocol, dict) else None
        raise ValueError(f"{path}: protocol schema {found!r}, expected {SCHEMA}; run the stage's test again")
    for key, value in document.items():
        if isinstance(value, bool) or not (value is None or isinstance(value, int | float)):
            raise ValueError(f"{path}: {key} is {value!r}, expected a number or null")
    return document, protocol


def merge(run: Path) -> Merged:
    """The figures of every `<run>/<stage>/metrics.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: two stages give one key with different values; both files are named.
    """
    files = sorted(run.glob("*/metrics.json"))
    if not files:
        raise FileNotFoundError(f"{run}: no <stage>/metrics.json in it; run `python main.py test` of a stage first")
    merged = Merged({}, {}, {})
    for path in files:
        stage = path.parent.name
        metrics, merged.protocols[stage] = read_metrics(path)
        for key, value in metrics.items():
            if key in merged.metrics and not _same(merged.metrics[key], value):
                other = run / merged.origin[key] / "metrics.json"
                raise ValueError(
                    f"{key} is {merged.metrics[key]} in {other} and {value} in {path}; "
                    "one was measured on other data or weights: run both tests again, or give one another prefix"
                )
            merged.metrics.setdefault(key, value)
            merged.origin.setdefault(key, stage)
    return merged


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b))


def write_merged(run: Path, merged: Merged) -> Path:
    """Write `<run>/metrics.json`: the flat figures, and the protocols by stage."""
    path = run / "metrics.json"
    write_json(path, {**merged.metrics, "protocol": merged.protocols})
    return path


def read_targets(path: Path) -> dict[str, list[str]]:
    """Metric → its targets, e.g. `generator/fid: ["< 0.8 * generator/fid_blur", "< 40"]`.

    A target is an operator and a number, a metric, or a number times a metric.

    Raises:
        ValueError: naming the file, the key and the target that cannot be read.
    """
    document = yaml.safe_load(path.read_text())
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected `metric: target` lines, found {type(document).__name__}")
    targets = {str(key): value if isinstance(value, list) else [value] for key, value in document.items()}
    for key, values in targets.items():
        for value in values:
            if not isinstance(value, str) or TARGET.fullmatch(value) is None:
                raise ValueError(
                    f'{path}: {key}: {value!r} is no target; write for example ">= 0.8", "< generator/fid_blur" '
                    'or ">= 3 * aligner/pointing_chance"'
                )
    return targets


def judge(metrics: Mapping[str, float | None], targets: Mapping[str, list[str]]) -> list[Verdict]:
    """Each target's verdict; a figure that was not measured, or is null, misses its target."""
    return [Verdict(key, target, _met(metrics, key, target)) for key, values in targets.items() for target in values]


def _met(metrics: Mapping[str, float | None], key: str, target: str) -> bool:
    match = TARGET.fullmatch(target)
    assert match is not None, target  # read_targets has refused others
    bound: float | None = float(match["number"]) if match["number"] else 1.0
    other = match["scaled"] or match["key"]
    value, against = metrics.get(key), (metrics.get(other) if other else 1.0)
    if value is None or against is None or bound is None:
        return False
    return OPERATORS[match["op"]](value, bound * against)


def layout(merged: Merged, verdicts: list[Verdict]) -> str:
    """The aligned table: key figures first, each with its targets and its stage; then what was not measured."""
    by_key: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_key.setdefault(verdict.key, []).append(verdict)
    first = [key for key in KEY_FIGURES if key in merged.metrics]
    rest = sorted(set(merged.metrics) - set(first))
    unmeasured = [key for key in by_key if key not in merged.metrics]
    lines = [("figure", "value", "target", "stage")]
    for key in (*first, *rest, *unmeasured):
        value = merged.metrics.get(key)
        shown = f"{value:.4g}" if value is not None else ("null" if key in merged.metrics else "not measured")
        if value is not None and value == round(value) and abs(value) < 1e9:
            shown = str(round(value))
        goal = "; ".join(f"{v.target} {'met' if v.met else 'MISSED'}" for v in by_key.get(key, []))
        lines.append((key, shown, goal, merged.origin.get(key, "")))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    rows = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in lines]
    rows.insert(1, "-" * max(len(row) for row in rows))
    if first and rest:
        rows.insert(2 + len(first), "")
    return "\n".join(rows)


def notes(merged: Merged) -> list[str]:
    """What a reader of the table must know: differing data, undefined figures, singular covariances, absent figures."""
    found = []
    digests: dict[str, list[str]] = {}
    for stage, protocol in merged.protocols.items():
        digests.setdefault(str(protocol.get("data_digest"))[:12], []).append(stage)
    if len(digests) > 1:
        parts = "; ".join(f"{', '.join(stages)}: {digest}" for digest, stages in digests.items())
        found.append(f"the stages were tested on different data ({parts})")
    for stage, protocol in merged.protocols.items():
        for key, reason in protocol.get("undefined", {}).items():
            found.append(f"{stage}: {key} is null: {reason}")
        for name, part in protocol.get("metrics", {}).items():
            if part.get("rank_deficient"):
                found.append(f"{stage}: {name}: {part['rank_deficient']}")
    absent = [key for key in CHAIN_FIGURES if key not in merged.metrics]
    if absent:
        found.append(f"not measured yet: {', '.join(absent)}")
    return found
