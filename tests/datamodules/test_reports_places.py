"""Sides of findings: what is named, implied by a place, shared with a neighbour, or taken from the sentence before."""

import pytest

from datamodules.reports.mentions import extract

# Sentence → side of each pathology, in order.
CASES = {
    "Low lung volumes with bibasilar atelectasis, left worse than right.": [None, "bilateral"],
    "Streaky opacities at both lung bases, likely atelectasis.": ["bilateral", "bilateral"],
    "Minimal left basilar and lingular atelectasis.": ["left"],
    "Subsegmental atelectasis in the right midlung and left base.": ["bilateral"],
    "Airspace disease in the right middle lobe and lingula.": ["bilateral"],
    "Right-sided pleural effusion, small; left lung clear.": ["right"],
    "Left upper lobe mass with adjacent atelectasis and small effusion.": ["left", "left", "left"],
    "Consolidation within the right lower lobe with small parapneumonic effusion.": ["right", "right"],
    "Patchy opacity in the medial right lung base, which may be atelectasis or early infiltrate.": [
        "right",
        "right",
        "right",
    ],
    "Retrocardiac airspace disease on the left.": ["left"],
    "There is a nodular density projected over the left 6th rib.": ["left"],
    "Pleural effusion, left greater than right.": ["bilateral"],
    "Scarring in the right apex and left base is unchanged.": ["bilateral"],
    "Opacity overlying the right hilum on the frontal view.": ["right"],
    "The right costophrenic angle is blunted, possibly a small effusion.": ["right", "right"],
    "There is right basilar atelectasis. Left lung is clear.": ["right"],
    "Left hemithorax volume loss with left basilar opacity and effusion.": ["left", "left", "left"],
    "Bilateral lower lobe airspace disease, right greater than left, compatible with pneumonia.": [
        "bilateral",
        "bilateral",
    ],
    "XXXX opacities in the left midlung and right base, XXXX scarring.": ["bilateral", "bilateral"],
    "Small amount of fluid in the right pleural space.": ["right"],
    "There is a small amount of pleural fluid on the left.": ["left"],
    "A 5 mm nodule projects over the right lung apex.": ["right"],
    "Infiltrate seen in the lateral left lower lobe on PA view.": ["left"],
    "Dense left lower lobe consolidation and effusion.": ["left", "left"],
    "Right apical pneumothorax measures 2 cm; left chest tube in place.": ["right", "left"],
    "Opacities are seen bilaterally, more confluent in the right upper lobe.": ["bilateral"],
    "Atelectatic changes at the bases.": ["bilateral"],
    "Focal airspace opacity, right upper lobe.": ["right"],
    "Pneumonia, left lower lobe.": ["left"],
    "Small nodules scattered throughout both lungs.": ["bilateral"],
    "Moderate effusion, right.": ["right"],
    "Effusion bilaterally with left lower lobe atelectasis.": ["bilateral", "left"],
    "Left base airspace disease. May be atelectasis.": ["left", "left"],
    "Right basilar opacity. This may represent pneumonia.": ["right", "right"],
    "Elevated right hemidiaphragm with atelectasis at the right base.": ["right", "right"],
    "Interval improvement in right lung airspace disease with residual left base opacity.": ["right", "left"],
    "In the left lower lobe there is patchy consolidation.": ["left"],
    "On the right there is a small effusion and on the left there is atelectasis.": ["right", "left"],
    "Left pleural effusion and right-sided atelectasis.": ["left", "right"],
    "Opacity posteriorly on the lateral view, probably in the left lower lobe.": ["left"],
    "The left lower lobe has patchy opacity.": ["left"],
    "Bibasilar subsegmental atelectasis and small right effusion.": ["bilateral", "right"],
    "Mild streaky basilar opacities bilaterally.": ["bilateral"],
    "There is airspace opacity within the lateral segment of the right middle lobe.": ["right"],
    "Posterior costophrenic sulcus blunting on the left.": ["left"],
    "Left mid and lower lung zone opacities.": ["left"],
    "Right infrahilar opacity, vascular crowding versus early pneumonia.": ["right", "right"],
    "Mild left lateral pleural thickening.": ["left"],
    "Loculated right effusion with overlying atelectasis/consolidation.": ["right", "right", "right"],
    "Calcified granuloma, right lower lobe, unchanged.": ["right"],
}


@pytest.mark.parametrize("text", CASES)
def test_sides(text: str) -> None:
    assert [m.side for m in extract(text) if m.kind == "pathology"] == CASES[text]
