"""Idioms of hospital dictation that the rules once misread: each pathology's word, status, side and severity."""

import numpy as np
import pytest

from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import labels_of
from tests.datamodules.readings import pathologies

CASES = {
    "Left base opacity is likely atelectasis.": [
        ("opacity", "present", "left", None),
        ("atelectasis", "uncertain", "left", None),
    ],
    "Left base opacity is most likely due to atelectasis.": [
        ("opacity", "present", "left", None),
        ("atelectasis", "uncertain", "left", None),
    ],
    "Bibasilar opacities are likely a combination of atelectasis and effusions.": [
        ("opacity", "present", "bilateral", None),
        ("atelectasis", "uncertain", "bilateral", None),
        ("pleural effusion", "uncertain", "bilateral", None),
    ],
    "A small effusion is likely.": [("pleural effusion", "uncertain", None, "small")],
    "Small pleural effusions are also likely present.": [("pleural effusion", "uncertain", None, "small")],
    "Pneumothorax: none.": [("pneumothorax", "absent", None, None)],
    "Effusions: None": [("pleural effusion", "absent", None, None)],
    "Pneumothorax: No.": [("pneumothorax", "absent", None, None)],
    "Pleura: no effusion or pneumothorax.": [
        ("pleural effusion", "absent", None, None),
        ("pneumothorax", "absent", None, None),
    ],
    "Supine positioning limits detection of a pneumothorax.": [],
    "The supine position reduces sensitivity for small pneumothorax.": [],
    "Right base opacity, ? pneumonia.": [
        ("opacity", "present", "right", None),
        ("pneumonia", "uncertain", "right", None),
    ],
    "?pneumonia": [("pneumonia", "uncertain", None, None)],
    "Is there pneumonia? No effusion.": [("pleural effusion", "absent", None, None)],
    "Tension pneumothorax with leftward mediastinal shift.": [
        ("pneumothorax", "present", None, None),
        ("mediastinal shift", "present", None, None),
    ],
    "Mild left and moderate right basilar atelectasis.": [
        ("atelectasis", "present", "left", "mild"),
        ("atelectasis", "present", "right", "moderate"),
    ],
    "Small left and moderate right layering effusions.": [
        ("pleural effusion", "present", "left", "small"),
        ("pleural effusion", "present", "right", "moderate"),
    ],
    "Right upper and left lower lobe opacities.": [("opacity", "present", "bilateral", None)],
    "Effusions are small if present.": [("pleural effusion", "uncertain", None, "small")],
    "Right opacity is pneumonia until proven otherwise.": [
        ("opacity", "present", "right", None),
        ("pneumonia", "uncertain", "right", None),
    ],
    "The heart size may be accentuated by low lung volumes.": [("hypoinflation", "present", None, None)],
    "Cardiac enlargement, mild.": [("cardiomegaly", "present", None, "mild")],
    "Enlarged cardiac silhouette, moderate in degree.": [("cardiomegaly", "present", None, "moderate")],
    "left pleural effusion, small": [("pleural effusion", "present", "left", "small")],
    "Pleural effusion: small left.": [("pleural effusion", "present", "left", "small")],
    "Question left basilar atelectasis.": [("atelectasis", "uncertain", "left", None)],
    "Left IJ dual-lumen catheter is visualized without pneumothorax.": [
        ("central venous catheter", "present", "left", None),
        ("pneumothorax", "absent", None, None),
    ],
    "Minimal degenerative disc changes.": [("degenerative change", "present", None, "mild")],
    "Findings concerning for aspiration.": [("aspiration", "uncertain", None, None)],
    "Compression deformity of T8.": [("compression deformity", "present", None, None)],
    "Radiopaque densities overlying the patient.": [],
    "Previous granulomatous process.": [("granuloma", "present", None, None)],
    "No pneumothorax, effusion is small.": [
        ("pneumothorax", "absent", None, None),
        ("pleural effusion", "present", None, "small"),
    ],
    "No evidence of effusion, pneumothorax is small.": [
        ("pleural effusion", "absent", None, None),
        ("pneumothorax", "present", None, "small"),
    ],
    "Increased interstitial abnormality.": [("interstitial markings", "present", None, None)],
    "Intra-aortic balloon pump in the descending aorta.": [("support device", "present", None, None)],
}


@pytest.mark.parametrize("text", CASES)
def test_idioms(text: str) -> None:
    assert pathologies(text) == CASES[text]


@pytest.mark.parametrize("text", ["___", "Stable exam.", "PA and lateral views.", "An abnormal study."])
def test_a_text_that_says_nothing_known_is_not_normal(text: str) -> None:
    assert np.isnan(labels_of(text)).all()


@pytest.mark.parametrize(
    "text",
    [
        "No acute cardiopulmonary abnormality.",
        "Unremarkable.",
        "Lungs are clear.",
        "There is no evidence of active disease.",
        "Chest tube in place.",
    ],
)
def test_a_text_that_calls_the_study_normal_is(text: str) -> None:
    assert labels_of(text)[FINDINGS.index("No Finding")] == 1
