"""AUROC over several findings: by hand, against sklearn, and in draws of patients."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from callbacks.metrics.pooled_auroc import pooled_auroc, resampled_pooled

NAN = torch.nan


def test_pairs_of_one_finding_count_and_no_others():
    # Finding 0: of 2 × 2 pairs 3 are in order. Finding 1: its one pair is tied. Finding 2: no pair.
    scores = torch.tensor([[3.0, 90.0, 1.0], [1.0, 90.0, 2.0], [2.0, 0.0, 3.0], [0.0, 0.0, 4.0]])
    labels = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, NAN, NAN], [0.0, NAN, NAN]])
    assert pooled_auroc(scores, labels).tolist() == [pytest.approx(3.5 / 5)]
    assert pooled_auroc(scores[:, 2:], labels[:, 2:]).isnan().all()


def test_one_finding_gives_its_auroc_and_a_weight_stands_for_copies():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(40, 2, generator=generator), (torch.rand(40, 2, generator=generator) < 0.4).float()
    alone = pooled_auroc(scores[:, :1], labels[:, :1]).item()
    assert alone == pytest.approx(roc_auc_score(labels[:, 0].numpy(), scores[:, 0].numpy()))
    weights = torch.ones(1, 40, dtype=torch.float64)
    weights[0, 3], weights[0, 7] = 3, 0
    rows = [i for i in range(40) for _ in range(int(weights[0, i]))]
    expected = pooled_auroc(scores[rows], labels[rows])
    assert torch.allclose(pooled_auroc(scores, labels, weights=weights), expected)


def test_score_sets_get_the_same_draws_of_patients():
    generator = torch.Generator().manual_seed(1)
    scores, labels = torch.randn(30, 2, generator=generator), (torch.rand(30, 2, generator=generator) < 0.5).float()
    groups = torch.arange(30) // 3
    first, second = resampled_pooled([scores, 2 * scores], [labels, labels], groups=groups, resamples=150)
    assert torch.equal(first, second)
    assert first.shape == (150,)
    assert first.std() > 0.01
    one_patient = resampled_pooled([scores], [labels], groups=torch.zeros(30, dtype=torch.int64), resamples=5)
    assert torch.allclose(one_patient[0], pooled_auroc(scores, labels).expand(5))
