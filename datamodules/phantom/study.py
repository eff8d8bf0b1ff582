"""What a phantom study is: patient, anatomy, acquisition and findings, drawn from (seed, index) alone.

`study(seed, index)` is a pure function: nothing but the two numbers enters, so every worker, rank and machine draws the
same study. Studies 2k and 2k+1 belong to one patient: they share anatomy and sex, age by a year or two, and differ in
acquisition and findings. Lengths are fractions of the image side; x grows to the image's right, which is the patient's
left, y grows downwards, and (0, 0) is the middle of the top edge of an unshifted image.
"""

import dataclasses
from typing import Literal

import numpy as np

Side = Literal["left", "right", "bilateral"]

STREAMS = {"patient": 0, "acquisition": 1, "findings": 2, "texture": 3, "report": 4, "noise": 5}
ZONES: dict[str, tuple[float, float]] = {
    "apex": (0.08, 0.14),
    "upper": (0.22, 0.36),
    "mid": (0.44, 0.58),
    "lower": (0.66, 0.80),
    "base": (0.86, 0.92),
}
MOST_FINDINGS = 5


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What the two studies of a patient share. Lengths in fractions of the image side."""

    width: float  # half-width of the rib cage
    apex: float  # y of the lung apices
    dome: float  # y of the right hemidiaphragm's dome
    dome_step: float  # how much lower the left dome is
    recess: float  # how far the costophrenic angles lie under the domes
    habitus: float  # soft tissue thickness, 1 = average
    breast: float  # 0 in men, else size
    heart_ratio: float  # cardiothoracic ratio without findings
    heart_shear: float
    mediastinum: float  # half-width of the upper mediastinum
    knob: float  # radius of the aortic knob
    rib_gap: float
    rib_drop: float
    bone: float  # bone density, 1 = average
    vessels: float
    clavicle: float  # y of the sternal ends of the clavicles, relative to the apices
    spine_bend: float


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """What each exposure has of its own."""

    zoom: float
    shift_x: float
    shift_y: float
    tilt: float  # radians, in the image plane
    turn: float  # rotation about the long axis, -1 .. 1
    inspiration: float  # added to the domes' y
    magnification: float  # of the heart and mediastinum, > 1 in AP views
    low: float  # window
    high: float
    gamma: float
    grain: float  # noise, in grey levels at 256 px
    edges: tuple[float, float, float, float]  # collimated margins: left, top, right, bottom
    collimator: float  # angle of the collimator, radians
    marker: str  # "", "L" or "R"
    marker_x: float
    marker_y: float
    bubble: float  # radius of the stomach bubble, 0 = none
    arms: float  # how far the upper arms are held from the trunk


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that the picture shows and the report says.

    Attributes:
        label: one of `FINDINGS`.
        word: what it is called, e.g. "pleural effusion" or "endotracheal tube".
        side: the patient's side; None for what is in the middle.
        zone: "apex", "upper", "mid", "lower", "base", "diffuse" or None.
        severity: "small", "moderate", "large" or "mild", "moderate", "severe".
        size: 0 .. 1, continuous; `severity` is read off it.
        certain: False where the report hedges; what is drawn is then faint.
        along: 0 at the apex .. 1 at the diaphragm, for what has a place in the lung.
        across: 0 at the mediastinum .. 1 at the chest wall.
        variant: 0 .. 1, chooses among shapes.
    """

    label: str
    word: str
    side: Side | None
    zone: str | None
    severity: str
    size: float
    certain: bool
    along: float = 0.5
    across: float = 0.5
    variant: float = 0.5


@dataclasses.dataclass(frozen=True)
class Study:
    """One study of one patient: all that `render`, `masks`, `boxes` and `report` need."""

    seed: int
    index: int
    patient_id: str
    study_id: str
    view: Literal["PA", "AP"]
    age: int
    sex: Literal["F", "M"]
    anatomy: Anatomy
    acquisition: Acquisition
    findings: tuple[Finding, ...]

    def has(self, label: str) -> bool:
        """Whether a finding of that label is present or suspected."""
        return any(f.label == label for f in self.findings)


