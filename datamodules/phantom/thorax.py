"""The phantom's healthy chest: where lungs, heart, vessels and soft tissue lie, and how much each attenuates.

Attenuation is in units of the average chest's soft tissue at its thickest (1.0 ≈ water of that depth). Chord lengths
are analytic (ellipsoids, tubes). The skeleton is in `skeleton.py`.
"""

import dataclasses

import numpy as np

from datamodules.phantom.canvas import Grid, Tubes, chord, curve, field, step
from datamodules.phantom.study import Study, stream

SIGNS = {"right": -1.0, "left": 1.0}


@dataclasses.dataclass(frozen=True)
class Shape:
    """The study's chest in numbers: anatomy as exposed (inspiration, magnification, findings that change its shape)."""

    width: float
    apex: float
    domes: tuple[float, float]  # v of the right and left hemidiaphragm
    recess: float
    heart_right: float  # how far the heart reaches to the patient's right and left of the midline
    heart_left: float
    heart_bottom: float
    heart_shear: float
    mediastinum: float
    shift: float  # of trachea and mediastinum, to the patient's left
    turn: float


def make_shape(study: Study) -> Shape:
    """Apply view, inspiration and the shape-changing findings to the patient's anatomy."""
    a, q = study.anatomy, study.acquisition
    ratio = a.heart_ratio * q.magnification - 0.4 * q.inspiration
    mediastinum = a.mediastinum * (0.5 + 0.5 * q.magnification)
    domes = [a.dome + q.inspiration, a.dome + q.inspiration + a.dome_step]
    shift = 0.0
    for f in study.findings:
        if f.label == "Cardiomegaly":
            ratio = max(ratio, (0.535 + 0.165 * f.size) if f.certain else 0.525 + 0.03 * f.size)
        elif f.label == "Enlarged Cardiomediastinum":
            mediastinum += 0.022 + 0.045 * f.size
        elif f.label == "Atelectasis":
            for i, side in enumerate(("right", "left")):
                if f.side in (side, "bilateral"):
                    domes[i] -= (0.025 + 0.05 * f.size) * (0.5 if f.side == "bilateral" else 1.0)
        elif f.label == "Pneumothorax" and f.size > 0.7:
            shift += 0.10 * (f.size - 0.7) * (-1 if f.side == "left" else 1)
        elif f.label == "Pleural Effusion" and f.size > 0.8 and f.side != "bilateral":
            shift += 0.08 * (f.size - 0.7) * (-1 if f.side == "left" else 1)
    total = 2 * a.width * ratio
    return Shape(
        width=a.width,
        apex=a.apex,
        domes=(domes[0], domes[1]),
        recess=a.recess,
        heart_right=0.31 * total - 0.02 * q.turn,
        heart_left=0.69 * total + 0.02 * q.turn,
        heart_bottom=max(domes) + 0.045,
        heart_shear=a.heart_shear,
        mediastinum=mediastinum,
        shift=shift,
        turn=0.02 * q.turn,
    )


@dataclasses.dataclass(frozen=True)
class Chest:
    """Fields over the grid that drawing and masks share.

    Attributes:
        lung: float32 [S,S], 1 inside the two lungs' outline (heart not cut out).
        depth: float32 [S,S], the lungs' thickness, 0 .. 1.
        left: bool [S,S], the patient's left half.
        along: float32 [S,S], 0 at the apices, 1 at the top of the dome, of each side.
        across: float32 [S,S], 0 at the midline, 1 at the inner chest wall.
        margin: float32 [S,S], distance from the chest wall inwards, in body units, about.
        heart: float32 [S,S], path length through the heart, 0 .. 1.
        middle: float32 [S,S], path length through the upper mediastinum, 0 .. 1.
    """

    grid: Grid
    shape: Shape
    lung: np.ndarray
    depth: np.ndarray
    left: np.ndarray
    along: np.ndarray
    across: np.ndarray
    margin: np.ndarray
    diaphragm: np.ndarray
    heart: np.ndarray
    middle: np.ndarray


