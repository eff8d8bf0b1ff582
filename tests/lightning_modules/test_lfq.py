"""Lookup-free quantisation: by hand, against vector-quantize-pytorch, and over ranks."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.networks.lfq import LFQ, bit_entropy, code_shares


def test_the_signs_are_the_bits_and_the_first_channel_is_the_highest():
    quantizer = LFQ(8, dim=3, entropy=0.0)
    latent = torch.tensor([[[[0.5, -0.1]], [[-2.0, 3.0]], [[0.1, 0.0]]]])
    out = quantizer(latent)
    assert out.codes.flatten().tolist() == [0b101, 0b010]
    assert out.vectors[0, :, 0].T.tolist() == [[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]
    assert out.commitment.item() == pytest.approx((0.25 + 1 + 0.81 + 0.81 + 4 + 1) / 6)
    assert torch.equal(quantizer.lookup(out.codes), out.vectors)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_entropies_by_halves_equal_the_full_table(bits):
    ones = torch.rand(7, bits, dtype=torch.float64)
    codes = torch.arange(2**bits)
    signs = (codes[:, None] // 2 ** torch.arange(bits - 1, -1, -1)) % 2
    table = torch.where(signs[None] == 1, ones[:, None], 1 - ones[:, None]).prod(dim=2)
    assert torch.allclose(code_shares(ones), table.sum(0))
    whole = torch.special.entr(table).sum(1)
    assert torch.allclose(bit_entropy(torch.logit(ones)).sum(1), whole)


@pytest.mark.parametrize("dim", [6, 16])
def test_it_equals_vector_quantize_pytorch_in_codes_vectors_losses_and_gradients(dim):
    library = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    ours = LFQ(64, dim=dim, entropy=0.4, sharpness=3.0).train()
    theirs = library.LFQ(dim=dim, codebook_size=64, entropy_loss_weight=0.4, commitment_loss_weight=1.0).train()
    if dim != 6:
        theirs.project_in.load_state_dict(ours.narrow.state_dict())
        theirs.project_out.load_state_dict(ours.widen.state_dict())
    latent = torch.randn(4, dim, 6, 6)
    ours_in, theirs_in = latent.clone().requires_grad_(), latent.clone().requires_grad_()
    out = ours(ours_in)
    vectors, codes, loss = theirs(theirs_in, inv_temperature=3.0)
    assert torch.equal(out.codes, codes.long())
    assert torch.allclose(out.vectors, vectors, atol=1e-6)
    # They count probabilities below 1e-5 as 1e-5.
    assert out.commitment.item() == pytest.approx(loss.item(), abs=1e-3)
    weights = torch.randn_like(vectors)
    ((out.vectors * weights).mean() + out.commitment).backward()
    ((vectors * weights).mean() + loss).backward()
    assert torch.allclose(ours_in.grad, theirs_in.grad, atol=2e-5)
    assert torch.allclose(ours.eval()(latent).vectors, theirs.eval()(latent)[0], atol=1e-6)


def test_the_entropy_loss_spreads_the_codes_of_a_batch():
    generator = torch.Generator().manual_seed(0)
    start = 0.1 * torch.randn(8, 4, 4, 4, generator=generator) + 0.5
    used = {}
    for entropy in (0.0, 10.0):
        quantizer = LFQ(16, dim=4, entropy=entropy, sharpness=1.0).train()
        latent = start.clone().requires_grad_()
        assert len(quantizer(latent).codes.unique()) == 1
        optimizer = torch.optim.Adam([latent], lr=0.02)
        for _ in range(200):
            optimizer.zero_grad()
            quantizer(latent).commitment.backward()
            optimizer.step()
        used[entropy] = len(quantizer(latent).codes.unique())
    assert used[0.0] == 1
    assert used[10.0] >= 12


def test_numbers_of_codes_that_signs_cannot_count_are_refused_with_those_that_fit():
    with pytest.raises(ValueError, match="power of two as codes, got 1000; 512 and 1024 fit"):
        LFQ(1000, dim=4)


def gradients(latent: torch.Tensor) -> torch.Tensor:
    latent = latent.clone().requires_grad_()
    LFQ(16, dim=4, sharpness=1.0).train()(latent).commitment.backward()
    assert latent.grad is not None
    return latent.grad


def batch() -> torch.Tensor:
    return torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    half = batch()[2 * rank : 2 * rank + 2]
    torch.save(gradients(half), f"{folder}/{rank}.pt")
    # In eval mode ranks do not wait for one another.
    if rank == 0:
        LFQ(16, dim=4).eval()(half)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one_with_the_whole_batch(tmp_path):
    mp.spawn(two_ranks, args=(str(tmp_path),), nprocs=2)
    halves = torch.cat([torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)])
    # DDP averages the gradients of ranks.
    assert torch.allclose(halves / 2, gradients(batch()), atol=1e-6)
