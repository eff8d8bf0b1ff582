"""The bootstrap of macro AUROCs: weights against sklearn, width against theory, patients drawn as a whole."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from callbacks.metrics.auroc import multi_label_auroc
from callbacks.metrics.auroc_interval import interval, resampled_macros, weighted_auroc


def binormal(n: int, *, seed: int, findings: int = 1) -> tuple[Tensor, Tensor]:
    """Scores [N,F] that are one deviation higher where labels [N,F] are 1, as half of them are: AUROC .760."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, findings, generator=generator) < 0.5).float()
    return labels + torch.randn(n, findings, generator=generator), labels


@settings(max_examples=50, deadline=None)
@given(n=st.integers(3, 40), levels=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_weighted_auroc_equals_sklearn_with_ties_and_unknown_labels(n: int, levels: int, seed: int):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels, n) / 4
    labels = generator.choice([0.0, 1.0, np.nan], n)
    labels[:2] = [0, 1]
    weights = generator.integers(0, 4, (3, n)).astype(float)
    weights[:, :2] += 1
    got = weighted_auroc(torch.from_numpy(scores), torch.from_numpy(labels), weights=torch.from_numpy(weights))
    known = ~np.isnan(labels)
    for row, value in zip(weights, got, strict=True):
        expected = roc_auc_score(labels[known], scores[known], sample_weight=row[known])
        assert value == pytest.approx(expected, abs=1e-12)


def test_width_is_that_of_hanley_and_mcneil():
    """Their standard error (Radiology 1982, equation 2) of an area of .760 with 200 positives and negatives is .024."""
    widths, held = [], 0
    for seed in range(40):
        scores, labels = binormal(400, seed=seed)
        low, high = interval(resampled_macros([scores], labels, groups=torch.arange(400), min_positives=1)[0])
        widths.append(high - low)
        held += low < 0.7602 < high
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.0238, rel=0.1)
    # Of 40 intervals at 95 %, fewer than 34 hold the true area once in 300 times.
    assert held >= 34


def test_images_of_one_patient_are_drawn_together():
    scores, labels = binormal(100, seed=0, findings=2)
    once = resampled_macros([scores], labels, groups=torch.arange(100), min_positives=1, resamples=150)
    doubled = [x.repeat_interleave(2, dim=0) for x in (scores, labels)]
    groups = torch.arange(100).repeat_interleave(2)
    twice = resampled_macros(doubled[:1], doubled[1], groups=groups, min_positives=1, resamples=150)
    assert torch.allclose(once, twice, atol=1e-12)
    apart = resampled_macros(doubled[:1], doubled[1], groups=torch.arange(200), min_positives=1, resamples=150)
    assert apart.std() < 0.85 * twice.std()


def test_both_sides_get_the_same_draws():
    scores, labels = binormal(200, seed=0)
    generator = torch.Generator().manual_seed(1)
    other = scores + 0.3 * torch.randn(scores.shape, generator=generator)
    groups = torch.arange(200)
    macros = resampled_macros([scores, other], labels, groups=groups, min_positives=1)
    assert torch.equal(macros, resampled_macros([scores, other], labels, groups=groups, min_positives=1))
    low, high = interval(macros[1] / macros[0])
    ratio = (multi_label_auroc(s, labels, min_positives=1).macro for s in (other, scores))
    assert low < next(ratio) / next(ratio) < high
    alone = interval(macros[0])
    assert high - low < 0.6 * (alone[1] - alone[0])


def test_findings_too_rare_for_the_macro_take_no_part_and_none_gives_nan():
    scores, labels = binormal(60, seed=0, findings=2)
    labels[:, 1] = 0
    labels[0, 1] = 1
    groups = torch.arange(60)
    both = resampled_macros([scores], labels, groups=groups, min_positives=5, resamples=50)
    first = resampled_macros([scores[:, :1]], labels[:, :1], groups=groups, min_positives=5, resamples=50)
    assert torch.equal(both, first)
    none = resampled_macros([scores], labels, groups=groups, min_positives=50, resamples=50)
    assert none.shape == (1, 50)
    assert math.isnan(interval(none[0])[0])
