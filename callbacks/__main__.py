"""`python -m callbacks <run>`: merge the stages' metrics.json, print one table, the pictures and what to do next."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.table import judge, layout, merge, notes, read_targets, write_merged


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a run.

    Args:
        argv: the command line without the program's name.

    Returns:
        0; 1 where a target is missed; 2 where the files cannot be read or contradict one another.
    """
    parser = argparse.ArgumentParser(prog="python -m callbacks", description=__doc__)
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
