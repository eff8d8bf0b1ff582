"""A small causal language model in a folder, with a chat template, as a Hugging Face id would be on this machine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lightning_modules.networks.language_model import Codec, train_codec

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build(folder: Path, texts: Sequence[str], *, chat: bool = False, positions: int = 160) -> Codec:
    """Save a model with random weights; its codec has the ids that the folder's tokenizer has."""
    torch.manual_seed(0)
    codec = train_codec(texts, sub_words=400)
    network = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(codec), n_positions=positions, n_embd=64, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
        )
    )
    network.save_pretrained(folder)
    file = folder / "whole.json"
    file.write_text(codec.tokenizer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), bos_token="[BOS]", eos_token="[EOS]")
    tokenizer.chat_template = TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    return codec


def teach(folder: Path, chats: Sequence[Sequence[dict[str, str]]], answers: Sequence[str], *, steps: int = 120) -> None:
    """Train the model of `build` to give these answers, so that it can be asked as an instruct model is."""
    network = GPT2LMHeadModel.from_pretrained(folder)
    state = PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer.to_str()
    plain = train_codec([*answers], sub_words=300)
    codec = Codec(state, (2,), (4,), 3, plain.pad, chat=TEMPLATE)
    ids, mask, targets = codec.training_batch(codec.chat_prompts(chats), answers, max_length=160)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    network.train()
    for _ in range(steps):
        network(input_ids=ids, attention_mask=mask.long(), labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval().save_pretrained(folder)
