"""The codec, cached sampling, and packing: the same texts and the same loss as one by one."""

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_modules.networks.generation import generate, log_likelihoods
from lightning_modules.networks.language_model import (
    IGNORED,
    Codec,
    LanguageModelConfig,
    build_small,
    train_codec,
)
from lightning_modules.networks.packing import can_pack, pack

REPORTS = [
    "Small left pleural effusion. The heart is normal.",
    "Large right pneumothorax. No pleural effusion.",
    "Mild cardiomegaly. The lungs are clear.",
    "No acute disease.",
]
SMALL = LanguageModelConfig(sub_words=400, max_length=80, width=64, depth=2, heads=2)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def sampled(prompts: list[list[int]], temperature: float | torch.Tensor, **kwargs: object) -> list[list[int]]:
    torch.manual_seed(0)
    codec = train_codec(REPORTS, sub_words=300)
    model = build_small(SMALL, codec).eval()
    draws = torch.rand(len(prompts), 12, dtype=torch.float64)
    found = generate(model, prompts, draws, codec=codec, temperature=temperature, top_p=1.0, max_length=80, **kwargs)
    return [one.ids for one in found]


def test_cached_generation_is_the_models_own_greedy_continuation() -> None:
    torch.manual_seed(0)
    codec = train_codec(REPORTS, sub_words=300)
    model = build_small(SMALL, codec).eval()
    prompts = codec.prompts(["heart", "small left pleural effusion ; lung"])  # of different lengths: one is padded
    got = generate(
        model, prompts, torch.zeros(2, 12, dtype=torch.float64), codec=codec, temperature=0, top_p=1.0, max_length=80
    )
    for prompt, new in zip(prompts, got, strict=True):
        ids = list(prompt)
        for _ in range(12):  # recomputed from the start each time, without cache or padding
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == codec.end:
                break
            ids.append(token)
        assert new.ids == ids[len(prompt) :]


def test_each_text_has_its_own_temperature() -> None:
    prompts = [[2, 20, 4], [2, 20, 4]]
    cold, warm = sampled(prompts, torch.tensor([0.0, 1.0]))
    assert cold == sampled(prompts, 0.0)[0]
    assert warm == sampled(prompts, 1.0)[1]
    assert cold != warm


def test_banned_ids_and_the_ends_of_a_turn() -> None:
    first = sampled([[2, 20, 4]], 1.0)[0]
    assert first[0] not in sampled([[2, 20, 4]], 1.0, banned=[first[0]])[0]
    codec = train_codec(REPORTS, sub_words=300)
    turn = Codec(codec.tokenizer, codec.begin, codec.separator, codec.end, codec.pad, ends=(first[2],))
    torch.manual_seed(0)
    model = build_small(SMALL, codec).eval()
    draws = torch.rand(1, 12, dtype=torch.float64)
    got = generate(model, [[2, 20, 4]], draws, codec=turn, temperature=1.0, top_p=1.0, max_length=80)
    assert [(one.ids, one.ended) for one in got] == [(first[:2], True)]
    paused = generate(
        model, [[2, 20, 4]], draws, codec=codec, temperature=1.0, top_p=1.0, max_length=80, stops=[first[2]]
    )
    assert [(one.ids, one.ended) for one in paused] == [(first[:3], False)]


def test_texts_that_begin_alike_are_read_once_and_written_as_if_alone() -> None:
    torch.manual_seed(0)
    codec = train_codec(REPORTS, sub_words=300)
    model = build_small(SMALL, codec).eval()
    prompts = codec.prompts(["heart", "lung ; small left pleural effusion", "heart", "heart"])
    draws = torch.rand(4, 12, dtype=torch.float64)

    def written(rows: list[int]) -> list[tuple[list[int], bool]]:
        found = generate(
            model, [prompts[i] for i in rows], draws[rows], codec=codec, temperature=1.0, top_p=1.0, max_length=80
        )
        return [(one.ids, one.ended) for one in found]

    together = written([0, 1, 2, 3])
    assert together == [written([i])[0] for i in range(4)]
    assert len({tuple(ids) for ids, _ in together}) == 4


