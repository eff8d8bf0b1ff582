"""Finite scalar quantisation: by hand, against vector-quantize-pytorch, and the advice on levels."""

import math

import pytest
import torch

from lightning_modules.networks.fsq import FSQ, check_levels, fitting_levels


def test_codes_and_vectors_of_known_channels():
    # Three levels -1, 0, 1 and four levels -1, -1/2, 0, 1/2; no layers between as the latent has two channels.
    quantizer = FSQ((3, 4), dim=2)
    latent = torch.tensor([[[[-9.0, 0.1, 9.0, 0.0]], [[-9.0, 0.1, 9.0, -0.9]]]])
    out = quantizer(latent)
    assert out.vectors[0, :, 0].T.tolist() == [[-1.0, -1.0], [0.0, 0.0], [1.0, 0.5], [0.0, -0.5]]
    assert out.codes.flatten().tolist() == [0, 1 + 3 * 2, 2 + 3 * 3, 1 + 3 * 1]
    assert out.commitment.item() == 0.0


@pytest.mark.parametrize("levels", [(3, 4, 5), (8, 8, 8), (16, 8, 8), (7, 5, 5, 5, 5)])
def test_every_code_has_its_own_vector_and_finds_itself(levels):
    quantizer = FSQ(levels, dim=len(levels))
    assert len(quantizer.codebook.unique(dim=0)) == quantizer.codes == math.prod(levels)
    # Back through tanh: the middle of each level's interval.
    counts = torch.tensor(levels)
    position = quantizer.codebook * (counts // 2) + quantizer.offset
    inner = torch.atanh((position / quantizer.half_range).clamp(-0.9999, 0.9999)) - quantizer.shift
    assert torch.equal(quantizer.encode(inner.T[None, :, None, :]).flatten(), torch.arange(quantizer.codes))


@pytest.mark.parametrize("dim", [3, 16])
@pytest.mark.parametrize("levels", [(8, 5, 5), (3, 4, 7)])
def test_it_equals_vector_quantize_pytorch_in_codes_vectors_and_gradients(dim, levels):
    library = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    ours, theirs = FSQ(levels, dim=dim), library.FSQ(list(levels), dim=dim)
    if dim != len(levels):
        theirs.project_in.load_state_dict(ours.narrow.state_dict())
        theirs.project_out.load_state_dict(ours.widen.state_dict())
    latent = 3 * torch.randn(4, dim, 6, 6)
    ours_in, theirs_in = latent.clone().requires_grad_(), latent.clone().requires_grad_()
    out, (vectors, codes) = ours(ours_in), theirs(theirs_in)
    assert torch.equal(out.codes, codes.long())
    assert torch.allclose(out.vectors, vectors, atol=1e-6)
    assert torch.allclose(ours.lookup(out.codes), theirs.indices_to_codes(codes), atol=1e-6)
    weights = torch.randn_like(vectors)
    (out.vectors * weights).sum().backward()
    (vectors * weights).sum().backward()
    assert torch.allclose(ours_in.grad, theirs_in.grad, atol=1e-5)
    if dim != len(levels):
        assert torch.allclose(ours.narrow.weight.grad, theirs.project_in.weight.grad, atol=1e-4)


@pytest.mark.parametrize(
    ("codes", "levels"),
    [(512, (8, 8, 8)), (1024, (16, 8, 8)), (1000, (10, 10, 10)), (1021, None), (64, (8, 8))],
)
def test_fitting_levels(codes, levels):
    assert fitting_levels(codes) == levels


def test_levels_that_do_not_make_the_codes_are_refused_with_those_that_do():
    check_levels((8, 8, 8), 512)
    with pytest.raises(ValueError, match=r"codes = 512, got \[8, 5, 5\] with the product 200: levels \[8, 8, 8\] fit"):
        check_levels((8, 5, 5), 512)
    with pytest.raises(ValueError, match=r"got \[\] with the product 1: levels \[16, 8, 8\] fit"):
        check_levels((), 1024)
    with pytest.raises(ValueError, match="no levels of 4 to 16 fit, take other codes"):
        check_levels((5, 5), 1021)
    with pytest.raises(ValueError, match=r"levels of 3\.\.256"):
        FSQ((2, 4), dim=2)
