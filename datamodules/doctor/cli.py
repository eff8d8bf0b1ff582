"""The command `python -m datamodules doctor ROOT`: its arguments and its exit status."""

import argparse
import json
import sys
from pathlib import Path

from datamodules import layouts
from datamodules.doctor.examine import STATE, examine
from datamodules.doctor.report import document, text
from datamodules.files import replacing
from datamodules.layout_options import add_option, parse_options

INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the command's arguments."""
    parser.add_argument("root", help="folder, file or fsspec URL of the data set; nothing in it is changed")
    parser.add_argument("--layout", choices=sorted(layouts.NAMES), help="by default the one that recognises the root")
    add_option(parser)
    parser.add_argument("--json", metavar="FILE", help="write the findings as JSON, with all ids; - prints only that")
    parser.add_argument("--decode", action="store_true", help="decode each picture fully (much slower)")
    parser.add_argument(
        "--state", type=Path, default=STATE, metavar="DIR", help=f"where an interrupted pass is kept (default {STATE})"
    )
    parser.add_argument("--workers", type=int, help="threads (default: two for each granted core)")


def run(given: argparse.Namespace) -> int:
    """Examine and report; 1 where there are errors, 130 after Ctrl-C, else 0.

    Raises:
        FileNotFoundError: when there is no such root.
        ValueError: for a layout or an option that does not exist.
    """
    try:
        diagnosis = examine(
            given.root,
            layout=given.layout,
            options=parse_options(given.option),
            decode=given.decode,
            state=given.state,
            workers=given.workers,
        )
    except KeyboardInterrupt:
        print("interrupted; what has been looked at is kept: the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    if given.json:
        content = json.dumps(document(diagnosis, options=given.option), indent=1, ensure_ascii=False)
        if given.json == "-":
            print(content)
        else:
            _save(content + "\n", Path(given.json))
    if given.json != "-":
        print(text(diagnosis, options=given.option))
    return 1 if diagnosis.count("error") else 0


def _save(content: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(content)
