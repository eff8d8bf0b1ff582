"""EvenGame: the level by hand, who may play at which, and the codebook that obeys it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks.even_game import EvenGame
from lightning_modules.networks.vqgan import VQGANConfig

MICRO = VQGANConfig(resolution=16, channels=(8, 16), code_dim=8, codes=16)


def test_the_level_is_a_running_mean_that_starts_where_nothing_is_told():
    game = EvenGame(0.5)
    assert (game.level, game.push) == (1.0, 0.0)
    loss = torch.tensor(0.5)
    assert game.learns(loss)
    assert game.level == pytest.approx(0.95)
    assert game.push == pytest.approx(0.1)
    assert game.learns(torch.tensor(0.0))
    assert game.level == pytest.approx(0.855)
    assert loss == 0.5


@pytest.mark.parametrize(
    ("level", "push", "learns"), [(1.3, 0.0, True), (0.8, 0.5, True), (0.59, 1.0, False), (0.2, 1.0, False)]
)
def test_the_winner_waits(level, push, learns):
    game = EvenGame(0.6)
    game.level = level
    assert game.push == pytest.approx(push)
    assert game.learns(torch.tensor(level)) == learns


def test_without_a_target_both_play_on():
    game = EvenGame(None)
    assert game.learns(torch.tensor(0.0))
    assert game.push == 1.0


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
def test_a_target_that_no_game_can_keep_is_refused(target):
    with pytest.raises(ValueError, match="between 0 and 1"):
        EvenGame(target)


def codebook(level: float) -> ImageCodebook:
    torch.manual_seed(0)
    module = ImageCodebook(
        MICRO, discriminator_start=0, discriminator_ramp=1, discriminator_width=8, discriminator_target=0.5
    )
    module.game.level = level
    return module


def test_a_discriminator_below_the_target_gets_no_gradient_and_one_that_cannot_tell_pushes_nobody():
    image = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    waiting, blind = codebook(0.1), codebook(5.0)
    for module in (waiting, blind):
        module.both_losses(image)  # starts the codebook
    waiting.game.level, blind.game.level = 0.1, 5.0
    total, parts = waiting.both_losses(image)
    total.backward()
    assert "adversarial" in parts
    assert all(not p.grad.any() for p in waiting.discriminator.parameters())
    total, parts = blind.both_losses(image)
    total.backward()
    assert "adversarial" not in parts
    assert any(p.grad.any() for p in blind.discriminator.parameters())


def test_the_level_is_resumed(tmp_path):
    checkpoint: dict = {}
    codebook(0.3).on_save_checkpoint(checkpoint)
    resumed = codebook(1.0)
    resumed.on_load_checkpoint(checkpoint)
    assert resumed.game.level == 0.3


def on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    game = EvenGame(0.5)
    game.learns(torch.tensor([0.2, 0.6][rank]))
    (Path(folder) / f"{rank}.txt").write_text(str(game.level))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_one_level(tmp_path):
    mp.spawn(on_a_rank, args=(str(tmp_path),), nprocs=2)
    levels = [float((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)]
    assert levels[0] == levels[1] == pytest.approx(0.9 + 0.1 * 0.4)
