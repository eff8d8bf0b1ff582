"""AUROC against sklearn, ties, unknown labels and the macro's rule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from callbacks.metrics.auroc import ScoreBank, binary_auroc, multi_label_auroc


def test_binary_auroc_by_hand():
    # Pairs (positive, negative): .8>.1, .8>.4, .4>.1, .4=.4 (a half): 3.5 of 4.
    assert binary_auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1])) == 0.875
    assert math.isnan(binary_auroc(torch.tensor([0.1, 0.4]), torch.tensor([1, 1])))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 60), levels=st.integers(1, 9), seed=st.integers(0, 10_000))
def test_binary_auroc_equals_sklearn_with_ties(n: int, levels: int, seed: int):
    generator = np.random.default_rng(seed)
    scores, labels = generator.integers(0, levels, n) / 4, generator.integers(0, 2, n)
    labels[:2] = [0, 1]
    got = binary_auroc(torch.from_numpy(scores), torch.from_numpy(labels))
    assert got == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_unknown_labels_are_left_out_and_rare_findings_are_not_in_the_macro():
    nan = math.nan
    labels = torch.tensor([[1, 1, 0], [0, 0, 0], [nan, 0, 0], [1, 0, nan], [0, nan, 0]])
    scores = torch.tensor([[0.9, 0.1, 0], [0.2, 0.5, 0], [9, 0.0, 0], [0.1, 0.6, 0], [0.3, 9, 0]])
    result = multi_label_auroc(scores, labels, min_positives=2)
    # Finding 0: .9 beats both negatives, .1 none. Finding 1: one positive, above one of three negatives.
    assert result.per_finding[:2] == pytest.approx((0.5, 1 / 3))
    assert math.isnan(result.per_finding[2])
    assert result.positives == (2, 1, 0)
    assert result.negatives == (2, 3, 4)
    assert result.included == (True, False, False)
    assert result.macro == 0.5
    assert multi_label_auroc(scores, labels, min_positives=1).macro == pytest.approx((0.5 + 1 / 3) / 2)
    assert math.isnan(multi_label_auroc(scores, labels, min_positives=3).macro)


def test_bank_counts_an_image_once_and_names_a_wrong_label():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(20, 3, generator=generator), torch.randint(0, 2, (20, 3), generator=generator).float()
    ids, patients = [f"i{k}" for k in range(20)], [f"p{k // 2}" for k in range(20)]
    metric = ScoreBank(3)
    metric.add(scores[:12], labels[:12], ids=ids[:12], patients=patients[:12])
    metric.add(scores[10:], labels[10:], ids=ids[10:], patients=patients[10:])
    rows = metric.gathered()
    assert rows.repeated == 2
    assert len(rows.patients) == 20
    assert len(rows.patients.unique()) == 10
    result = multi_label_auroc(rows.scores, rows.labels, min_positives=1, repeated=rows.repeated)
    assert (result.n, result.repeated) == (20, 2)
    assert result.macro == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    labels[4, 2] = -1
    with pytest.raises(ValueError, match="image i4: label 2 is -1; expected 1, 0 or NaN"):
        metric.add(scores, labels, ids=ids, patients=patients)
