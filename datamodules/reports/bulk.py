"""Mentions of many reports, with a bar: 227,000 reports take one core half a minute.

Where many sentences are known a core reads 16,000 reports a second, and to send their mentions from one process to
another costs as much as to read them: `extract_all` stays in this process unless told otherwise. Processes pay where
little comes back: see `map_mentions`.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from datamodules.processes import can_spawn, granted_cores
from datamodules.progress import bar
from datamodules.reports.mentions import Mention, extract

IN_PROCESS = 50_000  # at most so many are read here: processes take seconds to start
QUICK = 10_000  # at most so many have no bar
BATCH = 500

T = TypeVar("T")


def extract_all(reports: Sequence[str], *, workers: int | None = 1) -> list[list[Mention]]:
    """`extract` of each report, in their order; arguments as `map_mentions` takes them."""
    return list(map_mentions(_same, reports, workers=workers))


def map_mentions(
    each: Callable[[str, list[Mention]], T], reports: Sequence[str], *, workers: int | None = None
) -> Iterator[T]:
    """What a function makes of each report and its mentions, in the order of the reports, as they are read.

    Args:
        each: called with one report and its mentions, where they are read; only what it returns comes back. A function
            of a module, since other processes must find it.
        reports: the texts; an empty one has no mentions.
        workers: processes; by default one for each granted core. 1 reads them in this process.

    Raises:
        ValueError: if `workers` is less than 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1, or None for all granted cores")
    workers = workers or granted_cores()
    with bar(desc="mentions", unit="report", total=len(reports), disable=len(reports) <= QUICK) as progress:
        few = len(reports) <= IN_PROCESS or workers == 1 or not can_spawn()
        read = partial(_read_batch, each)
        for batch in map(read, _batches(reports)) if few else _spawned(read, reports, workers):
            yield from batch
            progress.update(len(batch))


def _same(report: str, mentions: list[Mention]) -> list[Mention]:
    return mentions


def _batches(reports: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(reports), BATCH):
        yield list(reports[start : start + BATCH])


def _read_batch(each: Callable[[str, list[Mention]], T], reports: list[str]) -> list[T]:
    return [each(report, extract(report)) for report in reports]


def _spawned(read: Callable[[list[str]], list[T]], reports: Sequence[str], workers: int) -> Iterator[list[T]]:
    # Spawned, not forked: a fork of a process in which torch or CUDA has threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        rest = _batches(reports)
        # A few batches for each, so that results do not pile up behind a slow one.
        pending: list[Future[list[T]]] = [pool.submit(read, batch) for batch in islice(rest, 4 * workers)]
        try:
            while pending:
                yield pending.pop(0).result()
                pending += [pool.submit(read, batch) for batch in islice(rest, 1)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
