"""Tokenizer, word pooling, attention masks and the text encoder."""

import hashlib
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_modules.networks.text_encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.tokenizer import SPECIAL, WordTokenizer, pool_words, train_tokenizer
from lightning_modules.networks.transformer import Attention, Block

REPORTS = ["No pleural effusion.", "The heart is enlarged.", "Small left pleural effusion, no pneumothorax."] * 4


def test_sub_words_point_at_their_word_and_its_place_in_the_text() -> None:
    tokenizer = WordTokenizer(train_tokenizer(REPORTS, kind="words", vocabulary=60))
    text = "Small LEFT effusion."
    tokens = tokenizer([text, ""], max_length=40)
    assert tokens.words[0] == ["small", "left", "effusion", "."]
    assert [text[a:b] for a, b in tokens.spans[0]] == ["Small", "LEFT", "effusion", "."]
    index = tokens.word_index[0][tokens.mask[0]]
    assert index.tolist() == sorted(index.tolist())
    assert index.unique().tolist() == [0, 1, 2, 3]
    assert tokens.words[1] == [""]
    assert tokens.word_mask.tolist() == [[True] * 4, [True, False, False, False]]


def test_long_texts_are_cut_and_padding_is_marked() -> None:
    tokenizer = WordTokenizer(train_tokenizer(REPORTS, kind="words", vocabulary=200))
    tokens = tokenizer(["pleural effusion left small", "heart"], max_length=3)
    assert tokens.ids.shape == (2, 3)
    assert tokens.ids[1, 1:].tolist() == [tokenizer.pad_id] * 2
    assert tokens.word_index[1, 1:].tolist() == [-1, -1]


def test_a_tokenizer_without_texts_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"given 2 empty ones.*prompts"):
        train_tokenizer(["", " "], kind="bytes", vocabulary=300)


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_byte_level_bpe_gives_back_any_text(text: str) -> None:
    assume(not any(name in text for name in SPECIAL))  # a text that spells "[EOS]" ends there
    tokenizer = WordTokenizer(BPE)
    tokens = tokenizer([text], max_length=1000)
    assert tokenizer.decode(tokens.ids) == [text]


BPE = train_tokenizer(REPORTS, kind="bytes", vocabulary=300)


def test_pooling_sums_the_pieces_of_each_word() -> None:
    features = torch.tensor([[[1.0], [2.0], [4.0], [8.0]], [[1.0], [1.0], [1.0], [1.0]]])
    index = torch.tensor([[0, 1, 1, -1], [0, 0, 0, 2]])
    assert pool_words(features, index, words=3)[..., 0].tolist() == [[1, 6, 0], [3, 0, 1]]


def test_attention_ignores_masked_context_and_survives_rows_without_any() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    x, context = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, False, True], [False] * 5])
    out = attention(x, context, mask)
    expected = attention(x[:1], context[:1, [0, 1, 4]])
    assert torch.allclose(out[0], expected[0], atol=1e-6)
    assert out[1].abs().max() == 0


def test_cross_attention_needs_a_context() -> None:
    with pytest.raises(ValueError, match="needs a context"):
        Block(8, 2, cross=True)(torch.zeros(1, 2, 8))


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(ValueError, match="width 10 must be a multiple of heads 4"):
        Attention(10, 4)


def test_padding_does_not_change_the_features_of_a_text() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TextEncoderConfig(vocabulary=20, width=16, heads=2)).eval()
    ids = torch.randint(5, 20, (1, 6))
    alone = encoder(ids, torch.ones_like(ids, dtype=torch.bool))
    padded = encoder(torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1), torch.tensor([[True] * 6 + [False] * 3]))
    assert torch.allclose(alone, padded[:, :6], atol=1e-5)


def test_a_text_encoder_refuses_no_vocabulary_and_too_long_texts() -> None:
    with pytest.raises(ValueError, match="vocabulary is 0"):
        TextEncoder(TextEncoderConfig())
    encoder = TextEncoder(TextEncoderConfig(vocabulary=9, width=8, heads=2, max_length=4))
    with pytest.raises(ValueError, match="5 sub-words is longer than max_length 4"):
        encoder(torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 5, dtype=torch.bool))


def test_attention_on_cpu_is_the_fused_one() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    x, context = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, False, True], [True] * 5])
    q = attention.query(x).view(2, 3, 2, 4).transpose(1, 2)
    k, v = (part.view(2, 5, 2, 4).transpose(1, 2) for part in attention.key_value(context).chunk(2, dim=-1))
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    expected = attention.out(fused.transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x, context, mask), expected, atol=1e-6)


def test_every_process_trains_the_same_tokenizer() -> None:
    """Ranks and resumed runs must agree, whatever the hash seed of the process."""
    code = (
        "import hashlib; from lightning_modules.networks.tokenizer import train_tokenizer; "
        "from tests.lightning_modules.test_text import REPORTS; "
        "state = train_tokenizer(REPORTS, kind='words', vocabulary=60); "
        "print(hashlib.sha256(state.encode()).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    here = hashlib.sha256(train_tokenizer(REPORTS, kind="words", vocabulary=60).encode()).hexdigest()
    assert runs == {here + "\n"}