def stream(seed: int, number: int, name: str) -> np.random.Generator:
    """The independent random stream `name` of patient or study `number`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number, STREAMS[name]])))


def study(seed: int, index: int) -> Study:
    """The study with that number.

    Args:
        seed: of the whole data set, ≥ 0.
        index: of the study, ≥ 0; indices 2k and 2k+1 are one patient.

    Raises:
        ValueError: if either number is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"a phantom study needs seed >= 0 and index >= 0, but got seed {seed} and index {index}")
    patient = index // 2
    rng = stream(seed, patient, "patient")
    female = bool(rng.random() < 0.48)
    age = int(np.clip(rng.normal(58, 17), 18, 93))
    anatomy = _anatomy(rng, female=female, age=age)
    rng = stream(seed, index, "findings")
    age += (index % 2) * int(rng.integers(0, 3))
    findings = _findings(rng, age=age)
    sick = sum(f.label in ("Support Devices", "Edema", "Pneumothorax") for f in findings)
    rng = stream(seed, index, "acquisition")
    view: Literal["PA", "AP"] = "AP" if rng.random() < min(0.2 + 0.3 * sick, 0.85) else "PA"
    return Study(
        seed=seed,
        index=index,
        patient_id=f"phantom-{seed}-p{patient:06d}",
        study_id=f"phantom-{seed}-{index:06d}",
        view=view,
        age=age,
        sex="F" if female else "M",
        anatomy=anatomy,
        acquisition=_acquisition(rng, view=view),
        findings=findings,
    )


def _between(rng: np.random.Generator, mean: float, sd: float, low: float, high: float) -> float:
    return float(np.clip(rng.normal(mean, sd), low, high))


def _anatomy(rng: np.random.Generator, *, female: bool, age: int) -> Anatomy:
    return Anatomy(
        width=_between(rng, 0.345 if female else 0.365, 0.016, 0.31, 0.40),
        apex=_between(rng, 0.105, 0.018, 0.065, 0.145),
        dome=_between(rng, 0.70, 0.032, 0.63, 0.78),
        dome_step=_between(rng, 0.022, 0.010, 0.0, 0.05),
        recess=_between(rng, 0.105, 0.018, 0.07, 0.15),
        habitus=_between(rng, 1.0, 0.12, 0.75, 1.35),
        breast=_between(rng, 0.6, 0.25, 0.15, 1.1) if female else 0.0,
        heart_ratio=_between(rng, 0.452, 0.030, 0.39, 0.515),
        heart_shear=_between(rng, 0.50, 0.10, 0.28, 0.72),
        mediastinum=_between(rng, 0.054, 0.006, 0.042, 0.068),
        knob=_between(rng, 0.030 + 0.00012 * age, 0.004, 0.026, 0.048),
        rib_gap=_between(rng, 0.070, 0.004, 0.060, 0.080),
        rib_drop=_between(rng, 0.115, 0.025, 0.06, 0.17),
        bone=_between(rng, 1.12 - 0.003 * (age - 40) * (1 if age > 40 else 0), 0.14, 0.65, 1.45),
        vessels=_between(rng, 1.0, 0.16, 0.65, 1.4),
        clavicle=_between(rng, 0.075, 0.016, 0.035, 0.11),
        spine_bend=_between(rng, 0.0, 0.012, -0.03, 0.03),
    )


