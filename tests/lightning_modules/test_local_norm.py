"""GroupNorm with all images' statistics: what it keeps of GroupNorm, and that it sees nothing else of the image."""

import torch
from torch import nn

from lightning_modules.networks.local_norm import SLOWEST, LocalGroupNorm, made_local
from lightning_modules.networks.vqgan import norm


def given() -> nn.GroupNorm:
    module = norm(16)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    return module


def test_on_images_that_are_alike_it_is_group_norm() -> None:
    module, x = given(), torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
    local = LocalGroupNorm(module).train()
    x = x.expand(4, -1, -1, -1)
    torch.testing.assert_close(local(x), module(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(local.eval()(x), module(x), rtol=1e-4, atol=1e-4)


def test_statistics_are_the_mean_over_images_of_each_images_own() -> None:
    local = LocalGroupNorm(norm(8)).train()  # eight groups of one channel
    batches = [torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(seed)) * (seed + 1) for seed in range(4)]
    for batch in batches:
        local(batch)
    every = torch.cat(batches)
    torch.testing.assert_close(local.mean, every.mean(dim=(2, 3)).mean(dim=0))
    torch.testing.assert_close(local.variance, every.var(dim=(2, 3), unbiased=False).mean(dim=0))
    before = local.mean.clone()
    local.batches.fill_(10_000)
    local(torch.ones(2, 8, 4, 4))
    torch.testing.assert_close(local.mean, before + SLOWEST * (1 - before))
    assert not any(p.requires_grad for p in local.parameters())


def test_a_change_elsewhere_is_not_seen_and_training_off_changes_nothing() -> None:
    local, x = LocalGroupNorm(given()), torch.randn(2, 16, 8, 8)
    local.train()(x)
    local.eval()
    other = x.clone()
    other[..., 4:] += 5.0
    assert torch.equal(local(x)[..., :4], local(other)[..., :4])
    assert int(local.batches) == 1


def test_all_norms_within_a_module_are_replaced() -> None:
    module = nn.Sequential(nn.Conv2d(1, 16, 3), given(), nn.Sequential(given(), nn.SiLU()))
    made_local(module)
    assert [type(m) for m in module.modules() if "Norm" in type(m).__name__] == [LocalGroupNorm] * 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module[1](torch.randn(1, 16, 4, 4).bfloat16()).dtype == torch.float32
