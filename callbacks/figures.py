"""A run's figures, each with its interval, its floor and the part of the protocol that it was measured under."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.metrics_json import SCHEMA
from callbacks.table import Merged, merge, read_metrics

COMPANIONS = ("_low", "_high")
# Facts of a whole test that are no settings: figures, reasons, and what is compared part by part.
NO_SETTINGS = ("schema", "metrics", "undefined")


class Figure(NamedTuple):
    """One number and how it was made."""

    key: str
    value: float | None
    low: float | None  # of its interval; None where it has none
    high: float | None
    floor: float | None
    chance: float | None  # what images that show nothing would score
    n: int | None
    extractor: Mapping[str, Any] | None  # name and digest
    settings: Mapping[str, Any]  # of the whole test, and of the metrics that it belongs to under "metrics"
    reason: str | None  # why the value is None


def open_run(path: Path) -> Merged:
    """The figures of a chain's folder, of one stage's folder, or of one metrics.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file cannot be read, or two stages contradict one another.
    """
    file = path if path.is_file() else path / "metrics.json"
    if not file.is_file() or _is_merged(file):
        return merge(file.parent if path.is_file() else path)
    metrics, protocol = read_metrics(file)
    stage = file.parent.name
    return Merged(metrics, dict.fromkeys(metrics, stage), {stage: protocol})


def _is_merged(file: Path) -> bool:
    # `python -m callbacks` writes the protocols by stage; a stage's own file names its schema.
    try:
        document = json.loads(file.read_text())
    except json.JSONDecodeError:
        return False  # read_metrics names it
    protocol = document.get("protocol") if isinstance(document, dict) else None
    inner = list(protocol.values()) if isinstance(protocol, dict) else []
    return bool(inner) and all(isinstance(part, dict) and part.get("schema") == SCHEMA for part in inner)


def figures_of(run: Merged) -> dict[str, Figure]:
    """Every figure by its key; ends of intervals belong to the figure that they are of."""
    return {key: _figure(run, key) for key in run.metrics if not _is_end(run.metrics, key)}


def _is_end(metrics: Mapping[str, Any], key: str) -> bool:
    return any(key.endswith(end) and key.removesuffix(end) in metrics for end in COMPANIONS)


def _figure(run: Merged, key: str) -> Figure:
    metrics, protocol = run.metrics, run.protocols[run.origin[key]]
    parts = parts_of(key, protocol)
    settings = {name: value for name, value in protocol.items() if name not in NO_SETTINGS}
    extractor = next((part["extractor"] for part in parts.values() if part.get("extractor")), None)
    counts = [part["n"] for part in parts.values() if part.get("n")] or [protocol.get("n")]
    return Figure(
        key=key,
        value=metrics[key],
        low=metrics.get(f"{key}_low"),
        high=metrics.get(f"{key}_high"),
        floor=metrics.get(f"{key}_floor"),
        chance=metrics.get(f"{key}_chance"),
        n=counts[0],
        extractor=extractor,
        settings=settings | {"metrics": {name: without(part, "figures") for name, part in parts.items()}},
        reason=protocol.get("undefined", {}).get(key),
    )


def parts_of(key: str, protocol: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The metrics whose settings a figure depends on, by name.

    Those that name it under "figures". Else, of those that name none, the ones of its family: the same prefix and first
    word (`generator/fid` for `generator/fid_blur`). Else all of its prefix: rather too many settings have to agree than
    too few.
    """
    described: Mapping[str, Mapping[str, Any]] = protocol.get("metrics", {})
    named = {name: part for name, part in described.items() if key in part.get("figures", ())}
    if named:
        return named
    silent = {name: part for name, part in described.items() if not part.get("figures")}
    family = {name: part for name, part in silent.items() if _family(name) == _family(key)}
    return family or {name: part for name, part in silent.items() if name.split("/")[0] == key.split("/")[0]}


def _family(key: str) -> tuple[str, str]:
    prefix, _, rest = key.partition("/")
    return prefix, rest.split("/")[0].split("_")[0]


def without(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A copy that lacks these names."""
    return {name: value for name, value in part.items() if name not in names}


def number(value: float | None) -> str:
    """Four digits, whole numbers as they are; null where there is none."""
    if value is None:
        return "null"
    return str(round(value)) if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"


def with_interval(figure: Figure) -> str:
    """The value and, in brackets, its interval."""
    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{number(figure.value)} [{number(figure.low)}, {number(figure.high)}]"


def label(extractor: Mapping[str, Any] | None) -> str:
    """An extractor's name and the beginning of its weights' digest; "-" for none."""
    if extractor is None:
        return "-"
    return f"{extractor['name']} {str(extractor.get('digest'))[:8]}"
