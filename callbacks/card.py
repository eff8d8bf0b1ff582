"""The protocol card of a run: how its figures were made, and table rows to paste, in Markdown and LaTeX."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from callbacks.figures import Figure, figures_of, label, number, with_interval
from callbacks.table import KEY_FIGURES, Merged

# Of the key figures, those that say how to read another one.
CONTEXT = ("_floor", "_n", "_chance", "_blur", "_random_tokens")
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    }
)  # fmt: skip


def card(run: Merged, *, title: str, keys: Sequence[str] | None = None) -> str:
    """The card as Markdown.

    Args:
        run: see `callbacks.figures.open_run`.
        title: how the run is called in its card and in the rows.
        keys: the figures of the rows, in this order; by default the key figures that were measured.

    Raises:
        ValueError: a key was not measured.
    """
    figures = figures_of(run)
    lines = [f"# Protocol card: {title}"]
    for stage, protocol in run.protocols.items():
        lines += ["", f"## {stage}", "", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {_cell(text)} |" for name, text in _facts(protocol)]
    lines += ["", "## Figures", "", "| figure | value | floor | N | extractor | stage |", "| --- " * 6 + "|"]
    for key, figure in sorted(figures.items()):
        value = with_interval(figure) + (f" ({figure.reason})" if figure.reason else "")
        floor = number(figure.floor) if figure.floor is not None else "-"
        cells = (key, value, floor, figure.n or "-", label(figure.extractor), run.origin[key])
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", "## Settings of each metric", ""]
    for stage, protocol in run.protocols.items():
        for name, part in protocol.get("metrics", {}).items():
            lines += [f"- {stage}: `{name}`: `{json.dumps(part, ensure_ascii=False, sort_keys=True)}`"]
    chosen = _chosen(figures, keys)
    if chosen:
        lines += ["", "## Rows to paste", "", *markdown_row(chosen, title=title), "", "```latex"]
        lines += [*latex_row(chosen, title=title), "```"]
    return "\n".join(lines)


def _chosen(figures: Mapping[str, Figure], keys: Sequence[str] | None) -> list[Figure]:
    if keys is None:
        return [figures[key] for key in KEY_FIGURES if key in figures and not key.endswith(CONTEXT)]
    if missing := [key for key in keys if key not in figures]:
        raise ValueError(f"not measured: {', '.join(missing)}; there are {', '.join(sorted(figures))}")
    return [figures[key] for key in keys]


def _facts(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    checkpoint, n = protocol.get("checkpoint"), protocol.get("n")
    weights = f"{checkpoint['name']}, sha256 {checkpoint['sha256']}" if checkpoint else "none"
    source = f"{protocol.get('layout')} {_plain(protocol.get('layout_options'))}"
    return [
        ("module", str(protocol.get("stage"))),
        ("checkpoint", weights),
        ("data", f"{source}, digest {_known(protocol, 'data_digest')}"),
        ("split, N", f"{protocol.get('split')}, {n} images, ids digest {_known(protocol, 'ids_digest')}"),
        ("resize", f"{_plain(protocol.get('images'))}, images of {_plain(protocol.get('image_size'))}"),
        ("uncertain labels", _plain(protocol.get("label_policy"))),
        ("sampler", _plain(protocol.get("sampling"))),
        ("seed", _plain(protocol.get("seed"))),
        ("computed in", f"{protocol.get('precision')} on {protocol.get('world_size')} × {protocol.get('device')}"),
        ("versions", _plain(protocol.get("versions"))),
    ]


def _known(protocol: Mapping[str, Any], name: str) -> str:
    return str(protocol.get(name) or "unknown")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items()) or "-"
    if isinstance(value, list):
        return " × ".join(str(part) for part in value)
    return "not stated" if value is None else str(value)


def _cell(text: object) -> str:
    return str(text).replace("|", r"\|").replace("\n", " ")


def _notes(figure: Figure) -> list[str]:
    floor = [f"floor {number(figure.floor)}"] if figure.floor is not None else []
    chance = [f"chance {number(figure.chance)}"] if figure.chance is not None else []
    count = [f"N={figure.n}"] if figure.n else []
    return floor + chance + count + ([label(figure.extractor)] if figure.extractor else [])


def markdown_row(figures: Sequence[Figure], *, title: str) -> list[str]:
    """Header, rule and row: each figure with all that it is read by, so that a row can be moved alone."""
    cells = [with_interval(one) + (f" ({', '.join(_notes(one))})" if _notes(one) else "") for one in figures]
    return [
        "| run | " + " | ".join(one.key for one in figures) + " |",
        "| --- " * (len(figures) + 1) + "|",
        "| " + " | ".join(_cell(cell) for cell in (title, *cells)) + " |",
    ]


def latex_row(figures: Sequence[Figure], *, title: str) -> list[str]:
    """Header and row of a LaTeX tabular, with the special characters escaped."""
    cells = [with_interval(one) + (f" ({', '.join(_notes(one))})" if _notes(one) else "") for one in figures]
    header = " & ".join(["run", *(one.key.translate(LATEX) for one in figures)])
    row = " & ".join(cell.translate(LATEX) for cell in (title, *cells))
    return [header + r" \\", r"\hline", row + r" \\"]
