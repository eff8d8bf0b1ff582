"""An interpolated n-gram model with Witten-Bell smoothing: the baseline that a language model must beat.

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h))

where c counts, t(h) is the number of different tokens seen after h, and h' is h without its first token (Bell, Witten
and Cleary 1990; Chen and Goodman 1998, section 2.5); below the unigrams stands the uniform distribution over the
vocabulary, so every token has a probability. An unseen history leaves p(w | h').
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

START = -1  # stands before each text; no token has this id


class NgramModel:
    """See the module's docstring.

    Args:
        texts: token ids of each training text, with its end token.
        order: longest n-gram.
        vocabulary: number of tokens that there are.
    """

    def __init__(self, texts: Sequence[Sequence[int]], *, order: int, vocabulary: int) -> None:
        if order < 1 or vocabulary < 1:
            raise ValueError(f"order {order} and vocabulary {vocabulary} must be at least 1")
        self.order, self.vocabulary = order, vocabulary
        self.after: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for text in texts:
            row = [START] * (order - 1) + list(text)
            for i in range(order - 1, len(row)):
                for length in range(order):
                    self.after[tuple(row[i - length : i])][row[i]] += 1
        self.totals = {history: sum(counts.values()) for history, counts in self.after.items()}

    def probability(self, token: int, history: Sequence[int]) -> float:
        """P(token | the last order-1 tokens of history)."""
        value = 1 / self.vocabulary
        known = tuple(history)[len(history) - self.order + 1 :] if self.order > 1 else ()
        for length in range(len(known) + 1):
            counts = self.after.get(known[len(known) - length :])
            if counts is not None:
                value = (counts[token] + len(counts) * value) / (
                    self.totals[known[len(known) - length :]] + len(counts)
                )
        return value

    def nll(self, text: Sequence[int]) -> float:
        """The negative log-likelihood of a text with its end token, in nats."""
        row = [START] * (self.order - 1) + list(text)
        return -sum(math.log(self.probability(row[i], row[:i])) for i in range(self.order - 1, len(row)))
