"""The phantom's bones: ribs, spine, clavicles, scapulae, humeri, and breaks in the ribs.

All ribs are level sets of one warped coordinate, so that they cost one evaluation together.
"""

import numpy as np

from datamodules.phantom.canvas import Tubes, chord, curve, step
from datamodules.phantom.study import Study
from datamodules.phantom.thorax import Chest, Shape, arm_line

RIBS = 10


def bones(study: Study, chest: Chest, fractures: list[tuple[float, float, float, float]]) -> np.ndarray:
    """Ribs, spine, clavicles, scapulae, humeri: float32 [S,S].

    Args:
        study: whose.
        chest: its fields.
        fractures: (u, v, displacement, callus) of each; a rib steps sideways at u within a radius about v.
    """
    a, grid, shape = study.anatomy, chest.grid, chest.shape
    u, v = grid.u, grid.v
    away = np.abs(u)
    t = np.minimum(chest.across, 1.0)
    shifted = v
    for fu, fv, displacement, _ in fractures:
        near = np.exp(-(((u - np.float32(fu)) / 0.07) ** 2) - ((v - np.float32(fv)) / 0.06) ** 2)
        shifted = shifted + np.float32(displacement) * near * np.where(away > abs(fu), 1, -1).astype(np.float32)
    back = _ribs(shifted - rib_fall(t, a.rib_drop), shape, a.rib_gap, 0.0115, grid.px)
    front = _ribs(
        shifted - (a.rib_drop + 0.30 * np.sqrt(1 - t * t) * (1 - 0.35 * (1 - t))), shape, a.rib_gap, 0.013, grid.px
    )
    cage = step(1.035 - chest.across, 0.03) * step(away - 0.035, 0.02)
    under = 1 - 0.70 * step(v - chest.diaphragm, 0.05)
    rib = back * cage * under * (0.135 + 0.07 * t**4) + front * cage * under * step(t - 0.42, 0.3) * 0.085
    density = rib + _spine(study, chest)
    tubes = Tubes(grid)
    for sign in (-1.0, 1.0):
        inner = 0.028 + sign * shape.turn
        top = shape.apex + a.clavicle
        tubes.add(
            curve(
                (sign * inner, top),
                (sign * (inner + 0.09), top - 0.012),
                (sign * (inner + 0.2), top - 0.045),
                (sign * 0.37, top - 0.035),
            ),
            radius=np.interp(np.linspace(0, 1, 24), [0, 0.15, 1], [0.018, 0.0125, 0.0125]),
            density=0.26,
            hollow=False,
        )
        # Scapula: medial border, spine; humeral head and shaft.
        x = shape.width + 0.012 + (0.0 if study.view == "PA" else -0.035)
        tubes.add(
            curve((sign * x, shape.apex + 0.06), (sign * (x + 0.02), shape.apex + 0.2), (sign * (x + 0.055), 0.47)),
            radius=0.008,
            density=0.16,
        )
        tubes.add(curve((sign * x, shape.apex + 0.10), (sign * 0.43, shape.apex + 0.045)), radius=0.012, density=0.2)
        density = density + 0.10 * chord(grid, (sign * (x + 0.055), shape.apex + 0.19), (0.06, 0.16), shear=sign * 0.12)
        density = density + 0.34 * chord(grid, (sign * 0.445, shape.apex + 0.115), (0.045, 0.05))
        reach, lean = arm_line(study)
        top_of_arm = shape.apex + 0.13
        shaft = [(sign * (reach + lean * (y - 0.22)), y) for y in (top_of_arm, 0.6, 1.1)]
        tubes.add(np.array([(sign * 0.448, top_of_arm - 0.01), *shaft]), radius=0.024, density=0.28)
    for fu, fv, _, callus in fractures:
        density = density + np.float32(callus) * chord(grid, (fu, fv), (0.032, 0.015), shear=0.6 if fu > 0 else -0.6)
    return (density + tubes.draw()) * np.float32(a.bone)


def rib_fall(across: np.ndarray, drop: float) -> np.ndarray:
    """How far below its spinal end a posterior rib runs, `across` the chest (0 midline .. 1 wall)."""
    bend = 0.6 * (1 - np.sqrt(1 - across * across)) + 0.4 * across * across
    return drop * bend - 0.012 * np.sin(np.pi * across)


def _ribs(height: np.ndarray, shape: Shape, gap: float, radius: float, px: float) -> np.ndarray:
    """Chord through equally spaced tubes at height = apex + k * gap, k = 0 .. RIBS - 1, with denser borders."""
    phase = (height - np.float32(shape.apex)) / np.float32(gap)
    number = np.rint(phase)
    distance = np.abs(phase - number) * np.float32(gap / radius)
    inside = step(1 - distance, max(px / radius, 0.4))
    tube = inside * (0.72 + 0.28 * np.minimum(distance, 1) ** 4)
    return tube * ((number >= 0) & (number < RIBS))


def _spine(study: Study, chest: Chest) -> np.ndarray:
    grid, shape = chest.grid, chest.shape
    middle = np.float32(study.anatomy.spine_bend) * np.sin(np.pi * np.clip(grid.v, 0, 1)) - np.float32(shape.turn * 0.4)
    du = grid.u - middle
    half = 0.030 + 0.010 * np.clip(grid.v, 0, 1)
    body = step(half - np.abs(du), 0.018)
    gap = 0.048 + 0.012 * np.clip(grid.v, 0, 1)
    disc = 0.5 + 0.5 * np.cos(2 * np.pi * grid.v / gap)
    process = np.exp(-((du / 0.007) ** 2)) * (disc > 0.5)
    return 0.21 * body * (0.75 + 0.25 * np.sqrt(disc)) + 0.05 * process
