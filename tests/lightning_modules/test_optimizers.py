"""MuonAdamW against the two optimisers it is made of, its groups, schedules and state."""

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_modules.networks.transformer import Block
from lightning_modules.optimizers import HIDDEN, PRETRAINED, MuonAdamW, parameter_groups, slow_down
from lightning_modules.schedule import with_schedule


class Small(nn.Module):
    """An embedding, two blocks and a head."""

    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(Block(8, 2) for _ in range(2))
        self.head = nn.Linear(8, 7)

    def loss(self):
        x = self.token(torch.arange(7))[None]
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(x)[0], torch.arange(7).roll(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Small()


def names_of(network, group):
    by_id = {id(p): name for name, p in network.named_parameters()}
    return {by_id[id(p)] for p in group["params"]}


def train(network, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        network.loss().backward()
        optimizer.step()


def test_hidden_matrices_are_the_linear_weights_of_the_blocks(network):
    network.head.bias.requires_grad_(False)
    hidden, rest = parameter_groups(network)
    layers = ("attention.query", "attention.key_value", "attention.out", "feed.0", "feed.2")
    assert names_of(network, hidden) == {f"blocks.{b}.{layer}.weight" for b in range(2) for layer in layers}
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert names_of(network, rest) == trainable - names_of(network, hidden)
    assert (hidden[HIDDEN], rest[HIDDEN]) == (True, False)


def test_pretrained_parts_are_a_group_of_their_own_and_slower(network):
    def groups():
        return parameter_groups(network, pretrained=[network.blocks[0]])

    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    hidden, rest, theirs = (names_of(network, group) for group in groups())
    assert theirs == {name for name in trainable if name.startswith("blocks.0.")}
    assert all(name.startswith("blocks.1.") for name in hidden)
    assert hidden | rest | theirs == trainable
    assert len(hidden) + len(rest) + len(theirs) == len(trainable)
    for optimizer in (torch.optim.AdamW(groups(), lr=0.1), MuonAdamW(groups(), lr=0.1, hidden_lr=0.3)):
        slow_down(optimizer, rate=0.5)
        rates = {bool(group.get(PRETRAINED)): group["lr"] for group in optimizer.param_groups if not group[HIDDEN]}
        assert rates == {True: 0.05, False: 0.1}
        scheduler = with_schedule(optimizer, steps=10, warmup=1)["lr_scheduler"]["scheduler"]
        assert sorted({*scheduler.base_lrs} - {0.3}) == [0.05, 0.1]


def test_gpt2_keeps_its_tied_embedding_out_of_the_hidden_matrices():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    hidden, rest = parameter_groups(model)
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names_of(model, hidden) == {f"transformer.h.{b}.{layer}.weight" for b in range(2) for layer in layers}
    assert "transformer.wte.weight" in names_of(model, rest)


def test_steps_are_those_of_muon_and_adamw(network):
    twin = copy.deepcopy(network)
    ours = MuonAdamW(parameter_groups(network), lr=1e-2, hidden_lr=2e-2, betas=(0.8, 0.9), weight_decay=0.1)
    hidden, rest = (group["params"] for group in parameter_groups(twin))
    muon = torch.optim.Muon(hidden, lr=2e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1)
    train(network, ours, 4)
    for _ in range(4):
        twin.zero_grad()
        twin.loss().backward()
        muon.step()
        adamw.step()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(network.get_parameter(name), p, rtol=0, atol=0)


def test_unmarked_parameters_get_adamw_alone(network):
    optimizer = MuonAdamW(network.parameters())
    assert list(optimizer.parts) == ["adamw"]


def test_schedule_moves_both_learning_rates(network):
    optimizer = MuonAdamW(parameter_groups(network), lr=1e-2, hidden_lr=2e-2)
    scheduler = with_schedule(optimizer, steps=100)["lr_scheduler"]["scheduler"]
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1e-2, 5e-3])
    train(network, optimizer, 1)
    for _ in range(50):
        scheduler.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.parts.values()] == pytest.approx([1e-2, 5e-3])


def test_schedule_with_its_own_warm_up_and_floor(network):
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scheduler = with_schedule(optimizer, steps=100, warmup=4, floor=0.2)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.25)
    assert rates[50] == pytest.approx(0.2 + 0.8 / 2)
    assert rates[100] == pytest.approx(0.2)


def test_resumed_training_goes_on_exactly(network):
    optimizer = MuonAdamW(parameter_groups(network))
    train(network, optimizer, 3)
    saved, state = copy.deepcopy(network), copy.deepcopy(optimizer.state_dict())
    train(network, optimizer, 3)
    resumed = MuonAdamW(parameter_groups(saved))
    resumed.load_state_dict(state)
    train(saved, resumed, 3)
    for name, p in network.named_parameters():
        torch.testing.assert_close(saved.get_parameter(name), p, rtol=0, atol=0)
    resumed.param_groups[0]["lr"] = 0.5
    assert resumed.parts["muon"].param_groups[0]["lr"] == 0.5


def test_state_and_later_groups_reach_the_parts(network):
    optimizer = MuonAdamW(parameter_groups(network))
    train(network, optimizer, 1)
    assert set(optimizer.state) == set(network.parameters())
    late = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(3)
    optimizer.step()
    assert (late < 1).all()
    only = MuonAdamW([{"params": [nn.Parameter(torch.eye(3))], HIDDEN: True}])
    with pytest.raises(ValueError, match="without parameters for adamw"):
        only.add_param_group({"params": [late]})


def test_another_optimisers_state_is_refused(network):
    optimizer = MuonAdamW(parameter_groups(network))
    with pytest.raises(ValueError, match="resume with the optimiser that wrote it"):
        optimizer.load_state_dict(torch.optim.AdamW(network.parameters()).state_dict())
