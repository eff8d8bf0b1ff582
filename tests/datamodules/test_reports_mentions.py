"""Mention extraction: hand-made sentences, labels, spans, and the phantom grammar against its own labels."""

import time

import numpy as np
import pytest

from datamodules.phantom.report import report, study_labels
from datamodules.phantom.study import study
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import extract, labels_of
from datamodules.reports.phrases import lexicon
from datamodules.reports.sections import choose, split_sections
from tests.datamodules.readings import pathologies

# Sentence → (word, status, side, severity) of each pathology, in order.
CASES = {
    "Moderate left pleural effusion and small right pleural effusion.": [
        ("pleural effusion", "present", "left", "moderate"),
        ("pleural effusion", "present", "right", "small"),
    ],
    "No pneumothorax, small left effusion.": [
        ("pneumothorax", "absent", None, None),
        ("pleural effusion", "present", "left", "small"),
    ],
    "No pneumothorax, pleural effusion, or consolidation.": [
        ("pneumothorax", "absent", None, None),
        ("pleural effusion", "absent", None, None),
        ("consolidation", "absent", None, None),
    ],
    "The heart is mildly enlarged.": [("cardiomegaly", "present", None, "mild")],
    "The cardiac silhouette is not enlarged.": [("cardiomegaly", "absent", None, None)],
    "There is no evidence the heart is enlarged.": [("cardiomegaly", "absent", None, None)],
    "No evidence that the heart is enlarged. The lungs are hyperinflated.": [
        ("cardiomegaly", "absent", None, None),
        ("hyperinflation", "present", None, None),
    ],
    "There is no evidence that the effusion is large and the heart is enlarged.": [
        ("pleural effusion", "absent", None, "large"),
        ("cardiomegaly", "present", None, None),
    ],
    "Low lung volumes.": [("hypoinflation", "present", None, None)],
    "Lung volumes are low without effusion.": [
        ("hypoinflation", "present", None, None),
        ("pleural effusion", "absent", None, None),
    ],
    "The mediastinum is widened.": [("widened mediastinum", "present", None, None)],
    "Heart size and mediastinal contours are within normal limits.": [
        ("cardiomegaly", "absent", None, None),
        ("widened mediastinum", "absent", None, None),
    ],
    "The heart size is upper limits of normal.": [("cardiomegaly", "absent", None, None)],
    "Borderline heart size.": [("cardiomegaly", "uncertain", None, None)],
    "Left lower lobe opacity, which may represent pneumonia.": [
        ("opacity", "present", "left", None),
        ("pneumonia", "uncertain", "left", None),
    ],
    "Opacity in the left lung and right effusion.": [
        ("opacity", "present", "left", None),
        ("pleural effusion", "present", "right", None),
    ],
    "Pneumonia cannot be excluded.": [("pneumonia", "uncertain", None, None)],
    "Cannot exclude a small left pneumothorax.": [("pneumothorax", "uncertain", "left", "small")],
    "No change in left pleural effusion.": [("pleural effusion", "present", "left", None)],
    "Bibasilar atelectasis.": [("atelectasis", "present", "bilateral", None)],
    "Effusion and atelectasis at the left base.": [
        ("pleural effusion", "present", "left", None),
        ("atelectasis", "present", "left", None),
    ],
    "Small pleural effusions, left greater than right.": [("pleural effusion", "present", "bilateral", "small")],
    "No effusion but moderate right pneumothorax is present.": [
        ("pleural effusion", "absent", None, None),
        ("pneumothorax", "present", "right", "moderate"),
    ],
    "Pleural effusion has resolved.": [("pleural effusion", "absent", None, None)],
    "Possible small left pneumothorax.": [("pneumothorax", "uncertain", "left", "small")],
    "Atelectasis versus pneumonia at the right base.": [
        ("atelectasis", "uncertain", "right", None),
        ("pneumonia", "uncertain", "right", None),
    ],
    "Enlarged cardiac silhouette with severe pulmonary edema.": [
        ("cardiomegaly", "present", None, None),
        ("pulmonary edema", "present", None, "severe"),
    ],
    "Pneumonia is unlikely.": [("pneumonia", "absent", None, None)],
    "History of pneumonia. Lungs are clear.": [],
    "Evaluate for pneumothorax.": [],
    "The left effusion is small.": [("pleural effusion", "present", "left", "small")],
    "In the right lung there is an opacity.": [("opacity", "present", "right", None)],
    "A pacemaker overlies the left chest wall.": [("pacemaker", "present", "left", None)],
    "No focal airspace disease to suggest pneumonia.": [
        ("opacity", "absent", None, None),
        ("pneumonia", "absent", None, None),
    ],
    "No consolidation; large right effusion.": [
        ("consolidation", "absent", None, None),
        ("pleural effusion", "present", "right", "large"),
    ],
    "Pleural effusion or pneumothorax is not seen.": [
        ("pleural effusion", "absent", None, None),
        ("pneumothorax", "absent", None, None),
    ],
    "A small effusion is present and pneumothorax is not seen.": [
        ("pleural effusion", "present", None, "small"),
        ("pneumothorax", "absent", None, None),
    ],
    "The lungs are free of consolidation.": [("consolidation", "absent", None, None)],
    "Marked thickening of the left lateral pleura.": [("pleural thickening", "present", "left", "severe")],
    "Nodule measuring 1.5 cm. No mass.": [("nodule", "present", None, None), ("mass", "absent", None, None)],
    "Scarring rather than pneumonia.": [("scarring", "present", None, None), ("pneumonia", "absent", None, None)],
    "Right chest tube has been removed.": [("chest tube", "absent", "right", None)],
    "No large pleural effusion/pneumothorax.": [
        ("pleural effusion", "absent", None, "large"),
        ("pneumothorax", "absent", None, None),
    ],
    "Lungs are clear except for mild left basilar atelectasis.": [("atelectasis", "present", "left", "mild")],
    "No interval change in the moderate right effusion.": [("pleural effusion", "present", "right", "moderate")],
    "Suspected fracture of the left sixth rib.": [("fracture", "uncertain", "left", None)],
    "Subcutaneous emphysema. No emphysema.": [
        ("subcutaneous emphysema", "present", None, None),
        ("emphysema", "absent", None, None),
    ],
    "Endotracheal tube terminates above the carina.": [("endotracheal tube", "present", None, None)],
    "Without evidence of pneumonia, the heart is enlarged.": [
        ("pneumonia", "absent", None, None),
        ("cardiomegaly", "present", None, None),
    ],
    "XXXX opacity in the right mid lung.": [("opacity", "present", "right", None)],
    "Left hydropneumothorax.": [
        ("pleural effusion", "present", "left", None),
        ("pneumothorax", "present", "left", None),
    ],
    "Moderate left and small right effusions.": [
        ("pleural effusion", "present", "left", "moderate"),
        ("pleural effusion", "present", "right", "small"),
    ],
    "The venous engorgement is within normal limits.": [("vascular congestion", "absent", None, None)],
    "Prominent central pulmonary vasculature.": [("vascular congestion", "present", None, None)],
    "Soft tissue edema.": [],
    "Is there pneumonia?": [],
    "Collapse of the right lower lobe.": [("atelectasis", "present", "right", None)],
    "Atelectasis in the lung bases.": [("atelectasis", "present", "bilateral", None)],
    "Right middle and lower lobe opacities.": [("opacity", "present", "right", None)],
    "Opacity in the lingula, likely scarring.": [
        ("opacity", "present", "left", None),
        ("scarring", "uncertain", "left", None),
    ],
    "Left base opacity. The appearance suggests atelectasis.": [
        ("opacity", "present", "left", None),
        ("atelectasis", "uncertain", "left", None),
    ],
    "Round density in the left lung.": [("nodule", "present", "left", None)],
    "Bone density is normal.": [],
    "Opacity in the left lung seen on both views.": [("opacity", "present", "left", None)],
    "There is a right effusion. In the right clinical setting this is pneumonia.": [
        ("pleural effusion", "present", "right", None),
        ("pneumonia", "present", None, None),
    ],
    "The heart does not appear to be enlarged.": [("cardiomegaly", "absent", None, None)],
    "The opacity no longer appears to be a nodule.": [
        ("opacity", "present", None, None),
        ("nodule", "absent", None, None),
    ],
    "Tortuosity of the descending thoracic aorta.": [("tortuous aorta", "present", None, None)],
    "The aorta is mildly tortuous and calcified.": [
        ("tortuous aorta", "present", None, "mild"),
        ("atherosclerosis", "present", None, None),
    ],
    "Calcified, tortuous aorta.": [
        ("atherosclerosis", "present", None, None),
        ("tortuous aorta", "present", None, None),
    ],
    "Heart size is enlarged, pulmonary vascularity within normal limits.": [("cardiomegaly", "present", None, None)],
    "Heart size is enlarged and pulmonary vascularity is normal.": [("cardiomegaly", "present", None, None)],
    "Calcification of the aortic valve.": [],
    "Calcified right hilar lymph nodes.": [("calcified lymph node", "present", "right", None)],
    "Postsurgical changes of the left breast.": [("postsurgical change", "present", "left", None)],
    "Mild levocurvature and endplate spurring.": [
        ("scoliosis", "present", None, "mild"),
        ("degenerative change", "present", None, None),
    ],
}