def wall(shape: Shape, v: np.ndarray) -> np.ndarray:
    """Half-width of the rib cage at height v (inner side)."""
    height = np.float32(0.44)
    r = np.clip((np.float32(shape.apex) + height - v) / height, 0, 1)
    centre = np.float32(0.125)
    grown = np.float32(shape.width - 0.125) * np.sqrt(np.maximum(1 - r**2.6, 0))
    flare = np.float32(0.03) * np.clip(v - np.float32(shape.apex) - height, -0.2, 0.3)
    return centre * np.sqrt(np.clip((v - np.float32(shape.apex)) / 0.02, 0, 1)) + grown + flare


def make_chest(study: Study, *, grid: Grid) -> Chest:
    """Evaluate the study's chest on a grid."""
    shape = make_shape(study)
    u, v = grid.u, grid.v
    left = u > 0
    away = np.abs(u)
    edge = max(grid.px, 0.004)
    half = np.maximum(wall(shape, v), 1e-3)
    across = away / half
    dome = np.where(left, np.float32(shape.domes[1]), np.float32(shape.domes[0]))
    along = (v - np.float32(shape.apex)) / (dome - np.float32(shape.apex))
    # The dome is highest at 0.42 of the half-width and falls to the costophrenic recess.
    out = (away - np.float32(0.42 * shape.width)) / np.float32(0.58 * shape.width)
    fall = np.where(out > 0, np.float32(shape.recess) * np.abs(out) ** 2.2, np.float32(0.022) * out**2)
    diaphragm = dome + fall
    # Medially the apex curves down to the mediastinum.
    rise = np.clip((v - np.float32(shape.apex)) / 0.07, 0, 1)
    medial = 0.12 - 0.085 * np.sqrt(1 - (1 - rise) ** 2)
    lung = step(half - away, edge) * step(diaphragm - v, max(grid.px, 0.006)) * step(away - medial, 0.008 + edge)
    lung *= v > shape.apex
    depth = lung * np.sqrt(np.maximum(1 - np.minimum(across, 1) ** 4.5, 0)) * np.clip(0.62 + 0.75 * along, 0, 1)
    ul = grid.u - np.float32(shape.shift)
    moved = dataclasses.replace(grid, u=ul)
    heart = _heart(shape, moved)
    middle = _middle(shape, moved, study.anatomy.knob)
    return Chest(grid, shape, lung, depth, left, along, across, half - away, diaphragm, heart, middle)


def _heart(shape: Shape, grid: Grid) -> np.ndarray:
    """A silhouette given by its two borders from the pulmonary trunk down to below the diaphragm."""
    top, low = shape.apex + 0.19, shape.heart_bottom
    round_ = shape.heart_shear  # a high value puts the apex low and makes the waist concave
    at = top + (low - top) * np.array([0.0, 0.12, 0.25, 0.4, 0.55, 0.7, 0.82, 0.92, 1.0])
    base = shape.mediastinum + 0.004
    bulge = np.array([0.0, 0.10, 0.20 - 0.10 * round_, 0.48 - 0.28 * round_, 0.80 - 0.28 * round_, 0.97 - 0.1 * round_])
    left = base + (shape.heart_left - base) * np.concatenate([bulge, [1.0, 0.97, 0.80]])
    swell = np.array([0.0, 0.0, 0.15, 0.55, 0.88, 1.0, 0.97, 0.85, 0.7])
    right = base + (shape.heart_right - base) * swell
    fine = np.linspace(top, low, 48, dtype=np.float32)
    smooth = np.hanning(9) / np.hanning(9).sum()
    borders = []
    for border in (left, right):
        line = np.interp(fine, at, border)
        borders.append(np.convolve(np.pad(line, 4, mode="edge"), smooth, mode="valid"))
    lv, rv = (np.interp(grid.v, fine, line).astype(np.float32) for line in borders)
    across = (grid.u - (lv - rv) / 2) / ((lv + rv) / 2)
    body = np.sqrt(np.maximum(1 - across * across, 0))
    fade = step(grid.v - np.float32(top + 0.02), 0.06) * step(np.float32(low) - grid.v, 0.05)
    return np.sqrt(body) * fade


