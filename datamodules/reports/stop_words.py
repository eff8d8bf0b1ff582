"""The stop list: words of reports that are not wanted as keywords, and why; `stop_words.json`, or a user's own copy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.reports.keywords import SIDES
from datamodules.reports.phrases import lexicon

SCHEMA = 1
FILE = Path(__file__).with_name("stop_words.json")


@dataclass(frozen=True)
class StopList:
    """What is left out of the vocabulary.

    Attributes:
        words: canonical word → why it is no keyword. A word with sides goes with all of them.
        without_severity: canonical word → why it keeps no "large" or "severe".
    """

    words: Mapping[str, str]
    without_severity: Mapping[str, str]

    def reason(self, word: str) -> str | None:
        """Why a word, "rib" or "left rib", is not wanted; None if it is."""
        side, _, bare = word.partition(" ")
        return self.words.get(word) or (self.words.get(bare) if side in SIDES else None)


def read_stop_words(path: str | Path | None = None) -> StopList:
    """Read a stop list.

    Args:
        path: a file like `stop_words.json`; that file by default.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is no stop list, names a word that the lexicon lacks, or leaves a reason out.
    """
    path = FILE if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the stop list {path} does not exist; copy {FILE.name} of the package and edit it")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy {FILE.name} of the package and edit it") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ValueError(f'{path}: found schema {schema}, expected {SCHEMA}; a stop list begins {{"schema": {SCHEMA}')
    parts = {}
    for part in ("words", "without_severity"):
        given = data.get(part, {})
        if not isinstance(given, dict):
            raise ValueError(f'{path}: {part} is {type(given).__name__}, expected an object {{"word": "reason"}}')
        for word, reason in given.items():
            if word not in lexicon().entities:
                raise ValueError(
                    f"{path}: {part} names {word!r}, which is no word of the lexicon; take the canonical word, as the "
                    "vocabulary spells it, without a side"
                )
            if not isinstance(reason, str) or not reason.strip():
                raise ValueError(f"{path}: {part} gives no reason for {word!r}; say in a sentence why it is not wanted")
        parts[part] = given
    return StopList(**parts)
