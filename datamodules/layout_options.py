"""A layout's options on the command line: `--option NAME=VALUE`."""

import argparse
import json
import re
from typing import Any

LAYOUT_OPTION = "an option of the layout, the value as JSON or plain text: --option section=impression"


def add_option(parser: argparse.ArgumentParser, text: str = LAYOUT_OPTION, *, name: str = "--option") -> None:
    """Give a parser `--option`, or one of another name, which may be repeated."""
    parser.add_argument(name, action="append", default=[], metavar="NAME=VALUE", help=text)


def parse_options(texts: list[str]) -> dict[str, Any]:
    """NAME=VALUE texts as a dict; a value is JSON, or else a text.

    Raises:
        ValueError: for one without "=".
    """
    options: dict[str, Any] = {}
    for one in texts:
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"--option {one}: expected NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def on_command_line(text: str) -> str:
    """A reader's message, which speaks of the options of a config, as it is to be read on the command line."""
    return re.sub(r"(set )?layout_options\.([\w.]+)( to |=)?", _option, text)


def _option(match: re.Match[str]) -> str:
    return f"{'give ' if match[1] else ''}--option {match[2]}={'' if match[3] else '...'}"
