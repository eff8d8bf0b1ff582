"""prompts.jsonl while it is written: a prompter that is killed goes on with the next text.

Each batch's rows are appended to a partial file beside it at once, one a rank:

    prompts.partial-1a2b3c4d-0.jsonl:  {"schema": 1, "facts": {"weights": "...", "data": "...", "seed": 0, ...}}
                                       {"study_id": "s0", ..., "report": "..."}

The facts are all that a text depends on, and their digest stands in the name. A later run with the same facts, on any
number of ranks, takes the rows over; one with others says what differs, and leaves the file for a run that fits it.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules import reports
from datamodules.manifest import Batch
from datamodules.reports.vocabulary import Vocabulary
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.requests import (
    Mode,
    Study,
    finished,
    studies_of,
    unlearnt_words,
    unlearnt_words_text,
    write_prompts,
)
from lightning_modules.networks.written import Written

SCHEMA = 1
# The files of this folder that decide what is asked and written; with them, all of datamodules/reports.
CODE = (
    "copying.py", "examples.py", "generation.py", "guided.py", "instruct.py", "language_model.py", "report_writer.py",
    "requests.py", "text_checks.py", "written.py",
)  # fmt: skip
LONGEST = 40  # characters of a fact in a message; digests are not shown


class Partial(NamedTuple):
    """What a partial file holds.

    Attributes:
        facts: of the run that wrote it; None where the first line is cut or none of these.
        rows: the whole ones.
        cut: lines that are not whole.
        end: bytes up to the end of the last whole line.
    """

    facts: dict[str, Any] | None
    rows: list[dict[str, Any]]
    cut: int
    end: int


def code_digest() -> str:
    """Sha256 of the files that decide what is asked, written and verified."""
    here = Path(__file__).parent
    rules = sorted(file for place in reports.__path__ for file in Path(place).iterdir() if file.suffix != ".pyc")
    files = [*(here / name for name in CODE), *(file for file in rules if file.is_file())]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_partial(path: Path) -> Partial:
    """Read what a run that may have been killed left behind."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    lines = content[:end].split(b"\n")[:-1]
    cut = int(end < len(content))
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            row["study_id" if number else "facts"]
        except (ValueError, KeyError, TypeError):
            if not number:
                return Partial(None, [], len(lines) + cut, end)
            cut += 1
        else:
            found.append(row)
    return Partial(found[0]["facts"], found[1:], cut, end) if found else Partial(None, [], cut, end)


