"""Probes against sklearn, their symmetry, halves of images, and what reports state."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from callbacks.metrics.probes import completed_halves, fit_probe
from callbacks.metrics.stated import QUESTIONS, stated
from datamodules.reports.labels import FINDINGS


def cases(n: int = 120, d: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) + 3
    labels = ((rows - 3) @ torch.ones(d) + 8 * torch.randn(n, generator=generator) > 1).float()
    return rows, labels


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("strength", [0.003, 0.3])
def test_a_probe_is_sklearn_s_regression(odd: bool, strength: float):
    rows, labels = cases()
    probe = fit_probe(rows, labels, odd=odd, strength=strength)
    middle = torch.zeros(7) if odd else rows.mean(0)
    scale = (rows - middle).square().mean(0).sqrt()
    reference = LogisticRegression(C=1 / (strength * len(rows)), fit_intercept=not odd, tol=1e-10, max_iter=10_000)
    reference.fit(((rows - middle) / scale).double().numpy(), labels.numpy())
    expected = torch.from_numpy(reference.decision_function(((rows - middle) / scale).double().numpy()))
    assert torch.allclose(probe.scores(rows), expected, atol=1e-4)


def test_an_odd_probe_answers_the_mirrored_row_with_the_other_sign():
    rows, labels = cases()
    probe = fit_probe(rows, labels, odd=True)
    assert probe.bias == 0
    assert torch.equal(probe.scores(-rows), -probe.scores(rows))


def test_a_feature_that_never_changes_has_no_say_and_one_class_is_refused():
    rows, labels = cases()
    rows[:, 2] = 5.0
    other = rows.clone()
    other[:, 2] = 900.0
    probe = fit_probe(rows, labels, odd=False)
    assert torch.allclose(probe.scores(other), probe.scores(rows))
    with pytest.raises(ValueError, match=r"labels of a probe are \[1\.0\]; expected both 0 and 1"):
        fit_probe(rows, torch.ones(len(rows)), odd=False)


@pytest.mark.parametrize("width", [4, 5])
def test_halves_are_symmetric_and_change_places_when_the_image_is_mirrored(width: int):
    images = torch.arange(2.0 * 3 * width).view(2, 1, 3, width)
    first, second = completed_halves(images)
    assert first[0, 0, 0].tolist() == ([0, 1, 1, 0] if width == 4 else [0, 1, 2, 1, 0])
    assert second[0, 0, 0].tolist() == ([3, 2, 2, 3] if width == 4 else [4, 3, 2, 3, 4])
    mirrored = completed_halves(images.flip(-1))
    assert torch.equal(mirrored[0], second)
    assert torch.equal(mirrored[1], first)
    assert torch.equal(first.flip(-1), first)


@pytest.mark.parametrize(
    ("report", "finding", "side", "severity"),
    [
        ("Small left pleural effusion.", "Pleural Effusion", 1.0, 0.0),
        ("There is a large right pneumothorax.", "Pneumothorax", 0.0, 1.0),
        ("Small left pleural effusion. The left effusion is unchanged.", "Pleural Effusion", 1.0, 0.0),
        ("Small bilateral pleural effusions.", "Pleural Effusion", None, 0.0),
        ("Left pleural effusion. Large right pleural effusion.", "Pleural Effusion", None, 1.0),
        ("Small left pleural effusion. Large right pleural effusion.", "Pleural Effusion", None, None),
        ("Moderate cardiomegaly.", "Cardiomegaly", None, None),
        ("Severe cardiomegaly.", "Cardiomegaly", None, 1.0),
        ("Possible small left pleural effusion.", "Pleural Effusion", None, None),
        ("No left pleural effusion.", "Pleural Effusion", None, None),
        ("Left pleural effusion. No right pleural effusion.", "Pleural Effusion", 1.0, None),
    ],
)
def test_reports_state_one_side_and_one_degree_or_nothing(
    report: str, finding: str, side: float | None, severity: float | None
):
    answers = stated(report)
    assert answers.shape == (len(QUESTIONS), len(FINDINGS))
    found = [None if value.isnan() else value.item() for value in answers[:, FINDINGS.index(finding)]]
    assert found == [side, severity]
    others = [f for f in range(len(FINDINGS)) if f != FINDINGS.index(finding)]
    assert answers[:, others].isnan().all()