@pytest.mark.parametrize("text", CASES)
def test_status_side_and_severity_of_hand_made_sentences(text: str) -> None:
    assert pathologies(text) == CASES[text]


def test_spans_are_the_phrase_in_the_text() -> None:
    text = "Stable.\n  Tiny LEFT Pleural-Effusions at the base."
    mention = next(m for m in extract(text) if m.kind == "pathology")
    assert text[mention.start : mention.end] == "Pleural-Effusions"
    assert (mention.label, mention.sentence) == ("Pleural Effusion", 1)


def test_anatomy_carries_its_side() -> None:
    words = [
        m.word for m in extract("Opacity in the right lower lobe; the left hemidiaphragm and the heart are normal.")
    ]
    assert words == ["opacity", "right lower lobe", "left hemidiaphragm", "heart", "cardiomegaly"]


def test_zone_is_that_of_the_place_named() -> None:
    text = "Bibasilar atelectasis and left apical scarring. Right upper lobe nodule. Effusion. Opacity in the lingula."
    found = [(m.word, m.zone) for m in extract(text) if m.kind == "pathology"]
    assert found == [
        ("atelectasis", "base"),
        ("scarring", "apex"),
        ("nodule", "upper"),
        ("pleural effusion", None),
        ("opacity", "mid"),
    ]
    assert next(m.zone for m in extract("The right lower lobe is clear.") if m.kind == "anatomy") == "lower"


