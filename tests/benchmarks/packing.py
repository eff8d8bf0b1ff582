"""Training steps of the prompter a second, texts packed into rows against texts padded to the longest.

    python -m tests.benchmarks.packing

Forward and backward of the default small model on batches of 32 phantom reports under their keywords.
"""

from typing import Any

import torch
from torch.nn import functional

from datamodules import layouts
from datamodules.reports.keywords import keywords_of
from lightning_modules.networks.examples import prompt
from lightning_modules.networks.language_model import IGNORED, LanguageModelConfig, build_small, train_codec
from lightning_modules.networks.packing import pack
from tests.benchmarks.record import interleaved, write

BATCH, BATCHES = 32, 4


def measure(*, rounds: int = 5, threads: int = 1) -> dict[str, Any]:
    """Medians of interleaved rounds, in this process on `threads` threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LanguageModelConfig()
    reports = layouts.read("phantom", None, studies=2 * BATCH * BATCHES, seed=0).frame["report"].tolist()
    reports = reports[: BATCH * BATCHES]
    codec = train_codec(reports, sub_words=config.sub_words)
    model: Any = build_small(config, codec)
    prompts = codec.prompts([prompt(keywords_of(report), view="PA") for report in reports])
    answers = [[*ids, codec.end] for ids in codec.encode(reports)]
    parts = [slice(start, start + BATCH) for start in range(0, len(reports), BATCH)]

    def step(ids: torch.Tensor, targets: torch.Tensor, **given: torch.Tensor) -> int:
        logits = model(input_ids=ids, use_cache=False, **given).logits[:, :-1]
        scored = targets[:, 1:] != IGNORED
        functional.cross_entropy(logits[scored], targets[:, 1:][scored]).backward()
        return ids.numel()

    def packed() -> int:
        sizes = []
        for part in parts:
            rows = pack(prompts[part], answers[part], max_length=config.max_length)
            sizes.append(step(rows.ids, rows.targets, position_ids=rows.positions))
        return sum(sizes)

    def padded() -> int:
        sizes = []
        for part in parts:
            ids, mask, targets = codec.training_batch(prompts[part], reports[part], max_length=config.max_length)
            sizes.append(step(ids, targets, attention_mask=mask.long()))
        return sum(sizes)

    tokens = sum(min(len(p) + len(a), config.max_length) for p, a in zip(prompts, answers, strict=True))
    filled = {"packed_filled": tokens / packed(), "padded_filled": tokens / padded()}
    seconds = interleaved({"packed": packed, "padded": padded}, rounds=rounds, cpu=True)
    rates = {f"{name}_reports_per_s": len(reports) / value for name, value in seconds.items()}
    return write("packing", {"threads": threads, **filled, **rates, "ratio": seconds["padded"] / seconds["packed"]})


if __name__ == "__main__":
    measure()
