"""The prompter's language model: a small GPT-2 from scratch or any Hugging Face causal LM, and its codec.

Legend: B texts, T tokens, V sub-words.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from lightning_modules.networks.tokenizer import BEGIN, END, PAD, SEPARATOR, train_tokenizer

IGNORED = -100  # target of tokens that carry no loss


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes of the language model that is trained from scratch.

    Attributes:
        sub_words: upper bound of the tokenizer's vocabulary.
        max_length: longest prompt + report in sub-words; longer reports are cut at the end.
        width, depth, heads: of the transformer.
        dropout: on each residual branch and the embeddings.
    """

    sub_words: int = 2000
    max_length: int = 320
    width: int = 192
    depth: int = 4
    heads: int = 6
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"the language model's width {self.width} is not divisible by its {self.heads} heads")


@dataclass(frozen=True)
class Codec:
    """Texts to token ids and back; all of it is plain data that travels inside checkpoints.

    Attributes:
        tokenizer: the tokenizer's JSON.
        begin, separator: ids that stand before the keywords, and between them and the report.
        end: the id that ends a report.
        pad: the id that fills rows up.
        ends: further ids that end what is written, e.g. of a turn of a chat.
        chat: the Jinja template that turns messages into a prompt, None where the model has none.
    """

    tokenizer: str
    begin: tuple[int, ...]
    separator: tuple[int, ...]
    end: int
    pad: int
    ends: tuple[int, ...] = ()
    chat: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tokenizer", Tokenizer.from_str(self.tokenizer))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())  # type: ignore[attr-defined]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids without special tokens."""
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts without special tokens and outer white space, lines kept."""
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        texts = tokenizer.decode_batch([list(row) for row in ids], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def prompts(self, keywords: Sequence[str]) -> list[list[int]]:
        """Begin, keywords, separator."""
        return [[*self.begin, *ids, *self.separator] for ids in self.encode(keywords)]

    def chat_prompts(self, chats: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
        """Messages of {"role", "content"} as the model's chat template writes them, up to where the answer begins.

        Without a template the contents follow one another, an empty line apart.
        """
        if self.chat is None:
            texts = ["\n\n".join(message["content"] for message in chat) + "\n" for chat in chats]
            return [[*self.begin, *ids] for ids in self.encode(texts)]
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=tokenizer.id_to_token(self.begin[0]) if self.begin else None,
            eos_token=tokenizer.id_to_token(self.end),
        )
        texts = [
            str(
                fast.apply_chat_template(
                    list(chat), chat_template=self.chat, tokenize=False, add_generation_prompt=True
                )
            )
            for chat in chats
        ]
        return self.encode(texts)

    def containing(self, texts: Sequence[str]) -> list[int]:
        """Ids of the sub-words that contain one of these texts."""
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        return sorted(i for word, i in tokenizer.get_vocab().items() if any(text in word for text in texts))

    def ending(self, texts: Sequence[str]) -> list[int]:
        """Ids of the sub-words that end with one of these texts."""
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        return sorted(i for word, i in tokenizer.get_vocab().items() if word.endswith(tuple(texts)))

    def training_batch(
        self, prompts: Sequence[Sequence[int]], reports: Sequence[str], *, max_length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Padded ids int64 [B,T], mask bool [B,T] of tokens, targets int64 [B,T], `IGNORED` except in the report."""
        rows, targets = [], []
        for prompt, report in zip(prompts, self.encode(reports), strict=True):
            answer = [*report, self.end]
            rows.append([*prompt, *answer][:max_length])
            targets.append([*([IGNORED] * len(prompt)), *answer][:max_length])
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])
        mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
        return ids, mask, torch.tensor([row + [IGNORED] * (length - len(row)) for row in targets])


def train_codec(texts: Sequence[str], *, sub_words: int) -> Codec:
    """A byte-level BPE codec trained on reports and prompts."""
    state = train_tokenizer(texts, kind="bytes", vocabulary=sub_words)
    known = Tokenizer.from_str(state).get_vocab()
    return Codec(state, (known[BEGIN],), (known[SEPARATOR],), known[END], known[PAD])


def build_small(config: LanguageModelConfig, codec: Codec) -> nn.Module:
    """A GPT-2 of these sizes with random weights."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=Tokenizer.from_str(codec.tokenizer).get_vocab_size(),
            n_positions=config.max_length,
            n_embd=config.width,
            n_layer=config.depth,
            n_head=config.heads,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=0.0,
            bos_token_id=codec.begin[0],
            eos_token_id=codec.end,
            pad_token_id=codec.pad,
        )
    )


def load_pretrained(name: str) -> tuple[nn.Module, Codec]:
    """A Hugging Face causal language model and its codec, by id or by folder.

    Raises:
        FileNotFoundError: if it is neither on this machine nor to be fetched, saying what to fetch.
        ValueError: if its tokenizer has no end-of-text token.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"language_model {name!r} could not be opened: give a folder with config.json, model.safetensors and "
            "tokenizer.json, or the id of a causal language model on huggingface.co that was fetched before with "
            f"`hf download {name}`; or leave language_model out to train the small one ({error})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"language_model {name!r}: its tokenizer has no end-of-text token, so reports could not end")
    state = tokenizer.backend_tokenizer.to_str()
    separator = Tokenizer.from_str(state).encode("\nReport: ", add_special_tokens=False).ids
    begin = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    named = model.generation_config.eos_token_id
    ends = tuple(named) if isinstance(named, list) else () if named is None else (named,)
    chat = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
    # from_pretrained leaves the model in eval mode; it is opened here to be trained.
    return model.train(), Codec(state, begin, tuple(separator), tokenizer.eos_token_id, pad, ends, chat)


def architecture(model: Any) -> str:
    """The model's configuration as JSON, enough for `rebuild`."""
    return json.dumps({**model.config.to_dict(), "model_type": model.config.model_type}, sort_keys=True)


def rebuild(architecture: str) -> nn.Module:
    """A model of that configuration with random weights, to load a checkpoint's into."""
    data = json.loads(architecture)
    for key in ("dtype", "torch_dtype", "_name_or_path", "transformers_version"):
        data.pop(key, None)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(data.pop("model_type"), **data), dtype=torch.float32)
