"""The prompter's language model: a small GPT-2 from scratch or any Hugging Face causal LM, its codec, and sampling.

Sampling is our own loop around the key-value cache of `transformers`: each text has its own stream of random numbers,
so what is written for a study depends neither on the batch nor on the rank it is in.

Legend: B texts, T tokens, V sub-words.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, GPT2Config, GPT2LMHeadModel

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
        end, pad: single ids.
    """

    tokenizer: str
    begin: tuple[int, ...]
    separator: tuple[int, ...]
    end: int
    pad: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tokenizer", Tokenizer.from_str(self.tokenizer))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids without special tokens."""
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts without special tokens and outer white space."""
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        texts = tokenizer.decode_batch([list(row) for row in ids], skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def prompts(self, keywords: Sequence[str]) -> list[list[int]]:
        """Begin, keywords, separator."""
        return [[*self.begin, *ids, *self.separator] for ids in self.encode(keywords)]

    def training_batch(
        self, keywords: Sequence[str], reports: Sequence[str], *, max_length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Padded ids int64 [B,T], mask bool [B,T] of tokens, targets int64 [B,T], `IGNORED` except in the report."""
        rows, targets = [], []
        for prompt, report in zip(self.prompts(keywords), self.encode(reports), strict=True):
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
    # from_pretrained leaves the model in eval mode; it is opened here to be trained.
    return model.train(), Codec(state, begin, tuple(separator), tokenizer.eos_token_id, pad)


def architecture(model: Any) -> str:
    """The model's configuration as JSON, enough for `rebuild`."""
    return json.dumps({**model.config.to_dict(), "model_type": model.config.model_type}, sort_keys=True)


def rebuild(architecture: str) -> nn.Module:
    """A model of that configuration with random weights, to load a checkpoint's into."""
    data = json.loads(architecture)
    for key in ("dtype", "torch_dtype", "_name_or_path", "transformers_version"):
        data.pop(key, None)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(data.pop("model_type"), **data), dtype=torch.float32)


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    *,
    codec: Codec,
    temperature: float,
    top_p: float,
    max_length: int,
) -> list[list[int]]:
    """Continue prompts by nucleus sampling (Holtzman et al., arXiv 1904.09751) until each ends.

    Args:
        model: causal LM with a key-value cache.
        prompts: B lists of ids.
        uniforms: float64 [B,N] in [0,1), one number a new token: row b alone decides text b. N bounds the length.
        codec: gives `pad` and `end`.
        temperature: divides the logits; 0 takes the most probable token.
        top_p: probability mass that is sampled from, in (0,1].
        max_length: positions that the model has; a text that reaches it goes on at the last, and is to be cut there.

    Returns:
        B lists of new ids, without the end token.
    """
    device = next(model.parameters()).device
    longest = max(len(row) for row in prompts)
    ids = torch.tensor([[codec.pad] * (longest - len(row)) + list(row) for row in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=device)
    position = (mask.cumsum(dim=1) - 1).clamp(min=0)
    uniforms = uniforms.to(device=device, dtype=torch.float32)
    cache = DynamicCache()
    written: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)  # texts that have not ended; the others leave the batch
    for step in range(uniforms.shape[1]):
        out = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
        new = _draw(out.logits[:, -1].float(), uniforms[rows, step], temperature=temperature, top_p=top_p)
        going = new != codec.end
        for row, token, goes in zip(rows.tolist(), new.tolist(), going.tolist(), strict=True):
            if goes:
                written[row].append(token)
        if not going.any():
            break
        if not going.all():
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, new, mask, position = rows[keep], new[keep], mask[keep], position[keep]
        ids = new[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = (position[:, -1:] + 1).clamp(max=max_length - 1)
    return written


def _draw(logits: Tensor, uniform: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """One token a row by inversion of the nucleus' cumulative distribution: logits [B,V], uniform [B] → int64 [B]."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    ordered, index = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    cumulative = ordered.cumsum(dim=-1)
    # A token belongs to the nucleus if the mass before it is below top_p, so the first always does.
    kept = torch.where(cumulative - ordered < top_p, ordered, 0.0).cumsum(dim=-1)
    place = (kept <= uniform[:, None] * kept[:, -1:]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
    return index.gather(1, place[:, None])[:, 0]
