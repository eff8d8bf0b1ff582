"""Membership inference and own images: hand-computed cases and chance."""

import torch
from sklearn.metrics import roc_auc_score

from callbacks.metrics.memorisation import membership, own_nearer


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
