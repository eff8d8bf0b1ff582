"""Where each finding lies in the picture (`region`) and what it does to the chest (`apply`).

One function gives a finding's region for both the drawing and its mask, so the mask is true by construction. Devices
and fractures are curves and points: their geometry comes from `device_curves` and `fracture_point`.
"""

import dataclasses

import numpy as np

from datamodules.phantom.canvas import Tubes, chord, curve, field, step
from datamodules.phantom.skeleton import RIBS, rib_fall
from datamodules.phantom.study import Finding, Study, stream
from datamodules.phantom.thorax import SIGNS, Chest, Shape, wall

SOLID = 0.62  # attenuation of an aerated lung's full depth once its air is replaced by fluid


@dataclasses.dataclass
class Layers:
    """What findings change before the picture is composed.

    Attributes:
        fill: float32 [S,S], 0 .. 1, how much of the lung's air is replaced.
        clear: float32 [S,S], 0 .. 1, where no lung markings are (air in the pleura).
        extra: float32 [S,S], attenuation added.
        tubes: fine lines (pleural lines, septal lines, plates).
    """

    fill: np.ndarray
    clear: np.ndarray
    extra: np.ndarray
    tubes: Tubes

    def put(self, amount: np.ndarray) -> None:
        """Replace that share of the air which is left."""
        self.fill = 1 - (1 - self.fill) * (1 - np.clip(amount, 0, 1))


def sides(finding: Finding) -> list[str]:
    """The sides that a finding is on."""
    return ["right", "left"] if finding.side == "bilateral" else [finding.side] if finding.side else []


def place(shape: Shape, finding: Finding, side: str) -> tuple[float, float]:
    """(u, v) of a finding given by how far along and across the lung it is."""
    dome = shape.domes[1 if side == "left" else 0]
    v = shape.apex + finding.along * (dome - shape.apex)
    half = float(wall(shape, np.array(v, np.float32)))
    inner = 0.055
    if side == "left" and finding.along > 0.6:
        inner = 0.09
    return SIGNS[side] * (inner + finding.across * (half - inner)), v


def fracture_point(study: Study, shape: Shape, finding: Finding) -> tuple[float, float, int]:
    """(u, v) of a rib fracture on the posterior rib nearest to the finding's place, and that rib's number from 0."""
    u, v = place(shape, finding, sides(finding)[0])
    gap = study.anatomy.rib_gap
    number = 0
    for _ in range(4):  # the ribs' warp depends on v, so the nearest one is found by iteration
        ratio = np.minimum(abs(u) / wall(shape, np.array(v, np.float32)), 1.0)
        fall = float(rib_fall(ratio, study.anatomy.rib_drop))
        if number == 0:
            number = int(np.clip(round((v - shape.apex - fall) / gap), 1, RIBS - 1))
        v = float(shape.apex + number * gap + fall)
    return u, v, number


def _half(chest: Chest, side: str) -> np.ndarray:
    return (chest.left if side == "left" else ~chest.left).astype(np.float32)


def region(study: Study, chest: Chest, finding: Finding) -> np.ndarray:
    """Where a finding is, float32 [S,S] of 0 .. 1; > 0.5 is its mask."""
    grid, shape = chest.grid, chest.shape
    zero = np.zeros_like(chest.lung)
    size = finding.size
    match finding.label:
        case "Cardiomegaly":
            return step(chest.heart - 0.15, 0.1)
        case "Enlarged Cardiomediastinum":
            top, low = shape.apex + 0.02, shape.apex + 0.33
            return step(chest.middle - 0.1, 0.1) * step(grid.v - top, 0.01) * step(low - grid.v, 0.01)
        case "Support Devices":
            tubes = Tubes(grid)
            for points, radius, _ in device_curves(chest, finding):
                tubes.add(points, radius=max(radius, 0.016), density=1.0)
            return np.minimum(tubes.draw() * 3, 1)
        case "Fracture":
            u, v, _ = fracture_point(study, shape, finding)
            return step(chord(grid, (u, v), (0.045, 0.045)) - 0.05, 0.1)
        case "Edema":
            near = _perihilar(chest)
            return chest.lung * (near > 0.45 - 0.2 * size)
    total = zero
    for side in sides(finding):
        total = np.maximum(total, _side_region(study, chest, finding, side))
    return total


