"""Metrics of written texts that sum exactly over ranks: ratios of sums, n-grams, BLEU against one another, lengths."""

from collections.abc import Callable, Sequence

import torch
from scipy.stats import wasserstein_distance
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import bleu_score
from torchmetrics.utilities.data import dim_zero_cat

from lightning_modules.networks.copying import fingerprint, ngrams


class Ratio(Metric):
    """Sum of numerators over sum of denominators, over all updates and ranks; through `transform`, e.g. exp."""

    full_state_update = False
    numerator: Tensor
    denominator: Tensor

    def __init__(self, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.transform = transform
        self.add_state("numerator", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("denominator", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, numerator: float, denominator: float) -> None:
        """Add to both sums."""
        self.numerator += numerator
        self.denominator += denominator

    def compute(self) -> Tensor:
        """NaN where the denominator is 0."""
        value = (self.numerator / self.denominator).float()
        return value if self.transform is None else self.transform(value)


class DistinctNgrams(Metric):
    """Different word n-grams over all n-grams (distinct-n, Li et al., arXiv 1510.03055), exact over ranks."""

    full_state_update = False
    seen: list[Tensor]
    total: Tensor

    def __init__(self, n: int = 2) -> None:
        super().__init__()
        self.n = n
        self.add_state("seen", default=[], dist_reduce_fx="cat")
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, texts: Sequence[str]) -> None:
        """Add texts."""
        hashes = [fingerprint(gram) for text in texts for gram in ngrams(text, self.n)]
        self.total += len(hashes)
        self.seen.append(torch.tensor(hashes, dtype=torch.int64, device=self.total.device).unique())

    def compute(self) -> Tensor:
        """In (0,1]; NaN without texts."""
        return (dim_zero_cat(self.seen).unique().numel() / self.total).float()


class SelfBleu(Metric):
    """Mean BLEU-4 of a text against all others (Zhu et al., arXiv 1802.01886): 1 where all say the same.

    Of a sample: the texts whose keys hash lowest with the seed, so it is the same texts on any number of ranks.

    Args:
        sample: number of texts at most.
        seed: draws them.
    """

    full_state_update = False
    order: list[Tensor]
    sizes: list[Tensor]
    letters: list[Tensor]

    def __init__(self, *, sample: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.sample, self.seed = sample, seed
        # Texts travel between ranks as bytes, the only thing that tensors hold.
        for name in ("order", "sizes", "letters"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, texts: Sequence[str], keys: Sequence[str]) -> None:
        """Add texts under their keys, e.g. study ids."""
        for text, key in zip(texts, keys, strict=True):
            data = text.lower().encode()
            self.order.append(torch.tensor([fingerprint(f"{self.seed}/{key}")], device=self.device))
            self.sizes.append(torch.tensor([len(data)], device=self.device))
            self.letters.append(torch.tensor(list(data), dtype=torch.uint8, device=self.device))

    def compute(self) -> Tensor:
        """In [0,1]; NaN with fewer than two texts."""
        if len(self.order) == 0 or (order := dim_zero_cat(self.order)).numel() < 2:
            return torch.tensor(float("nan"))
        parts = dim_zero_cat(self.letters).cpu().split(dim_zero_cat(self.sizes).tolist())
        texts = [bytes(parts[i].tolist()).decode() for i in order.argsort()[: self.sample].tolist()]
        scores = [
            bleu_score([text], [texts[:i] + texts[i + 1 :]], n_gram=4, smooth=True) for i, text in enumerate(texts)
        ]
        return torch.stack(scores).mean()


class Lengths(Metric):
    """Words a text, of two sets of texts: what is written and what is real."""

    full_state_update = False
    written: list[Tensor]
    real: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("written", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")

    def update(self, written: Sequence[str], real: Sequence[str]) -> None:
        """Add texts of both sets."""
        for state, texts in ((self.written, written), (self.real, real)):
            state.append(torch.tensor([len(t.split()) for t in texts], dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Mean and quantiles of both, and the Wasserstein-1 distance between them, all in words."""
        out: dict[str, Tensor] = {}
        sides = {"words": dim_zero_cat(self.written), "real_words": dim_zero_cat(self.real)}
        for name, lengths in sides.items():
            out[name] = lengths.mean()
            for q in (0.1, 0.5, 0.9):
                out[f"{name}_q{round(100 * q)}"] = lengths.quantile(q)
        distance = wasserstein_distance(sides["words"].cpu().numpy(), sides["real_words"].cpu().numpy())
        return out | {"words_wasserstein": torch.tensor(distance)}