def _acquisition(rng: np.random.Generator, *, view: str) -> Acquisition:
    ap = view == "AP"
    edges = np.where(rng.random(4) < 0.22, rng.uniform(0.01, 0.07, 4), 0.0)
    marker = "" if rng.random() < 0.3 else ("L" if rng.random() < 0.75 else "R")
    low = _between(rng, 0.22, 0.09, 0.02, 0.40)
    return Acquisition(
        zoom=_between(rng, 1.0, 0.05, 0.88, 1.13),
        shift_x=_between(rng, 0.0, 0.016, -0.04, 0.04),
        shift_y=_between(rng, 0.015 if ap else 0.0, 0.022, -0.05, 0.06),
        tilt=_between(rng, 0.0, 0.035 if ap else 0.018, -0.09, 0.09),
        turn=_between(rng, 0.0, 0.45 if ap else 0.22, -1.0, 1.0),
        inspiration=_between(rng, -0.040 if ap else 0.0, 0.02, -0.09, 0.04),
        magnification=_between(rng, 1.09 if ap else 1.0, 0.015, 0.97, 1.13),
        low=low,
        high=low + _between(rng, 1.95, 0.20, 1.5, 2.5),
        gamma=_between(rng, 1.0, 0.11, 0.75, 1.3),
        grain=_between(rng, 2.8 if ap else 1.8, 0.8, 0.6, 5.5),
        edges=(float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3])),
        collimator=_between(rng, 0.0, 0.012, -0.03, 0.03),
        marker=marker,
        marker_x=_between(rng, 0.42, 0.03, 0.34, 0.46),
        marker_y=_between(rng, 0.08, 0.025, 0.04, 0.15),
        bubble=0.0 if rng.random() < 0.35 else _between(rng, 0.045, 0.015, 0.02, 0.08),
        arms=_between(rng, 0.30 if ap else 0.55, 0.22, 0.0, 1.0),
    )


# Each scenario: its weight, and the probability of each finding in it. A study of no scenario is normal.
_SCENARIOS: tuple[tuple[float, dict[str, float]], ...] = (
    (0.32, {"Support Devices": 0.10}),
    (
        0.15,
        {"Edema": 0.88, "Cardiomegaly": 0.62, "Pleural Effusion": 0.62, "Support Devices": 0.35, "Atelectasis": 0.15},
    ),
    (
        0.15,
        {"Consolidation": 0.62, "Lung Opacity": 0.58, "Pleural Effusion": 0.28, "Support Devices": 0.12},
    ),
    (0.09, {"Pleural Effusion": 0.92, "Atelectasis": 0.60, "Cardiomegaly": 0.25, "Support Devices": 0.2}),
    (0.11, {"Fracture": 0.75, "Pneumothorax": 0.60, "Lung Opacity": 0.2, "Support Devices": 0.25}),
    (0.10, {"Lung Lesion": 0.95, "Enlarged Cardiomediastinum": 0.3, "Pleural Effusion": 0.2, "Lung Opacity": 0.1}),
    (0.08, {"Support Devices": 0.92, "Atelectasis": 0.6, "Pneumothorax": 0.3, "Enlarged Cardiomediastinum": 0.3}),
    (
        0.09,
        {"Pleural Other": 0.78, "Cardiomegaly": 0.45, "Enlarged Cardiomediastinum": 0.4, "Fracture": 0.35},
    ),
)


def _findings(rng: np.random.Generator, *, age: int) -> tuple[Finding, ...]:
    weights = np.array([weight for weight, _ in _SCENARIOS])
    scenario = int(rng.choice(len(_SCENARIOS), p=weights / weights.sum()))
    labels = [label for label, p in _SCENARIOS[scenario][1].items() if rng.random() < p]
    if scenario and not labels:
        labels = [next(iter(_SCENARIOS[scenario][1]))]
    main: Side = "left" if rng.random() < 0.5 else "right"
    found = [_finding(rng, label, main=main) for label in labels if label != "Support Devices"][:MOST_FINDINGS]
    found += _pneumonia(rng, found)
    if "Support Devices" in labels:
        ptx = next((f for f in found if f.label == "Pneumothorax"), None)
        found += _devices(rng, ptx=ptx, age=age)
    return tuple(found)


def _severity(size: float, *, extent: bool) -> str:
    words = ("small", "moderate", "large") if extent else ("mild", "moderate", "severe")
    return words[0 if size < 0.42 else 1 if size < 0.75 else 2]