def _side_region(study: Study, chest: Chest, finding: Finding, side: str) -> np.ndarray:
    grid, shape, size = chest.grid, chest.shape, finding.size
    half = _half(chest, side)
    lung = chest.lung * half
    match finding.label:
        case "Pleural Effusion":
            return lung * step(grid.v - _meniscus(chest, finding, side), 0.03)
        case "Pneumothorax":
            return lung * step(_collapse(chest, finding), 0.006 + grid.px)
        case "Pleural Other":
            if finding.zone == "apex":
                thick = 0.024 + 0.040 * size
                from_top = np.minimum(chest.margin, (grid.v - np.float32(shape.apex)) * 0.9)
                return lung * step(thick - from_top, 0.01) * step(shape.apex + 0.15 - grid.v, 0.03)
            rind = (0.020 + 0.030 * size) * step(0.75 - np.abs(chest.along - 0.62) * 2.2, 0.5)
            return lung * step(rind - chest.margin, 0.008) * (rind > 0.004)
        case "Lung Lesion":
            radius = 0.018 + 0.055 * size
            u, v = place(shape, finding, side)
            return chest.lung * half * step(chord(grid, (u, v), (radius, radius * 0.95)) - 0.1, 0.2)
        case "Atelectasis":
            u, v = place(shape, finding, side)
            reach = 0.075 + 0.06 * size
            tall = 0.013 + 0.020 * size
            shear = SIGNS[side] * (0.5 - finding.variant) * 2
            slanted = dataclasses.replace(grid, v=grid.v + np.float32(0.35 * shear) * (grid.u - np.float32(u)))
            return lung * np.minimum(1.3 * chord(slanted, (u, v - 0.015), (reach, tall)), 1)
        case _:  # Consolidation, Lung Opacity, Pneumonia
            return lung * step(_blob(study, chest, finding, side) - 0.5, 0.35)


def _blob(study: Study, chest: Chest, finding: Finding, side: str) -> np.ndarray:
    """An irregular patch: 1 in the middle, 0.5 at its border."""
    grid, shape = chest.grid, chest.shape
    u, v = place(shape, finding, side)
    wide = (0.07 + 0.085 * finding.size) * (0.85 + 0.3 * finding.variant)
    tall = (0.065 + 0.09 * finding.size) * (1.15 - 0.3 * finding.variant)
    far = ((grid.u - np.float32(u)) / np.float32(wide)) ** 2 + ((grid.v - np.float32(v)) / np.float32(tall)) ** 2
    number = study.index * 8 + (1 if side == "left" else 2)
    rough = field(stream(study.seed, number, "texture"), cells=9, size=grid.size)
    return 1 / (1 + np.maximum(far + np.float32(0.28) * rough, 0))


def _meniscus(chest: Chest, finding: Finding, side: str) -> np.ndarray:
    """Height v of the fluid's upper border: level in the middle, rising at the chest wall."""
    shape = chest.shape
    dome = shape.domes[1 if side == "left" else 0]
    size = finding.size
    level = dome + shape.recess * 0.72 - (0.75 * shape.recess * min(size / 0.3, 1) + 0.36 * max(size - 0.3, 0) ** 1.15)
    climb = (0.035 + 0.085 * min(size + 0.1, 1)) * np.clip(chest.across, 0, 1) ** 5
    return np.float32(level) - climb - np.float32(0.02) * (1 - np.minimum(chest.across * 2, 1))


def _collapse(chest: Chest, finding: Finding) -> np.ndarray:
    """> 0 between the collapsed lung's border and the chest wall, in body units."""
    size = finding.size
    apical = 0.035 + 0.15 * size
    lateral = 0.006 + 0.105 * size**1.3
    height = np.clip(chest.along, 0, 1)
    air = np.float32(lateral) * (1 - 0.55 * height) + np.float32(apical) * np.maximum(1 - height / 0.45, 0) ** 1.4
    from_top = (chest.grid.v - np.float32(chest.shape.apex)) * 0.8
    inwards = np.minimum(chest.margin, from_top)
    limit = np.minimum(air, 0.8 * (chest.margin + np.abs(chest.grid.u)) - 0.03)
    return limit - inwards


