"""The EMA quantiser against vector-quantize-pytorch's and MONAI's on what they share; NaN on one of two ranks."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from lightning_modules.networks.fsq import FSQ
from lightning_modules.networks.lfq import LFQ
from lightning_modules.networks.quantizer import DISTANCES_ON_CPU, VectorQuantizer, nearest

CODES, DIM, DECAY = 32, 8, 0.9


def start(*, cosine: bool = False, **kwargs: object) -> VectorQuantizer:
    """A quantiser that has begun, from known vectors with a count of one each."""
    quantizer = VectorQuantizer(CODES, dim=DIM, decay=DECAY, restart_below=0.0, cosine=cosine, **kwargs)
    quantizer._place(torch.randn(CODES, DIM, generator=torch.Generator().manual_seed(1)), counts=torch.ones(CODES))
    quantizer.sums.copy_(quantizer.codebook)
    quantizer.initialised.fill_(True)
    return quantizer.train()


def library(ours: VectorQuantizer, **kwargs: object) -> nn.Module:
    """vector-quantize-pytorch's from the same start; eps 0, since ours smooths no counts."""
    package = pytest.importorskip("vector_quantize_pytorch")
    theirs = package.VectorQuantize(
        DIM, CODES, decay=DECAY, eps=0.0, accept_image_fmap=True, use_cosine_sim=ours.cosine, **kwargs
    )
    theirs._codebook.embed.copy_(ours.codebook[None])
    theirs._codebook.embed_avg.copy_(ours.sums[None])
    return theirs.train()


def batches(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(3, DIM, 4, 4, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("cosine", [False, True])
def test_several_updates_equal_those_of_vector_quantize_pytorch(cosine):
    ours = start(cosine=cosine)
    theirs = library(ours)
    for latent in batches():
        out, (vectors, codes, commitment) = ours(latent), theirs(latent)
        assert torch.equal(out.codes, codes)
        assert torch.allclose(out.vectors, vectors, atol=1e-5)
        if not cosine:  # theirs compares the codes with the inputs before these are normalised
            assert out.commitment.item() == pytest.approx(commitment.item(), rel=1e-5)
        assert torch.allclose(ours.codebook, theirs._codebook.embed[0], atol=1e-5)
        assert torch.allclose(ours.counts, theirs._codebook.cluster_size[0], atol=1e-5)
    latent = batches(1)[0]
    assert torch.equal(ours.encode(latent), theirs.eval()(latent)[1])


def test_several_updates_equal_those_of_monai():
    package = pytest.importorskip("monai.networks.layers.vector_quantizer")
    ours = start()
    theirs = package.EMAQuantizer(2, CODES, DIM, decay=DECAY, epsilon=0.0, commitment_cost=1.0).train()
    theirs.embedding.weight.data.copy_(ours.codebook)
    theirs.ema_w.copy_(ours.sums)
    theirs.ema_cluster_size.fill_(1.0)
    for latent in batches():
        # Theirs keeps the old codebook's vectors in no copy: compare what was looked up before the update.
        out, (_, commitment, codes) = ours(latent), theirs(latent)
        assert torch.equal(out.codes, codes)
        assert out.commitment.item() == pytest.approx(commitment.item(), rel=1e-5)
        assert torch.allclose(ours.codebook, theirs.embedding.weight, atol=1e-5)


@pytest.mark.parametrize("gradient", ["rotation", "straight-through"])
def test_gradients_equal_those_of_vector_quantize_pytorch(gradient):
    ours = start(gradient=gradient)
    theirs = library(ours, rotation_trick=gradient == "rotation")
    latent = batches(1)[0]
    ours_in, theirs_in = latent.clone().requires_grad_(), latent.clone().requires_grad_()
    out, (vectors, _, commitment) = ours(ours_in), theirs(theirs_in)
    weights = torch.randn_like(vectors)
    ((out.vectors * weights).sum() + out.commitment).backward()
    ((vectors * weights).sum() + commitment.sum()).backward()
    assert torch.allclose(ours_in.grad, theirs_in.grad, atol=1e-5)


def test_distances_in_parts_give_the_same_codes():
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(1024, 16, generator=generator)
    vectors = torch.randn(3 * DISTANCES_ON_CPU // 1024 + 5, 16, generator=generator)
    whole = ((codebook**2).sum(1)[None] - 2 * vectors @ codebook.T).argmin(1)
    assert torch.equal(nearest(vectors, codebook), whole)


def one_rank_with_nan(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for quantizer in (start(), VectorQuantizer(CODES, dim=DIM).train(), FSQ((4, 4), dim=DIM), LFQ(16, dim=DIM)):
        before = quantizer.codebook.clone()
        latent = batches(1)[0]
        if rank == 1:
            latent[0, 0, 0, 0] = float("nan")
        with pytest.raises(FloatingPointError, match="all ranks stop"):
            quantizer(latent)
        assert torch.equal(quantizer.codebook, before)
    dist.destroy_process_group()


@pytest.mark.slow
def test_nan_on_one_rank_stops_all(tmp_path):
    mp.spawn(one_rank_with_nan, args=(str(tmp_path),), nprocs=2)
