"""The vector quantiser: nearest code, EMA, k-means start, restart, ranks."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.networks.quantizer import (
    CodeUsage,
    VectorQuantizer,
    kmeans,
    nearest,
    rotate,
)
from lightning_modules.networks.ranks import gather_rows, sum_over_ranks


def hand_made(**kwargs: object) -> VectorQuantizer:
    """Four codes at the corners of a square, started by hand."""
    quantizer = VectorQuantizer(4, dim=2, **kwargs)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
    quantizer._place(corners, counts=torch.ones(4))
    quantizer.initialised.fill_(True)
    return quantizer


def test_a_hand_made_codebook_gives_the_codes_and_vectors_that_one_reads_off():
    quantizer = hand_made().eval()
    latent = torch.tensor([[[[0.9, -3.0]], [[0.2, 0.1]]]])  # two cells: (0.9, 0.2) and (-3, 0.1)
    out = quantizer(latent)
    assert out.codes.tolist() == [[[0, 3]]]
    assert out.vectors[0, :, 0].T.tolist() == [[1.0, 1.0], [-1.0, 1.0]]
    assert out.commitment.item() == pytest.approx((0.01 + 0.64 + 4.0 + 0.81) / 4)
    assert torch.equal(quantizer.lookup(out.codes), out.vectors)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 20), d=st.integers(1, 8), seed=st.integers(0, 99))
def test_nearest_equals_brute_force(n, k, d, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors, codebook = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    distances = (vectors[:, None].double() - codebook[None].double()).square().sum(-1)
    chosen = distances.gather(1, nearest(vectors, codebook)[:, None]).squeeze(1)
    assert torch.allclose(chosen, distances.min(1).values, atol=1e-5)


def test_codes_outside_the_codebook_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"0\.\.3, got 1\.\.4"):
        hand_made().lookup(torch.tensor([[[1, 4]]]))


def test_the_moving_average_equals_the_hand_computation():
    quantizer = hand_made(decay=0.9, restart_below=0.0).train()
    latent = torch.tensor([[2.0, 1.0], [1.0, 3.0], [-2.0, -2.0]]).T[None, :, None, :]  # codes 0, 0, 2
    out = quantizer(latent)
    assert out.codes.flatten().tolist() == [0, 0, 2]
    # The output is looked up before the update.
    assert out.vectors[0, :, 0, 0].tolist() == [1.0, 1.0]
    counts = torch.tensor([0.9 + 0.2, 0.9, 0.9 + 0.1, 0.9])
    sums = torch.tensor([[0.9 + 0.3, 0.9 + 0.4], [0.9, -0.9], [-0.9 - 0.2, -0.9 - 0.2], [-0.9, 0.9]])
    assert torch.allclose(quantizer.counts, counts)
    assert torch.allclose(quantizer.sums, sums)
    assert torch.allclose(quantizer.codebook, sums / counts[:, None])
    assert torch.allclose(quantizer.codebook[1], torch.tensor([1.0, -1.0]))  # an unused code stays


def test_eval_mode_and_encode_never_change_the_codebook():
    quantizer = hand_made()
    before = copy.deepcopy(quantizer.state_dict())
    latent = torch.randn(2, 2, 3, 3)
    codes = quantizer.eval()(latent).codes
    assert torch.equal(quantizer.train().encode(latent), codes)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_kmeans_finds_separate_clusters_and_their_sizes():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    sizes = [5, 10, 20, 40]
    points = torch.cat([c + 0.1 * torch.randn(n, 2, generator=generator) for c, n in zip(centres, sizes, strict=True)])
    found, counts = kmeans(points, 4, generator=generator)
    order = (found / 10).round() @ torch.tensor([1.0, 2.0])
    for rank, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
        i = int((order == rank).nonzero().squeeze())
        assert torch.allclose(found[i], centre, atol=0.15)
        assert int(counts[i]) == size


def test_the_first_training_batch_starts_the_codebook_by_kmeans_and_says_so():
    quantizer = VectorQuantizer(8, dim=3, decay=1.0, restart_below=0.0)
    centres = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)) * 10
    latent = centres.repeat(4, 1).reshape(4, 8, 1, 3).permute(0, 3, 1, 2)
    assert not quantizer.initialised
    out = quantizer.train()(latent)
    assert quantizer.initialised
    assert out.commitment.item() < 1e-8
    assert len(out.codes.unique()) == 8


def test_fewer_vectors_than_codes_start_without_error():
    quantizer = VectorQuantizer(32, dim=3).train()
    out = quantizer(torch.randn(1, 3, 2, 2))
    assert torch.isfinite(quantizer.codebook).all()
    assert out.commitment.item() < 1e-8


def test_restart_moves_a_dead_code_to_the_worst_covered_vector():
    quantizer = hand_made(decay=0.5, restart_below=0.1).train()
    # Codes 0, 1, 2 are hit exactly, code 3 never; one vector is far from all codes.
    exact = quantizer.codebook[[0, 1, 2]].repeat(10, 1)
    latent = torch.cat([exact, torch.tensor([[30.0, -30.0]])]).T[None, :, None, :]
    for _ in range(2):
        out = quantizer(latent)
        assert 3 not in out.codes
    # Its averaged count fell below a tenth of the even share; the one vector with a large error was taken.
    assert torch.allclose(quantizer.codebook[3], torch.tensor([30.0, -30.0]), atol=1e-4)
    assert int(quantizer.restarted) == 1
    assert quantizer(latent).codes.flatten()[-1] == 3
    assert int(quantizer.restarted) == 1  # it lives now


def test_restarts_are_counted_by_the_codes_that_moved():
    """With decay 0 a code is dead when the batch does not use it; three steps of known batches, counted by hand."""
    quantizer = hand_made(decay=0.0, restart_below=0.1).train()
    corners = [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]
    moved = []
    for points in (
        corners,  # all used
        [*corners[:2], *corners[:2]],  # two dead, but every vector has its own code: nothing to gain
        [[1.0, 1.5], [1.0, 2.5], [1.0, -1.0]],  # two dead; code 0 moves to (1, 2), .5 from two vectors: both are taken
    ):
        before = int(quantizer.restarted)
        quantizer(torch.tensor(points).T[None, :, None, :])
        moved.append(int(quantizer.restarted) - before)
    assert moved == [0, 0, 2]
    assert sorted(quantizer.codebook[2:].tolist()) == [[1.0, 1.5], [1.0, 2.5]]
    assert "restarted" not in quantizer.state_dict()


def test_a_kmeans_start_and_eval_mode_count_no_restarts():
    quantizer = VectorQuantizer(4, dim=2, restart_below=0.1)
    quantizer.train()(torch.randn(2, 2, 4, 4))
    quantizer.eval()(torch.randn(2, 2, 4, 4))
    assert int(quantizer.restarted) == 0


def test_training_uses_all_codes_of_a_continuous_latent():
    quantizer = VectorQuantizer(64, dim=2, decay=0.9).train()
    # A start that leaves 63 codes far from every vector.
    quantizer._place(torch.full((64, 2), 100.0), counts=torch.ones(64))
    quantizer.initialised.fill_(True)
    usage = CodeUsage(64)
    for step in range(60):
        latent = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(step))
        codes = quantizer(latent).codes
        if step >= 50:
            usage.update(codes)
    found = usage.compute()
    assert found["usage"] == 1.0
    assert found["perplexity"] > 32


def test_gradients_straight_through_are_copied_and_rotated_ones_keep_their_angle():
    latent = torch.tensor([[[[2.0]], [[0.5]]]], requires_grad=True)
    hand_made(gradient="straight-through").eval()(latent).vectors.backward(torch.tensor([[[[3.0]], [[-1.0]]]]))
    assert latent.grad.flatten().tolist() == [3.0, -1.0]

    vector, target = torch.tensor([[2.0, 0.0]]).requires_grad_(), torch.tensor([[0.0, 4.0]])
    rotated = rotate(vector, target)
    assert torch.allclose(rotated, target, atol=1e-5)
    # From (2, 0) to (0, 4): a quarter turn and twice the length; its transpose turns (0, 1) back into (2, 0).
    rotated.backward(torch.tensor([[0.0, 1.0]]))
    assert torch.allclose(vector.grad, torch.tensor([[2.0, 0.0]]), atol=1e-5)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [-1.0, -1.0]])
def test_a_rotation_that_does_not_exist_falls_back_to_copying(vector):
    x, target = torch.tensor([vector]).requires_grad_(), torch.tensor([[1.0, 1.0]])
    out = rotate(x, target)
    out.backward(torch.tensor([[3.0, -1.0]]))
    assert torch.allclose(out, target)
    assert x.grad.tolist() == [[3.0, -1.0]]


def test_cosine_codes_depend_on_directions_only():
    quantizer = VectorQuantizer(16, dim=4, cosine=True).train()
    latent = torch.randn(2, 4, 4, 4)
    for _ in range(3):
        quantizer(latent)
    assert torch.allclose(quantizer.codebook.norm(dim=1), torch.ones(16), atol=1e-5)
    assert torch.equal(quantizer.encode(latent), quantizer.encode(7 * latent))


def test_it_works_in_float32_under_bf16_autocast():
    quantizer, latent = hand_made(), torch.randn(2, 2, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer.eval()(latent)
    assert out.vectors.dtype == torch.float32
    assert torch.equal(out.codes, quantizer(latent).codes)


def test_the_state_dict_restores_codebook_start_and_updates():
    first = VectorQuantizer(8, dim=3).train()
    first(torch.randn(2, 3, 4, 4))
    second = VectorQuantizer(8, dim=3, seed=5)
    second.load_state_dict(first.state_dict())
    assert second.initialised
    latent = torch.randn(2, 3, 4, 4)
    first(latent), second(latent)
    assert torch.equal(first.codebook, second.codebook)


def test_usage_and_perplexity_of_known_counts():
    usage = CodeUsage(8)
    usage.update(torch.tensor([[0, 1], [2, 3]]))
    usage.update(torch.tensor([0, 1, 2, 3]))
    assert usage.compute()["usage"].item() == 0.5
    assert usage.compute()["perplexity"].item() == pytest.approx(4.0)
    single = CodeUsage(8)
    single.update(torch.zeros(5, dtype=torch.int64))
    assert single.compute()["perplexity"].item() == pytest.approx(1.0)
    uneven = CodeUsage(2)
    uneven.update(torch.tensor([0, 0, 0, 1]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert uneven.compute()["perplexity"].item() == pytest.approx(math.exp(entropy))


def batches() -> list[Tensor]:
    """Three batches of seven images; clustered, so that codes die and are restarted."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(7, 4, 3, 3, generator=generator) * (1 + 3 * i) for i in range(3)]


def quantise(parts: list[Tensor]) -> dict[str, Tensor]:
    quantizer = VectorQuantizer(24, dim=4, decay=0.5, restart_below=0.2).train()
    usage = CodeUsage(24)
    for part in parts:
        usage.update(quantizer(part).codes)
    assert int(quantizer.restarted) > 0
    return quantizer.state_dict() | {
        "perplexity": usage.compute()["perplexity"], "restarted": quantizer.restarted
    }  # fmt: skip


def two_ranks(rank: int, folder: str, cut: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    rows = gather_rows(torch.full((rank + 1, 2), float(rank)))
    assert rows[:, 0].tolist() == [0.0, 1.0, 1.0]
    assert sum_over_ranks(torch.tensor([rank + 1.0])).item() == 3.0
    torch.save(quantise([b[cut:] if rank else b[:cut] for b in batches()]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [4, 6, 7])
def test_two_ranks_with_uneven_parts_equal_one_rank_with_the_whole_batch(tmp_path, cut):
    """Of seven images the second rank gets three, one or none."""
    mp.spawn(two_ranks, args=(str(tmp_path), cut), nprocs=2)
    one = quantise(batches())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].float(), value.float(), atol=1e-4), name