class PromptFile:
    """The rows of one `predict`, and what of them is on disk.

    Args:
        path: prompts.jsonl.
        rank: of this process.
        facts: all that a text depends on beside its study and keywords; plain data for JSON.
        mode: see `ReportPrompter`.
        vocabulary: that keywords are taken from.
        learnt: whether the model was trained on the words of the vocabulary, so that it cannot write others.
        seed: of drawing keywords.
    """

    def __init__(
        self,
        path: Path,
        *,
        rank: int,
        facts: Mapping[str, Any],
        mode: Mode,
        vocabulary: Vocabulary,
        learnt: bool,
        seed: int,
    ) -> None:
        self.path, self.rank = path, rank
        self.mode, self.vocabulary, self.seed = mode, vocabulary, seed
        self.learnt = vocabulary if learnt and mode == "asked" else None
        # As it comes back from the file: tuples are lists there.
        self.facts: dict[str, Any] = json.loads(json.dumps(dict(facts), sort_keys=True))
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        self.digest = digest[:8]
        self.rows: dict[str, dict[str, Any]] = {}
        self.unasked: set[str] = set()
        self.done: set[str] = set()
        self._named: set[str] = set()

    @property
    def partial(self) -> Path:
        """This rank's partial file."""
        return self.path.with_name(f"{self.path.stem}.partial-{self.digest}-{self.rank}.jsonl")

    def resume(self) -> None:
        """Rank 0 reads what an earlier run left, whatever its number of ranks; all learn which studies are done."""
        if self.rank == 0:
            self._take_over()
        self.done = set(gather_items(sorted(self.rows)))

    def ask(self, batch: Batch) -> dict[str, Study]:
        """What is to be written of a batch's studies: those that are not done and of which something is known."""
        found = studies_of(
            batch, done=self.done | self.unasked, mode=self.mode, vocabulary=self.vocabulary, seed=self.seed
        )
        studies = {study: one for study, one in found.items() if one is not None}
        self.unasked |= found.keys() - studies.keys()
        if self.learnt is not None:
            words = unlearnt_words([one.row for one in studies.values()], self.learnt)
            new = {word: count for word, count in words.items() if word not in self._named}
            # Ranks share the sets out in turn: what the first meets, the others meet too.
            if new and self.rank == 0:
                print(f"prompter: {unlearnt_words_text(new, self.learnt, of=len(studies))}", flush=True)
            self._named |= new.keys()
        return studies

    def add(self, studies: Mapping[str, Study], written: Sequence[Written]) -> list[dict[str, Any]]:
        """Keep the rows of what was written, on disk before the next batch begins.

        Returns:
            These rows, as in prompts.jsonl.
        """
        rows = [finished(one.row, text) for one, text in zip(studies.values(), written, strict=True)]
        if rows:
            self._append(rows)
        self.rows |= {str(row["study_id"]): row for row in rows}
        self.done |= studies.keys()
        return rows

    def finish(self) -> None:
        """Gather all ranks' rows; rank 0 writes prompts.jsonl, one line a study, and removes the partial files."""
        rows = dict(gather_items(list(self.rows.items())))
        unasked = set(gather_items(sorted(self.unasked))) - set(rows)
        if self.rank == 0:
            write_prompts(self.path, rows, unasked=unasked, learnt=self.learnt)
            for file in self._files(self.digest):
                file.unlink()

    def _files(self, digest: str = "*") -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.partial-{digest}-*.jsonl"))

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        head = [] if self.partial.exists() else [{"schema": SCHEMA, "facts": self.facts}]
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        with self.partial.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in [*head, *rows])
            file.flush()
            os.fsync(file.fileno())  # a batch takes a minute, this a few milliseconds

    def _take_over(self) -> None:
        mine, cut = self._files(self.digest), 0
        for file in mine:
            found = read_partial(file)
            cut += found.cut
            if found.facts != self.facts:
                # Killed while its first line was written, or not written by this program.
                os.replace(file, file.with_suffix(".damaged"))
                print(f"prompter: {file} is damaged and not used; it is now {file.stem}.damaged", flush=True)
                continue
            os.truncate(file, found.end)
            self.rows |= {str(row["study_id"]): row for row in found.rows}
        if mine:
            names = f"{mine[0]}" + (f" and {len(mine) - 1} more" if len(mine) > 1 else "")
            dropped = f"; {cut} lines that were cut when it was killed are written again" if cut else ""
            print(f"prompter: takes {len(self.rows)} texts over from an interrupted run ({names}){dropped}", flush=True)
        for file in self._files():
            if file not in mine:
                found = read_partial(file)
                print(
                    f"prompter: starts anew beside {file}, {len(found.rows)} texts of an interrupted run with other "
                    f"{self._difference(found.facts or {})}; it stays for a run with these, remove it if there is none",
                    flush=True,
                )

    def _difference(self, others: Mapping[str, Any]) -> str:
        """E.g. "weights, seed (1, now 0)"."""
        nothing = object()
        parts = []
        for name in sorted(self.facts.keys() | others.keys()):
            before, now = others.get(name, nothing), self.facts.get(name, nothing)
            if before != now:
                texts = [json.dumps(value) if value is not nothing else "none" for value in (before, now)]
                shown = all(len(text) <= LONGEST for text in texts)
                parts.append(f"{name} ({texts[0]}, now {texts[1]})" if shown else name)
        return ", ".join(parts)