def _lost_volume(chest: Chest, finding: Finding) -> np.ndarray:
    """The crowded lung above a raised hemidiaphragm: 1 at the base, 0 from a third of the height up."""
    total = np.zeros_like(chest.lung)
    for side in sides(finding):
        total += chest.lung * _half(chest, side) * np.clip((chest.along - np.float32(0.65)) / 0.35, 0, 1)
    return total


def _perihilar(chest: Chest) -> np.ndarray:
    """1 at the hila, falling to the periphery; float32 [S,S]."""
    grid, shape = chest.grid, chest.shape
    far = ((np.abs(grid.u) - 0.10) / 0.135) ** 2 + ((grid.v - np.float32(shape.apex) - 0.33) / 0.19) ** 2
    return np.exp(-0.6 * far).astype(np.float32)


def apply(study: Study, chest: Chest, finding: Finding, layers: Layers) -> None:
    """Add one finding to the layers. Shape-changing findings, devices and fractures are drawn elsewhere."""
    grid, size = chest.grid, finding.size
    strength = 1.0 if finding.certain else 0.6
    if finding.label in ("Cardiomegaly", "Enlarged Cardiomediastinum", "Support Devices", "Fracture", "Pneumonia"):
        return
    where = region(study, chest, finding) if finding.label != "Edema" else _perihilar(chest)
    match finding.label:
        case "Pleural Effusion":
            layers.put(where * (0.80 + 0.15 * size) * strength)
            layers.extra += where * np.float32(0.16 * strength * (0.5 + size))
        case "Pneumothorax":
            layers.clear = np.maximum(layers.clear, where)
            layers.extra -= where * np.float32(0.10 + 0.05 * size)
            edge = np.zeros_like(where)
            for side in sides(finding):
                edge = edge + _half(chest, side) * np.exp(
                    -((_collapse(chest, finding) / (0.0035 + 0.5 * grid.px)) ** 2)
                )
            layers.extra += edge * chest.lung * np.float32(0.16 * strength / (1 + 140 * grid.px))
            collapsed = (1 - where) * sum(_half(chest, side) for side in sides(finding))
            layers.put(collapsed * np.float32(0.28 * max(size - 0.35, 0)))
        case "Consolidation":
            rough = field(stream(study.seed, study.index, "texture"), cells=40, size=grid.size)
            amount = (0.62 + 0.22 * size) * strength
            layers.put(where * np.float32(amount) * np.clip(1 + np.float32(0.12) * rough, 0.6, 1.3))
        case "Lung Opacity":
            rough = field(stream(study.seed, study.index, "texture"), cells=22, size=grid.size)
            amount = (0.30 + 0.26 * size) * strength
            layers.put(where * np.float32(amount) * np.clip(1 + np.float32(0.42) * rough, 0.15, 1.9))
        case "Atelectasis":
            layers.put(where * np.float32((0.48 + 0.27 * size) * strength))
            layers.put(_lost_volume(chest, finding) * np.float32(0.12 + 0.13 * size))
        case "Edema":
            rough = field(stream(study.seed, study.index, "texture"), cells=30, size=grid.size)
            haze = (0.20 + 0.42 * size) * strength
            layers.put(where * np.float32(haze) * np.clip(1 + np.float32(0.25) * rough, 0.3, 1.7) * chest.lung)
            layers.put(chest.lung * np.float32(0.05 + 0.13 * size * strength) * np.clip(chest.along, 0, 1))
            _septal_lines(study, chest, layers, size * strength)
        case "Lung Lesion":
            for side in sides(finding):
                radius = 0.018 + 0.055 * size
                ball = chord(grid, place(chest.shape, finding, side), (radius, radius * 0.95))
                layers.put(ball**0.7 * chest.lung * np.float32((0.42 + 0.33 * size) * strength))
        case "Pleural Other":
            layers.put(where * np.float32((0.75 + 0.2 * size) * strength))
            layers.extra += where * np.float32(0.10 * strength)