def _finding(rng: np.random.Generator, label: str, *, main: Side) -> Finding:
    other: Side = "right" if main == "left" else "left"
    side: Side | None = main if rng.random() < 0.85 else other
    certain = bool(rng.random() > {"Cardiomegaly": 0.05, "Pneumothorax": 0.06, "Support Devices": 0.0}.get(label, 0.12))
    size = float(rng.beta(1.5, 1.6)) if certain else float(rng.uniform(0.05, 0.35))
    zone: str | None = None
    word, extent = label.lower(), True
    across = float(rng.uniform(0.3, 0.75))
    match label:
        case "Pleural Effusion":
            word, zone = "pleural effusion", "base"
            side = "bilateral" if rng.random() < 0.38 else side
        case "Pneumothorax":
            word, zone = "pneumothorax", "apex"
        case "Consolidation":
            word, zone = "consolidation", str(rng.choice(["upper", "mid", "lower", "lower"]))
        case "Lung Opacity":
            word, zone, extent = "opacity", str(rng.choice(["upper", "mid", "lower", "lower"])), False
            side = "bilateral" if rng.random() < 0.3 else side
        case "Atelectasis":
            word, zone, extent = "atelectasis", "base", False
            side = "bilateral" if rng.random() < 0.2 else side
            across = float(rng.uniform(0.35, 0.6))
        case "Edema":
            word, zone, side, extent = "pulmonary edema", "diffuse", "bilateral", False
        case "Cardiomegaly":
            word, side, extent = "cardiomegaly", None, False
        case "Enlarged Cardiomediastinum":
            word, side, extent = "widened mediastinum", None, False
        case "Lung Lesion":
            zone = str(rng.choice(["upper", "upper", "mid", "lower"]))
            word = "mass" if size > 0.36 else "nodule"  # from 3 cm on, see the reports' {cm}
        case "Fracture":
            word, zone, extent = "rib fracture", str(rng.choice(["upper", "mid", "lower"])), False
            across = float(rng.uniform(0.6, 0.9))
        case "Pleural Other":
            word, zone, extent = "pleural thickening", str(rng.choice(["apex", "lateral"])), False
    low, high = ZONES.get(zone or "", (0.4, 0.6))
    return Finding(
        label=label,
        word=word,
        side=side,
        zone=zone,
        severity=_severity(size, extent=extent),
        size=size,
        certain=certain,
        along=float(rng.uniform(low, high)),
        across=across,
        variant=float(rng.random()),
    )


def _pneumonia(rng: np.random.Generator, found: list[Finding]) -> list[Finding]:
    """Pneumonia is an interpretation of a consolidation or opacity: same place, usually hedged."""
    cause = next((f for f in found if f.label in ("Consolidation", "Lung Opacity") and f.certain), None)
    if cause is None or rng.random() > (0.6 if cause.label == "Consolidation" else 0.4):
        return []
    return [dataclasses.replace(cause, label="Pneumonia", word="pneumonia", certain=bool(rng.random() < 0.45))]


def _devices(rng: np.random.Generator, *, ptx: Finding | None, age: int) -> list[Finding]:
    weights = {
        "pacemaker": 0.30 if age > 55 else 0.05,
        "endotracheal tube": 0.25,
        "central venous catheter": 0.35,
        "nasogastric tube": 0.2,
        "port": 0.15,
        "sternotomy wires": 0.15 if age > 50 else 0.02,
    }
    names = [name for name, p in weights.items() if rng.random() < p]
    if "endotracheal tube" in names and "nasogastric tube" not in names and rng.random() < 0.6:
        names.append("nasogastric tube")
    if ptx is not None and rng.random() < 0.6:
        names.insert(0, "chest tube")
    names = names[:3] or ["central venous catheter"]
    devices = []
    for name in names:
        side: Side | None = None
        if name == "chest tube" and ptx is not None:
            side = ptx.side
        elif name == "pacemaker":
            side = "left" if rng.random() < 0.85 else "right"
        elif name in ("central venous catheter", "port"):
            side = "right" if rng.random() < 0.8 else "left"
        devices.append(
            Finding("Support Devices", name, side, None, "", float(rng.random()), True, variant=float(rng.random()))
        )
    return devices
