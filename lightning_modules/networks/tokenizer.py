"""A sub-word tokenizer trained on the user's own reports that remembers which word each piece came from.

The alignment stage compares image patches with *words*, so sub-words must be summed back into words (AdaMatch, arXiv
2312.08078 section 3.1). The state is one JSON text: it travels inside checkpoints, so no file has to be kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

PAD, UNKNOWN, BEGIN, END, SEPARATOR = "[PAD]", "[UNK]", "[BOS]", "[EOS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, BEGIN, END, SEPARATOR)


@dataclass(frozen=True)
class Tokens:
    """B texts of at most T sub-words and W words.

    Attributes:
        ids: int64 [B,T], padded with `pad_id` at the end.
        mask: bool [B,T], True where a sub-word stands.
        word_index: int64 [B,T], the word (0..W-1) that a sub-word belongs to, -1 for padding.
        words: the words themselves, lower-cased, a list a text; words cut off by `max_length` are missing.
        spans: (start, end) of each word in the text as it was given, in characters.
    """

    ids: Tensor
    mask: Tensor
    word_index: Tensor
    words: list[list[str]]
    spans: list[list[tuple[int, int]]]

    @property
    def word_mask(self) -> Tensor:
        """Bool [B,W], True where a word stands."""
        counts = torch.tensor([len(words) for words in self.words])
        return torch.arange(max(1, int(counts.max())))[None, :] < counts[:, None]


def train_tokenizer(texts: Sequence[str], *, kind: Literal["words", "bytes"], vocabulary: int) -> str:
    """Train on `texts` and return the tokenizer as JSON text.

    Args:
        texts: reports of the training split.
        kind: "words" lower-cases and splits at white space and punctuation first (encoders); "bytes" decodes to
            exactly the text it was given (language models). Both are byte-pair encodings: unlike WordPiece's trainer,
            that of `tokenizers` gives the same sub-words in every process.
        vocabulary: upper bound of the number of sub-words, special ones included.

    Raises:
        ValueError: if there is no text to train on.
    """
    if not any(text.strip() for text in texts):
        raise ValueError(
            f"the tokenizer needs report texts to train on and was given {len(texts)} empty ones; choose a data set "
            "with reports, or give label-only data prompts (--data.init_args.prompts)"
        )
    if kind == "words":
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False, min_frequency=2
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


class WordTokenizer:
    """Texts to padded sub-word ids and back, from the JSON that `train_tokenizer` returned."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.tokenizer = Tokenizer.from_str(state)
        self.pad_id, self.unknown_id, self.begin_id, self.end_id, self.separator_id = (
            int(self.tokenizer.token_to_id(token) or 0) for token in SPECIAL
        )

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str], *, max_length: int) -> Tokens:
        """Encode without adding special tokens; what is longer than `max_length` sub-words is cut at the end.

        A text that spells one of `SPECIAL` is read as that token, which `decode` leaves out.

        An empty text becomes one unknown sub-word that belongs to one empty word, so that no row is without a word.
        """
        ids, index, spans = [], [], []
        for encoding in self.tokenizer.encode_batch(list(texts)):
            row_ids = encoding.ids[:max_length] or [self.unknown_id]
            row_index, row_spans = [0] * len(row_ids), [(0, 0)]
            if encoding.ids:
                row_index = [w if w is not None else 0 for w in encoding.word_ids[:max_length]]
                row_spans = [(0, 0)] * (max(row_index) + 1)
                for word, (start, end) in zip(row_index, encoding.offsets[:max_length], strict=True):
                    first, last = row_spans[word]
                    row_spans[word] = (start if last == 0 else first, max(last, end))
            ids.append(row_ids)
            index.append(row_index)
            spans.append(row_spans)
        return padded(texts, ids, index, spans, pad=self.pad_id)

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of int64 [B,T]; special tokens are left out."""
        return self.tokenizer.decode_batch(ids.tolist(), skip_special_tokens=True)


def padded(
    texts: Sequence[str],
    ids: Sequence[list[int]],
    index: Sequence[list[int]],
    spans: list[list[tuple[int, int]]],
    *,
    pad: int,
) -> Tokens:
    """B texts' sub-words, the words they belong to and these words' places in the text, as `Tokens`."""
    length = max(len(row) for row in ids)
    return Tokens(
        ids=torch.tensor([row + [pad] * (length - len(row)) for row in ids]),
        mask=torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in ids]),
        word_index=torch.tensor([row + [-1] * (length - len(row)) for row in index]),
        words=[[text[a:b].lower() for a, b in row] for text, row in zip(texts, spans, strict=True)],
        spans=spans,
    )


def pool_words(features: Tensor, word_index: Tensor, *, words: int) -> Tensor:
    """Sum the sub-words of each word: float [B,T,C] and int64 [B,T] (-1 = padding) → float [B,words,C]."""
    batch, _, width = features.shape
    pooled = features.new_zeros(batch, words + 1, width)
    # Padding goes to an extra last slot, which is cut off.
    target = torch.where(word_index < 0, words, word_index)
    return pooled.scatter_add(1, target[..., None].expand(-1, -1, width), features)[:, :words]
