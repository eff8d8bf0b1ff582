"""Tokens a second of the prompter's writing, against `transformers` with and without its cache, on the same model.

    python -m tests.benchmarks.generate

The default small model with random weights writes as many tokens as it may for each of a batch of prompts of different
lengths: the end token is forbidden on all sides, so all write the same number. Nucleus sampling on all sides.
"""

from typing import Any

import torch

from datamodules import layouts
from datamodules.reports.keywords import keywords_of
from lightning_modules.networks.examples import prompt
from lightning_modules.networks.generation import generate
from lightning_modules.networks.language_model import LanguageModelConfig, build_small, train_codec
from tests.benchmarks.record import interleaved, write

TEXTS, TOKENS, TEMPERATURE, TOP_P = 16, 96, 0.7, 0.95


def measure(*, rounds: int = 3, threads: int = 1) -> dict[str, Any]:
    """Medians of interleaved rounds, in this process on `threads` threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    reports = layouts.read("phantom", None, studies=4 * TEXTS, seed=0).frame["report"].tolist()
    codec = train_codec(reports, sub_words=LanguageModelConfig().sub_words)
    model: Any = build_small(LanguageModelConfig(), codec).eval()
    prompts = codec.prompts([prompt(keywords_of(report), view="PA") for report in reports[:TEXTS]])
    longest = max(len(row) for row in prompts)
    ids = torch.tensor([[codec.pad] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    draws = torch.rand(TEXTS, TOKENS, dtype=torch.float64)

    def ours() -> int:
        written = generate(
            model, prompts, draws, codec=codec, temperature=TEMPERATURE, top_p=TOP_P,
            max_length=LanguageModelConfig().max_length, banned=[codec.end],
        )  # fmt: skip
        return sum(len(one.ids) for one in written)

    def theirs(*, use_cache: bool) -> int:
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0,
                max_new_tokens=TOKENS, min_new_tokens=TOKENS, use_cache=use_cache, pad_token_id=codec.pad,
            )  # fmt: skip
        return TEXTS * (out.shape[1] - longest)

    sides = {
        "ours": ours,
        "transformers": lambda: theirs(use_cache=True),
        "recomputing": lambda: theirs(use_cache=False),
    }
    assert sides["ours"]() == sides["transformers"]() == TEXTS * TOKENS
    seconds = interleaved(sides, rounds=rounds, cpu=True)
    rates = {f"{name}_tokens_per_s": TEXTS * TOKENS / value for name, value in seconds.items()}
    figures = {
        "texts": TEXTS,
        "tokens_a_text": TOKENS,
        "threads": threads,
        **rates,
        "ratio_to_recomputing": seconds["recomputing"] / seconds["ours"],
        "ratio_to_transformers": seconds["transformers"] / seconds["ours"],
    }
    return write("generate", figures)


if __name__ == "__main__":
    measure()
