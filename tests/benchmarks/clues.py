"""Milliseconds in which a report fetches its clues from 20,000 key patches: `python -m tests.benchmarks.clues`.

128 reports of the phantom's test split at once, on one core, with the default aligner's text half at random weights.
The entries' words are drawn as often as the training reports assert them, so that some have thousands of entries. Cold,
no report or sentence was read before; warm, all were. The parts are timed one by one.
"""

from collections import Counter
from typing import Any

import torch
from torch.nn import functional

from datamodules import layouts
from datamodules.reports import mentions
from lightning_modules.networks import clue_retriever
from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork, read_words
from lightning_modules.networks.clue_retriever import ClueRetriever
from lightning_modules.networks.key_patches import KeyPatchConfig
from lightning_modules.networks.tokenizer import WordTokenizer, train_tokenizer
from tests.benchmarks.record import interleaved, write

REPORTS, ENTRIES, CELLS, CODES, PLACES = 128, 20_000, 4, 1024, 256


def forget() -> None:
    """Empty the memory of what was read."""
    clue_retriever.asked.cache_clear()
    mentions._read.cache_clear()


def retriever(training: list[str], *, entries: int = ENTRIES) -> ClueRetriever:
    """Random weights, features and codes; words as often as the reports assert them."""
    torch.manual_seed(0)
    counts = Counter(mention.word for report in training for mention in clue_retriever.asked(report).mentions)
    words = tuple(sorted(counts))
    pathologies = {
        m.word for report in training for m in clue_retriever.asked(report).mentions if m.kind == "pathology"
    }
    config = AlignerConfig()
    tokenizer = train_tokenizer(training, kind="words", vocabulary=config.vocabulary)
    network = AlignmentNetwork(config, vocabulary=len(WordTokenizer(tokenizer)))
    arrays = {
        "features": functional.normalize(torch.randn(entries, config.dim), dim=1),
        "codes": torch.randint(CODES, (entries, CELLS)),
        "positions": torch.randint(PLACES, (entries, CELLS)),
        "word": torch.multinomial(torch.tensor([float(counts[word]) for word in words]), entries, replacement=True),
        "side": torch.randint(-1, 2, (entries,)),
        "patient": torch.randint(2**62, (entries,)),
        "centres": functional.normalize(torch.randn(len(words), config.dim), dim=1),
        "pathology": torch.tensor([word in pathologies for word in words]),
    }
    sizes = KeyPatchConfig(entries, CELLS, config.dim, words)
    return ClueRetriever(config, tokenizer, sizes).load_stages(network.state_dict(), arrays)


def measure(*, rounds: int = 15) -> dict[str, Any]:
    """Medians of interleaved rounds, as processor time of this process on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    manifest = layouts.read("phantom", None, studies=1500, seed=0)
    reports = manifest.split("test").frame["report"].tolist()[:REPORTS]
    patients = manifest.split("test").frame["patient_id"].tolist()[:REPORTS]
    part = retriever(manifest.split("train").frame["report"].tolist())
    length = part.aligner_config.max_length
    wanted, tokens = [clue_retriever.asked(report) for report in reports], part.tokenizer(reports, max_length=length)
    queries = part._queries(wanted, tokens)
    asking = queries.features, queries.words, queries.sides, torch.zeros_like(queries.words)

    def cold() -> None:
        forget()
        part.clues(reports, exclude_patients=patients)

    def read() -> None:
        forget()
        for report in reports:
            clue_retriever.asked(report)

    def encode() -> None:
        with torch.no_grad():
            functional.normalize(part.text_out(read_words(part.text, tokens)), dim=-1)

    def search() -> None:
        part.codebook.retrieve(*asking, count=part.config.clue_entries)

    sides = {
        "cold": cold,
        "warm": lambda: part.clues(reports, exclude_patients=patients),
        "mentions": read,
        "tokens": lambda: part.tokenizer(reports, max_length=length),
        "text_encoder": encode,
        "search": search,
    }
    seconds = interleaved(sides, rounds=rounds, cpu=True)
    torch.set_num_threads(threads)
    figures: dict[str, Any] = {f"{name}_ms_a_report": 1000 * value / len(reports) for name, value in seconds.items()}
    rest = seconds["warm"] - seconds["tokens"] - seconds["text_encoder"] - seconds["search"]
    figures |= {
        f"{name}_share": seconds[name] / seconds["cold"] for name in ("mentions", "tokens", "text_encoder", "search")
    }
    found = (part.clues(reports, exclude_patients=patients)[..., 0] >= 0).sum(dim=1).float().mean()
    facts = {
        "reports": len(reports),
        "distinct_reports": len(set(reports)),
        "entries": ENTRIES,
        "words": len(part.config.words),
        "entries_of_the_most_frequent_word": int(part.codebook.word.bincount().max()),
        "queries": len(queries.reports),
        "clues_a_report": float(found),
    }
    return write("clues", facts | figures | {"rest_ms_a_report": 1000 * rest / len(reports)})


if __name__ == "__main__":
    measure()
