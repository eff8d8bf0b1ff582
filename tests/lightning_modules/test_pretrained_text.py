"""A pretrained BERT as text encoder: the project's words, its own sub-words, each sentence for itself."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from lightning_modules.encoders import Encoders, PretrainedOptions, open_encoders
from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork, read_words
from lightning_modules.networks.clue_retriever import ClueRetriever
from lightning_modules.networks.key_patches import KeyPatchConfig
from lightning_modules.networks.pretrained_text import PretrainedTextEncoder, WordPieceTokenizer, open_tokenizer
from lightning_modules.networks.tokenizer import WordTokenizer, train_tokenizer
from tests.lightning_modules import tiny_encoders

CONFIG = AlignerConfig(resolution=16, patch=4, channels=(8, 16), width=16, dim=8, dropout=0.0, max_length=30)
REPORTS = ["The heart is large. No left pleural effusions.", "Lungs are clear."]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoders.bert(tmp_path_factory.mktemp("bert"))


def opened(folder: Path, *, train: bool = False) -> tuple[Encoders, AlignmentNetwork, WordPieceTokenizer]:
    options = PretrainedOptions(text_model=str(folder), train_text=train)
    encoders = open_encoders(options, resolution=16)
    assert encoders.tokenizer is not None
    tokenizer = open_tokenizer(encoders.tokenizer, encoders.text)
    assert isinstance(tokenizer, WordPieceTokenizer)
    torch.manual_seed(1)
    return encoders, encoders.build(CONFIG, vocabulary=len(tokenizer), options=options).eval(), tokenizer


TEXTS = [
    *REPORTS,
    "",
    "  Left-sided\n\teffusion (large),3.5 cm; Kerley's B-lines!  ",
    "Cardiothoracic ratio ≥0.5 — naïve Überblick, 肺炎.",
    "[SEP] and [PAD] are words here.",
]


def test_words_and_spans_are_those_of_the_word_tokenizer(folder: Path) -> None:
    own = WordTokenizer(train_tokenizer(TEXTS * 3, kind="words", vocabulary=300))
    tokens, expected = (tokenizer(TEXTS[:5], max_length=200) for tokenizer in (opened(folder)[2], own))
    assert tokens.words == expected.words
    assert tokens.spans == expected.spans
    assert torch.equal(tokens.word_mask, expected.word_mask)
    # A text that spells a special token is words to a pretrained model.
    assert opened(folder)[2](TEXTS[5:], max_length=200).words[0][:4] == ["[", "sep", "]", "and"]


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[WordPieceTokenizer, WordTokenizer]:
    own = WordTokenizer(train_tokenizer(["abc.,-:()éü7肺µ"] * 3, kind="words", vocabulary=300))
    return opened(folder)[2], own


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="abc .,-:()éÜ7\n\t肺µ", max_size=30))
def test_words_are_the_same_whatever_is_written(both: tuple[WordPieceTokenizer, WordTokenizer], text: str) -> None:
    tokens, expected = (tokenizer([text], max_length=200) for tokenizer in both)
    assert (tokens.words, tokens.spans) == (expected.words, expected.spans)


def test_subwords_are_the_model_s_and_belong_to_their_word(folder: Path) -> None:
    tokens = opened(folder)[2](["Left-sided effusions are xylophones.", "Pneumothorax"], max_length=20)
    pieces = [[tiny_encoders.WORDS[i] for i in row] for row in tokens.ids.tolist()]
    assert pieces[0] == ["left", "-", "sided", "effusion", "##s", "a", "##re", "[UNK]", "."]
    assert tokens.word_index[0].tolist() == [0, 1, 2, 3, 3, 4, 4, 5, 6]
    assert pieces[1][:3] == ["pneumo", "##thora", "##x"]
    assert tokens.word_index[1].tolist() == [0, 0, 0] + [-1] * 6
    assert tokens.mask[1].sum() == 3
    reference = AutoTokenizer.from_pretrained(folder)
    for text in REPORTS:
        ids = opened(folder)[2]([text], max_length=50).ids[0].tolist()
        assert [2, *ids, 3] == reference(text)["input_ids"]


def test_long_texts_are_cut_and_empty_ones_are_one_unknown_word(folder: Path) -> None:
    tokens = opened(folder)[2](["Effusions are large", ""], max_length=3)
    assert tokens.words == [["effusions", "are"], [""]]
    assert tokens.spans == [[(0, 9), (10, 13)], [(0, 0)]]
    assert tokens.ids.tolist() == [[13, 16, 23], [1, 0, 0]]
    # A byte that the model's normaliser drops is a word that it does not know.
    assert opened(folder)[2](["\ufffd heart"], max_length=5).ids.tolist() == [[1, 6]]


def test_a_word_s_vector_is_the_sum_of_its_subwords_in_its_own_sentence(folder: Path) -> None:
    _, network, tokenizer = opened(folder)
    model, reference = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        got = network.words(tokenizer(REPORTS, max_length=30))[0]
        for row, first, sentence, words in (
            (0, 0, "The heart is large.", [[0], [1], [2], [3], [4]]),
            (0, 5, "No left pleural effusions.", [[0], [1], [2], [3, 4], [5]]),
            (1, 0, "Lungs are clear.", [[0], [1, 2], [3], [4]]),
        ):
            hidden = model(**reference(sentence, return_tensors="pt")).last_hidden_state[0, 1:-1]  # t C
            for n, pieces in enumerate(words):
                both = torch.cat([hidden[pieces].sum(dim=0), hidden.mean(dim=0)])
                expected = functional.normalize(network.text_out(both), dim=-1)
                torch.testing.assert_close(got[row, first + n], expected, atol=1e-5, rtol=1e-5)


def test_a_word_sees_its_own_sentence_alone(folder: Path) -> None:
    _, network, tokenizer = opened(folder)
    texts = ["Heart large. Lungs clear.", "Heart large. No effusion is left.", "Heart clear. Lungs clear."]
    with torch.no_grad():
        words = [network.words(tokenizer([text], max_length=30))[0][0] for text in texts]
    torch.testing.assert_close(words[0][:3], words[1][:3])
    assert not torch.allclose(words[0][0], words[2][0], atol=1e-3)
    torch.testing.assert_close(words[0][3:], words[2][3:])


def test_rows_of_any_length_are_framed(folder: Path) -> None:
    text = opened(folder)[1].text
    assert isinstance(text, PretrainedTextEncoder)
    ids, mask = torch.tensor([[6, 7, 8], [6, 7, 0], [0, 0, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]]).bool()
    with torch.no_grad():
        read = text(ids, mask)
        alone = text(ids[1:2, :2], mask[1:2, :2])
        whole = text.network(input_ids=torch.tensor([[2, 6, 7, 8, 3]])).last_hidden_state
    assert read.shape == (3, 3, 16)
    torch.testing.assert_close(read[1:2, :2], alone)
    torch.testing.assert_close(read[:1], whole[:, 1:-1])
    assert read.isfinite().all()


def test_a_frozen_text_encoder_stays_frozen_and_a_trained_one_is_trained_whole(folder: Path) -> None:
    tokens = opened(folder)[2](REPORTS, max_length=30)
    for train in (False, True):
        network = opened(folder, train=train)[1].train()
        assert any(module.training for module in network.text.modules()) == train
        network.words(tokens)[0].sum().backward()
        assert {p.grad is not None for p in network.text.parameters()} == {train}
        assert network.text_out.weight.grad is not None


def test_the_retriever_reads_as_the_aligner_does(folder: Path) -> None:
    encoders, network, tokenizer = opened(folder)
    config = KeyPatchConfig(1, 1, 8, ("pleural effusion",), clue_tokens=2)
    plain = Encoders.from_plain(json.loads(json.dumps(encoders.plain())))
    retriever = ClueRetriever(CONFIG, tokenizer.state, config, plain.text)
    tokens = tokenizer(["Left pleural effusion."], max_length=30)
    words = network.words(tokens)[0]
    arrays = {"features": functional.normalize(words[0, 1:3].mean(dim=0), dim=0)[None].detach()}
    arrays |= {"codes": torch.tensor([[4]]), "positions": torch.tensor([[9]])}
    arrays |= {"word": torch.tensor([0]), "side": torch.tensor([-1]), "patient": torch.tensor([0])}
    arrays |= {"centres": arrays["features"], "pathology": torch.tensor([True])}
    retriever.load_stages(network.state_dict(), arrays)
    torch.testing.assert_close(
        functional.normalize(retriever.text_out(read_words(retriever.text, tokens)), dim=-1), words
    )
    assert retriever.clues(["Left pleural effusion.", "No pleural effusion."]).tolist() == [
        [[4, 9], [-1, -1]],
        [[-1, -1], [-1, -1]],
    ]
    (found,) = retriever.fetch(["Left pleural effusion."])[0]
    assert found.score == pytest.approx(1.0, abs=1e-5)


def test_too_few_positions_are_named(tmp_path: Path) -> None:
    folder = tiny_encoders.bert(tmp_path, positions=31)
    with pytest.raises(ValueError, match=r"has 31 positions, two of them for .* network\.max_length is 30; .* 29 at"):
        opened(folder)


def test_a_cased_model_reads_capitals(tmp_path: Path) -> None:
    tokens = opened(tiny_encoders.bert(tmp_path, cased=True))[2](["Heart heart"], max_length=9)
    assert tokens.ids.tolist() == [[1, 6]]
    assert tokens.words == [["heart", "heart"]]