def _middle(shape: Shape, grid: Grid, knob: float) -> np.ndarray:
    """Upper mediastinum: vessels right, arch and descending aorta left."""
    low = shape.heart_bottom
    v = grid.v
    half = np.float32(shape.mediastinum) * (1 + 0.25 * np.clip((v - np.float32(0.24)) / 0.2, -0.6, 1))
    band = np.sqrt(np.maximum(1 - ((grid.u - np.float32(0.004 - shape.turn * 0.5)) / half) ** 2, 0))
    band *= step(np.float32(low) - v, 0.2)
    reach = shape.mediastinum + 0.014
    arch = chord(grid, (reach - knob + 0.012, shape.apex + 0.165), (knob, knob * 1.15))
    aorta = np.sqrt(np.maximum(1 - ((grid.u - np.float32(0.03)) / np.float32(0.028)) ** 2, 0))
    aorta *= step(v - np.float32(shape.apex + 0.165), 0.04) * step(np.float32(low) - v, 0.2)
    return np.maximum(np.maximum(band, arch), 0.8 * aorta)


def arm_line(study: Study) -> tuple[float, float]:
    """How far out the upper arms' axes are at v = 0.22, and how much farther for each unit of v."""
    arms = study.acquisition.arms
    return 0.465 + 0.05 * arms, 0.10 + 0.22 * arms


def soft_tissue(study: Study, chest: Chest) -> np.ndarray:
    """Trunk, neck, shoulders, arms and breasts without lungs, float32 [S,S]."""
    a, grid, shape = study.anatomy, chest.grid, chest.shape
    u, v = grid.u, grid.v
    away = np.abs(u)
    fat = 0.072 + 0.10 * (a.habitus - 1)
    # Trunk: from the shoulders it narrows to the chest wall, then widens to the hips.
    half = shape.width + fat + 0.018 + 0.10 * np.clip((v - 0.72) / 0.35, 0, 1) ** 2
    trunk = np.sqrt(np.maximum(1 - (away / half) ** 3, 0)) * (0.86 + 0.24 * np.clip((v - 0.1) / 0.5, 0, 1))
    slope = shape.apex - 0.085 + 0.15 * np.clip((away - 0.10) / 0.36, 0, 1.5) ** 1.2
    trunk *= np.sqrt(step(v - slope, 0.09))
    neck = 0.66 * np.sqrt(np.maximum(1 - (away / 0.135) ** 2, 0)) * step(shape.apex + 0.12 - v, 0.16)
    reach, lean = arm_line(study)
    arm_axis = reach + lean * (v - 0.22)
    arm = 0.62 * np.sqrt(np.maximum(1 - ((away - arm_axis) / 0.085) ** 2, 0)) * step(v - slope - 0.012, 0.06)
    shoulder = 0.72 * np.sqrt(np.maximum(1 - ((away - 0.36) / 0.16) ** 2 - ((v - shape.apex - 0.15) / 0.13) ** 2, 0))
    tissue = np.maximum(np.maximum(trunk, neck), np.maximum(arm, shoulder)) * np.float32(a.habitus)
    if a.breast > 0:
        spread, low = 0.115 + 0.035 * a.breast, a.dome - 0.075 + 0.05 * a.breast
        for sign in (-1, 1):
            centre = (sign * 0.66 * shape.width, low)
            tissue += np.float32(0.14 + 0.14 * a.breast) * chord(grid, centre, (spread + 0.02, spread))
    return tissue


