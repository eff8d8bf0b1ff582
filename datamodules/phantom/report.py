"""The radiologist of the phantom: a report and the 14 labels from a study's findings.

Every word is true to the picture: side, zone and severity come from the finding that is drawn. What varies is how it is
said: paraphrase, order of modifiers and sentences, negation, uncertainty, what normal anatomy is mentioned, and now and
then an indication or a comparison that says nothing about this picture.
"""

import numpy as np

from datamodules.phantom.normals import IMPRESSIONS, NEGATIVE, NORMAL, PAIRS, SETTING
from datamodules.phantom.pathology import fracture_point
from datamodules.phantom.phrases import CERTAIN, DEVICES, HEDGED
from datamodules.phantom.study import Finding, Study, stream
from datamodules.phantom.thorax import make_shape
from datamodules.reports.labels import FINDINGS

WORDS = (25, 70)  # of the FINDINGS section
# How often a report denies what is not there, where it is not one of the rarer 0.3.
MENTIONED = {"Pneumothorax": 0.75, "Pleural Effusion": 0.75, "Consolidation": 0.6}
RIB_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
SIZE_WORDS = {
    "small": ("small", "small", "tiny"),
    "moderate": ("moderate", "moderate-sized", "moderate"),
    "large": ("large", "large", "sizeable"),
    "mild": ("mild", "mild", "minimal", "slight"),
    "severe": ("severe", "marked", "extensive"),
}


def study_labels(study: Study) -> np.ndarray:
    """The labels that the report states.

    Returns:
        float32 [14] in the order of FINDINGS: 1 where the report says present, -1 where it hedges, else 0, since what
        is absent from a phantom is known to be absent. As in CheXpert's labeler, "No Finding" is 1 where nothing is
        present or suspected apart from support devices.
    """
    labels = np.zeros(len(FINDINGS), np.float32)
    for finding in study.findings:
        number = FINDINGS.index(finding.label)
        labels[number] = 1 if finding.certain or labels[number] == 1 else -1
    sick = [f for f in study.findings if f.label != "Support Devices"]
    labels[FINDINGS.index("No Finding")] = 0 if sick else 1
    return labels


def report(study: Study) -> str:
    """The whole report: "FINDINGS: …" and "IMPRESSION: …", sometimes after an indication and a comparison."""
    rng = stream(study.seed, study.index, "report")
    sections = []
    if rng.random() < 0.35:
        sections.append("INDICATION: " + _indication(rng, study))
    if rng.random() < 0.3:
        sections.append("COMPARISON: " + _pick(rng, SETTING["comparison"]))
    sections.append("FINDINGS: " + " ".join(_findings(rng, study)))
    sections.append("IMPRESSION: " + " ".join(_impression(rng, study)))
    return "\n".join(sections)


def describe(rng: np.random.Generator, finding: Finding, *, study: Study) -> str:
    """One sentence on one finding."""
    if finding.label == "Support Devices":
        return _say(rng, _pick(rng, DEVICES[finding.word]), finding, study)
    key = "rib fracture" if finding.label == "Fracture" else finding.word
    return _say(rng, _pick(rng, (CERTAIN if finding.certain else HEDGED)[key]), finding, study)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _say(rng: np.random.Generator, template: str, finding: Finding, study: Study) -> str:
    """Fill a template's slots; {a:…} words agree in number where a finding is on both sides."""
    both = finding.side == "bilateral"
    side = _pick(rng, ("bilateral", "bilateral", "both")) if both else (finding.side or "")
    place = {"apex": "apical", "mid": "mid", "lateral": "lateral"}.get(finding.zone or "", finding.zone or "")
    text = template.format(
        sev=_pick(rng, SIZE_WORDS[finding.severity]) if finding.severity else "",
        side="bilateral" if both else side,
        sides="both" if both else f"the {side}",
        zone=place,
        s="s" if both else "",
        y="ies" if both else "y",
        a="" if both else "a ",
        an="" if both else "an ",
        there="There are" if both else "There is",
        is_="are" if both else "is",
        has="have" if both else "has",
        lobe=_lobe(finding),
        cm=f"{1.4 + 4.4 * finding.size:.1f}",
        rib=RIB_WORDS[fracture_point(study, make_shape(study), finding)[2]] if finding.label == "Fracture" else "",
    )
    text = " ".join(text.split())
    return text[0].upper() + text[1:]


