"""A pretrained BERT as the aligner's text encoder, with its own WordPiece tokenizer but the project's words.

Mentions are mapped to words by their characters, so the words are those of `WordTokenizer` whichever encoder reads
them; only their sub-words are the model's. Each row is read between the model's [CLS] and [SEP], whose features are
dropped.
Legend: S rows (sentences or texts), t sub-words, C the model's width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from lightning_modules.networks.text_encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.tokenizer import Tokens, WordTokenizer, padded


@dataclass(frozen=True)
class TextModel:
    """What a pretrained text encoder is built from beside its weights, as plain data that travels in checkpoints.

    Attributes:
        config: its Hugging Face configuration as JSON.
        source: id or folder that it came from.
        begin, end: ids of [CLS] and [SEP].
        pad: id of [PAD].
        unknown: id of [UNK].
    """

    config: str
    source: str
    begin: int
    end: int
    pad: int
    unknown: int


class WordPieceTokenizer:
    """Texts to padded sub-word ids of a pretrained model, and to the words that `WordTokenizer` has for them."""

    def __init__(self, state: str, model: TextModel) -> None:
        self.state, self.model = state, model
        self.tokenizer = Tokenizer.from_str(state)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.words = pre_tokenizers.BertPreTokenizer()

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str], *, max_length: int) -> Tokens:
        """Encode without special tokens; what is longer than `max_length` sub-words is cut at the end.

        A word that the model's normaliser leaves nothing of is an unknown sub-word, and so is an empty text.
        """
        split = [self.words.pre_tokenize_str(text) or [("", (0, 0))] for text in texts]
        unique = sorted({word for row in split for word, _ in row})
        # Sub-words of a word depend on the word alone.
        encodings = self.tokenizer.encode_batch(unique, add_special_tokens=False)
        pieces = {word: e.ids or [self.model.unknown] for word, e in zip(unique, encodings, strict=True)}
        ids = [[i for word, _ in row for i in pieces[word]][:max_length] for row in split]
        index = [[w for w, (word, _) in enumerate(row) for _ in pieces[word]][:max_length] for row in split]
        spans = [[span for _, span in row[: kept[-1] + 1]] for row, kept in zip(split, index, strict=True)]
        return padded(texts, ids, index, spans, pad=self.model.pad)


class PretrainedTextEncoder(nn.Module):
    """A BERT from sub-words to contextual features, in place of `TextEncoder`.

    Args:
        model: what it is built from; its weights are loaded afterwards.
        max_length: longest row in sub-words.
        train: let it be trained. Otherwise it has no gradients and stays in eval mode.

    Attributes:
        width: C.

    Raises:
        ValueError: if the model has too few positions.
    """

    def __init__(self, model: TextModel, *, max_length: int, train: bool) -> None:
        super().__init__()
        self.model, self.max_length, self.learns = model, max_length, train
        config = json.loads(model.config)
        network = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config), dtype=torch.float32)
        self.network: Any = without_pooler(network)
        self.width = int(self.network.config.hidden_size)
        positions = getattr(self.network.config, "max_position_embeddings", None)
        if positions is not None and max_length + 2 > positions:
            raise ValueError(
                f"the text encoder {model.source} has {positions} positions, two of them for [CLS] and [SEP], and "
                f"network.max_length is {max_length}; set it to {positions - 2} at most"
            )
        self.requires_grad_(train)
        self.train()

    def train(self, mode: bool = True) -> "PretrainedTextEncoder":
        """Stay in eval mode unless it is trained."""
        return super().train(mode and self.learns)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 [S,t], bool [S,t], True at the beginning of each row → float [S,t,C]; rows may be empty."""
        length = mask.sum(dim=1, keepdim=True)
        framed = nn.functional.pad(ids.where(mask, self.model.pad), (1, 1), value=self.model.pad)  # S t+2
        framed[:, 0] = self.model.begin
        framed = framed.scatter(1, length + 1, self.model.end)
        seen = torch.arange(framed.shape[1], device=ids.device) < length + 2
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns):
            return self.network(input_ids=framed, attention_mask=seen.long()).last_hidden_state[:, 1:-1]


def without_pooler(network: Any) -> Any:
    """The model without the layer that makes one vector of [CLS], which has no use here and would get no gradient."""
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network


def open_tokenizer(state: str, model: TextModel | None) -> WordTokenizer | WordPieceTokenizer:
    """The tokenizer of a checkpoint: that of `model`, or the project's own."""
    return WordTokenizer(state) if model is None else WordPieceTokenizer(state, model)


def build_text(
    config: TextEncoderConfig, model: TextModel | None, *, train: bool
) -> TextEncoder | PretrainedTextEncoder:
    """The text encoder: `model`'s, or the project's own of these sizes."""
    if model is None:
        return TextEncoder(config)
    return PretrainedTextEncoder(model, max_length=config.max_length, train=train)