def vessels(study: Study, chest: Chest) -> np.ndarray:
    """Hila and branching pulmonary vessels, float32 [S,S]; the tree is the patient's, not the study's."""
    rng = stream(study.seed, study.index // 2, "texture")
    grid, shape = chest.grid, chest.shape
    tubes = Tubes(grid)
    edema = max((f.size for f in study.findings if f.label == "Edema"), default=0.0)
    gain = study.anatomy.vessels * (1 + 0.5 * edema)
    for side, sign in SIGNS.items():
        root = (sign * 0.068 + shape.shift, shape.apex + (0.265 if side == "left" else 0.285))
        dome = shape.domes[1 if side == "left" else 0]
        tubes.add(
            curve(
                (root[0] - sign * 0.02, root[1] - 0.05),
                root,
                (root[0] + sign * 0.012, root[1] + 0.07),
                (root[0] + sign * 0.03, root[1] + 0.14),
            ),
            radius=np.linspace(0.026, 0.012, 24),
            density=0.15 * gain,
        )
        directions = np.linspace(-1.35, 1.35, 11) + rng.normal(0, 0.10, 11)
        room = 0.92 * shape.width - 0.068
        lengths = rng.uniform(0.75, 1.0, 11) * np.where(np.abs(directions) < 0.8, room, 0.30)
        lengths = np.where(directions > 0.8, np.minimum(lengths, 0.9 * (dome - root[1])), lengths)
        along = np.linspace(-0.04, 0.11, 11)  # of the hilum
        starts = np.stack([root[0] + sign * 0.22 * np.maximum(along, 0), root[1] + along], axis=1)
        radius, density = 0.0075, 0.12 * gain
        taper = np.linspace(1, 0.4, 8)
        for level in range(3):
            angles = directions[:, None] + rng.normal(0.12, 0.35, (len(starts), 1)) * np.linspace(0, 1, 8)
            strides = np.stack([sign * np.cos(angles), np.sin(angles)], -1) * (lengths[:, None, None] / 7)
            strides[:, 0] = 0
            branches = starts[:, None] + np.cumsum(strides, axis=1)  # [M,8,2]
            tubes.add(branches, radius=radius * taper, density=density * taper**0.5)
            if level < 2:
                turns = rng.choice([-1, 1], (2, len(starts))) * rng.uniform(0.35, 0.75, (2, len(starts)))
                directions = np.concatenate([angles[:, 3] + turns[0], angles[:, 5] + turns[1]])
                starts = np.concatenate([branches[:, 3], branches[:, 5]])
                lengths = np.concatenate([lengths, lengths]) * 0.45
                radius, density = 0.6 * radius, 0.85 * density
    return tubes.draw()


def airways(chest: Chest) -> np.ndarray:
    """Air in trachea and main bronchi, float32 [S,S], to be subtracted."""
    shape = chest.shape
    tubes = Tubes(chest.grid)
    carina = (0.004 + shape.shift, shape.apex + 0.225)
    tubes.add(
        np.array([(0.5 * shape.turn, -0.1), (0.5 * shape.turn + 0.3 * shape.shift, shape.apex), carina]),
        radius=0.0155,
        density=0.30,
    )
    tubes.add(np.array([carina, (carina[0] - 0.05, carina[1] + 0.05)]), radius=0.011, density=0.14)
    tubes.add(np.array([carina, (carina[0] + 0.065, carina[1] + 0.045)]), radius=0.010, density=0.13)
    return tubes.draw()


def abdomen_gas(study: Study, chest: Chest) -> np.ndarray:
    """The stomach bubble under the left dome and some bowel gas, float32 [S,S], to be subtracted."""
    radius = study.acquisition.bubble
    if radius == 0:
        return np.zeros_like(chest.lung)
    rng = stream(study.seed, study.index, "texture")
    grid, dome = chest.grid, chest.shape.domes[1]
    below = step(grid.v - chest.diaphragm - 0.012, 0.01)
    gas = 0.38 * chord(grid, (0.13 + 0.3 * radius, dome + 0.05 + 0.3 * radius), (1.35 * radius, radius))
    if radius > 0.05:
        for _ in range(3):
            centre = (0.20 + rng.uniform(-0.08, 0.1), dome + rng.uniform(0.14, 0.24))
            gas = gas + 0.25 * chord(grid, centre, (rng.uniform(0.015, 0.035), rng.uniform(0.012, 0.03)))
    return gas * below


def mottle(study: Study, *, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Slow and fine unevenness of tissue, two float32 [S,S] of about unit variance."""
    rng = stream(study.seed, study.index, "noise")
    return field(rng, cells=5, size=size), field(rng, cells=26, size=size)
