"""Membership inference, own images, samples of one prompt, pairs of prompts: hand-computed cases and chance."""

import torch
from sklearn.metrics import roc_auc_score

from callbacks.metrics.memorisation import exact_distances, matched_prompts, membership, own_nearer, samples_nearer


def test_membership_is_the_auroc_of_negative_distances():
    generator = torch.Generator().manual_seed(0)
    members, others = torch.rand(60, generator=generator), torch.rand(50, generator=generator) + 0.2
    value, low, high = membership(members, others)
    assert abs(value - roc_auc_score([1] * 60 + [0] * 50, (-torch.cat([members, others])).numpy())) < 1e-6
    assert low < value < high
    assert membership(torch.zeros(4), torch.ones(4))[0] == 1


def test_own_images_are_compared_with_those_of_the_same_labels():
    distances = torch.tensor([[0.1, 0.2, 0.3, 0.05], [0.5, 0.5, 0.1, 0.9]])
    alike = torch.tensor([[False, True, True, False], [True, False, True, True]])
    assert own_nearer(distances, torch.tensor([0, 1]), alike).tolist() == [1.0, 0.5]
    assert own_nearer(distances, torch.tensor([0, 1]), torch.zeros_like(alike)).isnan().all()


def test_samples_are_compared_with_the_distances_of_real_images_to_the_own_one():
    # Three samples, 3, 6 and 3 apart: 4 on average. The alike reals are 1, 4 and 5 from the own image.
    samples = torch.tensor([[[0.0], [3.0], [6.0]], [[7.0], [7.0], [7.0]]])
    reference, reals = torch.tensor([[10.0], [10.0]]), torch.tensor([[11.0], [6.0], [15.0], [30.0]])
    alike = torch.tensor([[True, True, True, False], [True, True, True, False]])
    assert samples_nearer(samples, reference, reals, alike).tolist() == [0.5, 1.0]
    assert samples_nearer(samples, reference, reals, torch.zeros_like(alike)).isnan().all()


def test_the_distance_of_equal_rows_is_zero():
    rows = 1e3 + torch.rand(40, 300, generator=torch.Generator().manual_seed(0))
    distances = exact_distances(rows, rows)
    assert bool((distances.diagonal() == 0).all())
    assert torch.allclose(distances[0, 1], (rows[0] - rows[1]).norm(), rtol=1e-6)


def test_pairs_have_equal_labels_companions_and_patients_of_their_own():
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(12, (200,), generator=generator), torch.arange(200) // 2
    held_out = torch.randint(12, (80,), generator=generator), torch.arange(80) // 2 + 1000
    pairs = matched_prompts(training, held_out, most=25, least=6, seed=3)
    assert len(pairs) == 25
    assert pairs == matched_prompts(training, held_out, most=25, least=6, seed=3)
    assert pairs != matched_prompts(training, held_out, most=25, least=6, seed=4)
    for side, (labels, patients) in enumerate((training, held_out)):
        rows = [pair[side] for pair in pairs]
        assert len({int(patients[row]) for row in rows}) == 25
        for row in rows:
            assert int(((labels == labels[row]) & (patients != patients[row])).sum()) >= 6
    assert all(training[0][a] == held_out[0][b] for a, b in pairs)
    everyone = matched_prompts(training, held_out, most=10**6, least=1, seed=0)
    assert 25 < len(everyone) <= 40
    assert matched_prompts(training, held_out, most=25, least=60, seed=3) == []