def test_repeated_sentences_keep_their_own_place() -> None:
    text = "No edema. Left effusion. No edema."
    found = [(m.start, m.sentence) for m in extract(text) if m.word == "pulmonary edema"]
    assert found == [(3, 0), (28, 2)]


def test_labels_take_the_surest_status() -> None:
    labels = dict(
        zip(FINDINGS, labels_of("Possible effusion. Small effusion. No edema. Questionable nodule."), strict=True)
    )
    assert labels["Pleural Effusion"] == 1
    assert labels["Edema"] == 0
    assert labels["Lung Lesion"] == -1
    assert labels["No Finding"] == 0
    assert np.isnan(labels["Fracture"])


def test_support_devices_alone_are_no_finding_and_an_empty_report_is_unknown() -> None:
    labels = dict(zip(FINDINGS, labels_of("Endotracheal tube in place. No effusion."), strict=True))
    assert (labels["No Finding"], labels["Support Devices"]) == (1, 1)
    assert np.isnan(labels_of(" ")).all()


def test_every_label_of_the_lexicon_is_a_finding_and_all_but_no_finding_have_a_word() -> None:
    labels = {e.label for e in lexicon().entities.values() if e.label}
    assert labels == set(FINDINGS[1:])


def test_phantom_reports_give_their_own_labels() -> None:
    found = missed = added = agreed = 0
    mismatches = []
    for index in range(600):
        one = study(11, index)
        text, _ = choose(split_sections(report(one)), "findings")
        got = np.nan_to_num(labels_of(text), nan=0.0)
        want = study_labels(one)
        both = (got != 0) & (want != 0)
        found += int(both.sum())
        agreed += int((got == want)[both].sum())
        missed += int(((got == 0) & (want != 0)).sum())
        added += int(((got != 0) & (want == 0)).sum())
        mismatches += [(FINDINGS[k], got[k], want[k], text) for k in np.flatnonzero(got != want)]
    assert 2 * found / (2 * found + missed + added) >= 0.99, mismatches[:5]
    assert agreed / found >= 0.99, mismatches[:5]  # present or uncertain, as the study is


def test_speed_allows_a_large_archive() -> None:
    # Reports that differ: sentences that were read once are remembered.
    texts = [report(study(11, index)) for index in range(300)]
    extract(texts[0])
    start = time.process_time()
    for text in texts:
        extract(text)
    # 5,000 reports/s were measured on one Zen 4 core; a tenth leaves room for slow machines.
    assert 300 / (time.process_time() - start) > 500