def test_log_likelihoods_are_those_of_the_whole_text_read_at_once() -> None:
    torch.manual_seed(0)
    codec = train_codec(REPORTS, sub_words=300)
    model = build_small(SMALL, codec).eval()
    context, continuations = codec.prompts(["heart"])[0], codec.encode(REPORTS[:3])
    got = log_likelihoods(model, context, continuations, pad=codec.pad)
    for row, value in zip(continuations, got, strict=True):
        logits = model(input_ids=torch.tensor([[*context, *row]])).logits[0].detach().log_softmax(dim=-1)
        assert value == pytest.approx(
            sum(float(logits[len(context) - 1 + i, token]) for i, token in enumerate(row)), abs=1e-3
        )
    draws = torch.rand(1, 12, dtype=torch.float64)
    one = generate(model, [context], draws, codec=codec, temperature=0.5, top_p=0.9, max_length=80, banned=[codec.end])[
        0
    ]
    assert one.log_likelihood == pytest.approx(log_likelihoods(model, context, [one.ids], pad=codec.pad)[0], abs=1e-3)


def test_loss_counts_the_report_and_its_end_only() -> None:
    codec = train_codec(REPORTS, sub_words=300)
    prompts = codec.prompts(["heart", "heart ; lung"])
    ids, mask, targets = codec.training_batch(prompts, ["Clear.", "Clear."], max_length=80)
    answer = [*codec.encode(["Clear."])[0], codec.end]
    for row in range(2):
        assert targets[row][targets[row] != IGNORED].tolist() == answer
        assert ids[row][targets[row] != IGNORED].tolist() == answer
    assert mask.sum(dim=1).tolist() == [len(p) + len(answer) for p in prompts]
    assert codec.decode([answer]) == ["Clear."]


def test_sub_words_that_contain_a_text_or_end_with_it() -> None:
    codec = train_codec(["the XXXX is XXXX"] * 5, sub_words=300)
    words = codec.containing(["XX"])
    assert words
    assert all("XX" in codec.decode([[i]])[0] for i in words)
    assert codec.containing(["QQQQ"]) == []
    assert {codec.decode([[i]])[0] for i in codec.ending(["is"])} == {"is"}


def test_a_chat_template_writes_the_prompt() -> None:
    codec = train_codec(REPORTS, sub_words=300)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "heart"}]
    templated = Codec(codec.tokenizer, codec.begin, codec.separator, codec.end, codec.pad, chat=TEMPLATE)
    # "[BOS]" of the template becomes the one id that it names.
    expected = [*codec.begin, *codec.encode(["<system>Be brief.</s><user>heart</s><assistant>"])[0]]
    assert templated.chat_prompts([chat]) == [expected]
    assert codec.chat_prompts([chat]) == [[*codec.begin, *codec.encode(["Be brief.\n\nheart\n"])[0]]]


def test_rows_are_filled_first_fit_and_positions_begin_anew() -> None:
    packed = pack([[1, 2], [1], [1]], [[3, 4], [5], [6, 7]], max_length=80, stretch=1)  # of 4, 2 and 3 tokens
    assert packed.ids.tolist() == [[1, 2, 3, 4], [1, 6, 7, 1], [1, 5, 1, 1]]
    assert packed.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 1]]
    ignored = IGNORED
    assert packed.targets.tolist() == [[ignored, ignored, 3, 4], [ignored, 6, 7, ignored], [ignored, 5, *[ignored] * 2]]
    wide = pack([[1, 2], [1], [1]], [[3, 4], [5], [6, 7]], max_length=80, stretch=3)
    assert wide.ids.tolist() == [[1, 2, 3, 4, 1, 6, 7, 1, 5, 1, 1, 1]]
    assert wide.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1, 2]]
    assert pack([[1, 2]], [[3, 4]], max_length=3, stretch=1).ids.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_packed_texts_have_the_loss_and_gradients_of_texts_alone(kind: str) -> None:
    torch.manual_seed(0)
    codec = train_codec(REPORTS, sub_words=300)
    if kind == "gpt2":
        model = build_small(SMALL, codec)
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(codec), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
            )
        )
    assert can_pack(model)
    prompts = codec.prompts(["heart", "small left pleural effusion ; lung", "lung", "no acute findings"])
    answers = [[*ids, codec.end] for ids in codec.encode(REPORTS)]

    def losses(ids: torch.Tensor, targets: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, use_cache=False, **given).logits[:, :-1]
        return functional.cross_entropy(
            logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )

    packed = pack(prompts, answers, max_length=80, stretch=2)
    assert len(packed.ids) < len(REPORTS)
    together = losses(packed.ids, packed.targets, position_ids=packed.positions)
    together.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    ids, mask, targets = codec.training_batch(prompts, REPORTS, max_length=80)
    alone = losses(ids, targets, attention_mask=mask.long())
    alone.backward()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    for got, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, atol=1e-5, rtol=1e-5)