def _lobe(finding: Finding) -> str:
    if finding.side == "bilateral":
        return {"lower": "both lower lobes", "upper": "both upper lobes"}.get(finding.zone or "", "both mid lungs")
    if finding.zone == "upper":
        return f"the {finding.side} upper lobe"
    if finding.zone == "lower":
        return f"the {finding.side} lower lobe"
    return "the right middle lobe" if finding.side == "right" else "the left mid lung"


def _indication(rng: np.random.Generator, study: Study) -> str:
    who = f"{study.age}-year-old {'female' if study.sex == 'F' else 'male'}"
    return f"{who} with {_pick(rng, SETTING['reason'])}."


def _findings(rng: np.random.Generator, study: Study) -> list[str]:
    """The sentences of the section, 25 to 70 words together."""
    devices = [describe(rng, f, study=study) for f in study.findings if f.label == "Support Devices"]
    positive = [describe(rng, f, study=study) for f in study.findings if f.label != "Support Devices"]
    rng.shuffle(positive)
    rest = _absent(rng, study)
    kept: list[str] = []
    count = sum(len(s.split()) for s in devices + positive)
    wanted = int(rng.integers(WORDS[0], WORDS[1] - 10))
    for sentence in rest:
        words = len(sentence.split())
        if count + words <= WORDS[1] and (count < wanted or len(kept) < 2):
            kept.append(sentence)
            count += words
    if count <= WORDS[1] - 8 and rng.random() < 0.15:
        kept.insert(0, _pick(rng, SETTING["technique"]))
    body = kept + positive if rng.random() < 0.25 else positive + kept
    if rng.random() < 0.25:
        rng.shuffle(body)
    return devices + body if rng.random() < 0.7 else body + devices


def _absent(rng: np.random.Generator, study: Study) -> list[str]:
    """Sentences on what is not there and what is normal, the usual ones first; none contradicts the study."""
    present = {f.label for f in study.findings}
    if present & {"Consolidation", "Lung Opacity", "Pneumonia"}:
        present |= {"Consolidation", "Lung Opacity", "Pneumonia"}
    likely: list[str] = []
    spare: list[str] = []
    denied: set[tuple[str, ...]] = set()
    for labels, options in PAIRS:
        if not present & set(labels) and rng.random() < 0.6:
            likely.append(_pick(rng, options))
            present |= set(labels)
            break
    for label, options in NEGATIVE.items():
        if label not in present:
            usual = rng.random() < MENTIONED.get(label, 0.3)
            (likely if usual else spare).append(_pick(rng, options))
            if usual:
                denied.add((label,))
    for needs, options in NORMAL:
        if not has_any(study, needs) and needs not in denied:  # "no cardiomegaly" and "normal heart size" say the same
            (likely if rng.random() < 0.65 else spare).append(_pick(rng, options))
    rng.shuffle(likely)
    rng.shuffle(spare)
    return likely + spare


def has_any(study: Study, labels: tuple[str, ...]) -> bool:
    """Whether the study has one of the labels ("*" = any but support devices)."""
    return any(f.label in labels or ("*" in labels and f.label != "Support Devices") for f in study.findings)


def _impression(rng: np.random.Generator, study: Study) -> list[str]:
    sick = [f for f in study.findings if f.label != "Support Devices"]
    if not sick:
        return [_pick(rng, IMPRESSIONS["normal"])]
    lines = []
    for finding in sick:
        phrase = _pick(rng, IMPRESSIONS["certain" if finding.certain else "hedged"])
        lines.append(_say(rng, phrase.replace("{what}", _short(finding)), finding, study))
    if len(lines) > 1 and rng.random() < 0.5:
        lines = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
    return lines


def _short(finding: Finding) -> str:
    """The finding as a noun phrase with slots."""
    return {
        "Pleural Effusion": "{sev} {side} pleural effusion{s}",
        "Pneumothorax": "{sev} {side} pneumothorax",
        "Consolidation": "{side} {zone} lung consolidation",
        "Lung Opacity": "{side} {zone} lung opacit{y}",
        "Pneumonia": "{side} {zone} lung pneumonia",
        "Atelectasis": "{side} basilar atelectasis",
        "Edema": "{sev} pulmonary edema",
        "Cardiomegaly": "{sev} cardiomegaly",
        "Enlarged Cardiomediastinum": "widened mediastinum",
        "Lung Lesion": f"{{side}} {{zone}} lung {finding.word}",
        "Fracture": "{side} {rib} rib fracture",
        "Pleural Other": "{side} {zone} pleural thickening",
    }[finding.label]
