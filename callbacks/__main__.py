"""`python -m callbacks <run>`: merge the stages' metrics.json, print one table, the pictures and what to do next.

`python -m callbacks card <run>` prints the protocol card of a run, `python -m callbacks compare <run a> <run b>` two
runs side by side. A run is a folder of stages, a stage's folder or a metrics.json; a folder that is itself called card
or compare is given as ./card.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.card import card
from callbacks.compare import compare, report
from callbacks.figures import open_run
from callbacks.table import judge, layout, merge, notes, read_targets, write_merged


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a run, its card, or two runs compared.

    Args:
        argv: the command line without the program's name.

    Returns:
        0; 1 where a target is missed; 2 where the files cannot be read, contradict one another, or no figure of two
        runs can be compared.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"card": print_card, "compare": print_comparison}
    if arguments and arguments[0] in commands:
        try:
            return commands[arguments[0]](arguments[1:])
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return print_table(arguments)


def print_card(argv: Sequence[str]) -> int:
    """`card <run>`: the protocol card as Markdown, with a Markdown and a LaTeX row."""
    parser = argparse.ArgumentParser(prog="python -m callbacks card", description=print_card.__doc__)
    parser.add_argument("run", type=Path, help="a chain's folder, a stage's folder, or a metrics.json")
    parser.add_argument("--title", help="name of the run in its card and rows; by default that of its folder")
    parser.add_argument("--figures", nargs="+", metavar="KEY", help="the rows' figures; by default the key figures")
    arguments = parser.parse_args(argv)
    run: Path = arguments.run
    folder = run.parent if run.is_file() else run
    print(card(open_run(run), title=arguments.title or folder.resolve().name, keys=arguments.figures))
    return 0


def print_comparison(argv: Sequence[str]) -> int:
    """`compare <run a> <run b>`: the figures that were measured under one protocol, side by side."""
    parser = argparse.ArgumentParser(prog="python -m callbacks compare", description=print_comparison.__doc__)
    parser.add_argument("a", type=Path, help="a chain's folder, a stage's folder, or a metrics.json")
    parser.add_argument("b", type=Path, help="the other run")
    parser.add_argument(
        "--allow", nargs="+", choices=["sampler"], default=[], help="what may differ beside checkpoint and seed"
    )
    arguments = parser.parse_args(argv)
    a, b = open_run(arguments.a), open_run(arguments.b)
    compared = compare(a, b, allow=arguments.allow)
    for side, path in (("a", arguments.a), ("b", arguments.b)):
        print(f"{side}: {path}")
    print(report(a, b, compared))
    if all(one.refused for one in compared):
        found = f"{len(compared)} figures in both, all under other protocols" if compared else "no figure in both"
        print(f"error: nothing to compare: {found}; test both again under one protocol", file=sys.stderr)
        return 2
    return 0


def print_table(argv: Sequence[str]) -> int:
    """`<run>`: the table of a chain; writes its merged metrics.json."""
    parser = argparse.ArgumentParser(
        prog="python -m callbacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder whose subfolders are the stages, e.g. runs/demo")
    parser.add_argument("--targets", type=Path, help='YAML of `metric: ">= number"` lines')
    arguments = parser.parse_args(argv)
    run: Path = arguments.run
    try:
        merged = merge(run)
        verdicts = judge(merged.metrics, read_targets(arguments.targets)) if arguments.targets else []
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    written = write_merged(run, merged)
    print(layout(merged, verdicts))
    for note in notes(merged):
        print(f"note: {note}")
    pictures = pictures_of(run)
    print(f"\nfigures with their protocol: {written}")
    for picture in pictures:
        print(f"picture: {picture}")
    missed = [verdict for verdict in verdicts if not verdict.met]
    if missed:
        print(f"\n{len(missed)} of {len(verdicts)} targets missed: {', '.join(f'{v.key} {v.target}' for v in missed)}")
        return 1
    look = "look at the pictures, then " if pictures else ""
    print(f"\nnext: {look}run it on radiographs of your own: make nih NIH=<folder>; README.md names the other layouts")
    return 0


def pictures_of(run: Path) -> list[Path]:
    """The pictures worth a look: not the loggers' copies, and of a folder with a contact sheet the sheet alone."""
    found = [path for path in sorted(run.rglob("*.png")) if "wandb" not in path.relative_to(run).parts]
    sheets = {path.parent for path in found if path.name == "contact_sheet.png"}
    return [path for path in found if path.parent not in sheets or path.name == "contact_sheet.png"]


if __name__ == "__main__":
    sys.exit(main())