def _septal_lines(study: Study, chest: Chest, layers: Layers, amount: float) -> None:
    rng = stream(study.seed, study.index, "texture")
    for side, sign in SIGNS.items():
        dome = chest.shape.domes[1 if side == "left" else 0]
        height = dome - rng.uniform(-0.03, 0.15, 9)
        outer = wall(chest.shape, height.astype(np.float32)) - 0.004
        reach = rng.uniform(0.02, 0.045, 9)
        points = np.stack(
            [np.stack([sign * outer, height], 1), np.stack([sign * (outer - reach), height - 0.004], 1)], axis=1
        )
        layers.tubes.add(points, radius=0.0022, density=0.22 * amount)


def device_curves(chest: Chest, finding: Finding) -> list[tuple[np.ndarray, float, float]]:
    """The parts of a device as (points [N,2], radius, density)."""
    shape = chest.shape
    top, shift = shape.apex, shape.shift
    sign = SIGNS.get(finding.side or "", 1.0)
    jitter = finding.size - 0.5
    junction = (-0.035, top + 0.27 + 0.03 * jitter)  # of the superior vena cava and the right atrium
    match finding.word:
        case "pacemaker":
            x, y = sign * (0.235 + 0.02 * jitter), top + 0.10
            box = curve((x - 0.022, y - 0.012), (x + 0.022, y - 0.012), (x + 0.022, y + 0.02), (x - 0.022, y + 0.02))
            apex = (0.62 * shape.heart_left, shape.heart_bottom - 0.045)
            vein = [(x, y), (sign * 0.15, top + 0.06), (sign * 0.06, top + 0.10), (-0.028, top + 0.17)]
            parts = [(box, 0.016, 1.0), (np.array([(x - 0.015, y + 0.004), (x + 0.015, y + 0.004)]), 0.018, 0.8)]
            parts.append((curve(*vein, junction, (0.01, shape.heart_bottom - 0.05), apex), 0.0032, 0.75))
            if finding.variant > 0.4:
                parts.append((curve(*vein, junction, (-0.05, top + 0.33), (-0.025, top + 0.31)), 0.0032, 0.75))
            return parts
        case "endotracheal tube":
            tip = top + 0.165 + 0.04 * jitter
            points = curve((0.012, -0.15), (0.006, top - 0.03), (0.004 + shift, tip))
            return [(points, 0.0075, 0.26), (points + np.array([0.005, 0.0]), 0.0022, 0.5)]
        case "nasogastric tube":
            low = shape.domes[1] + 0.06
            points = curve(
                (-0.012, -0.15),
                (-0.008, top),
                (0.012, top + 0.25),
                (0.02, low - 0.12),
                (0.055, low),
                (0.12, low + 0.07),
            )
            return [(points, 0.0045, 0.48)]
        case "port":
            x, y = sign * (0.21 + 0.02 * jitter), top + 0.14
            line = curve((x, y), (sign * 0.13, top + 0.05), (sign * 0.05, top + 0.09), (-0.032, top + 0.17), junction)
            return [(line, 0.0035, 0.45), (curve((x - 0.004, y), (x, y - 0.003), (x + 0.004, y)), 0.018, 0.7)]
        case "chest tube":
            half = float(wall(shape, np.array(top + 0.4, np.float32)))
            points = curve(
                (sign * (half + 0.10), top + 0.46),
                (sign * (half - 0.005), top + 0.38),
                (sign * (half - 0.06), top + 0.24),
                (sign * 0.13, top + 0.07 + 0.04 * jitter),
            )
            return [(points, 0.0085, 0.30), (points + np.array([0.004, 0.0]), 0.0025, 0.55)]
        case "sternotomy wires":
            parts = []
            for k in range(6):
                y = top + 0.12 + 0.062 * k
                x = shape.turn
                loop = curve((x - 0.016, y), (x, y - 0.007), (x + 0.016, y), (x, y + 0.008), (x - 0.016, y))
                parts.append((loop, 0.0028, 0.85))
            return parts
        case _:  # a central venous catheter: jugular or subclavian by its variant
            if finding.variant < 0.55:
                points = curve((sign * 0.075, -0.05), (sign * 0.06, top + 0.03), (-0.03, top + 0.16), junction)
            else:
                start = (sign * 0.26, top + 0.12)
                points = curve(
                    start, (sign * 0.15, top + 0.06), (sign * 0.05, top + 0.09), (-0.032, top + 0.17), junction
                )
            return [(points, 0.0042, 0.5)]
