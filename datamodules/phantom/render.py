"""From a study to its radiograph, masks and boxes.

Attenuation is summed along each ray, noise is added where the photons are counted, and a window with a soft shoulder
gives grey levels: bright is dense, as radiographs are shown.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from datamodules.manifest import Box
from datamodules.phantom import pathology, skeleton, thorax
from datamodules.phantom.canvas import Grid, Tubes, make_grid, step
from datamodules.phantom.pathology import Layers
from datamodules.phantom.study import Study, stream
from datamodules.phantom.thorax import Chest, make_chest
from datamodules.reports.labels import FINDINGS

AIR = 0.86  # attenuation that a fully aerated lung of full depth lacks
SCATTER = 0.06  # share of the field that reaches every pixel, veils what lies behind much tissue
BOX_SIZE = 128  # pixels at which boxes are measured


def render(study: Study, *, size: int) -> np.ndarray:
    """The radiograph of a study.

    Args:
        study: what to draw.
        size: pixels a side, 16 .. 1024.

    Returns:
        uint8 [size,size], bright = dense; drawn at twice the size and averaged.

    Raises:
        ValueError: if the size is out of range.
    """
    if not 16 <= size <= 1024:
        raise ValueError(f"a phantom is rendered at 16 to 1024 pixels a side, but size is {size}")
    grid = make_grid(study, size=2 * size)
    attenuation = _attenuation(study, make_chest(study, grid=grid))
    grey = _expose(study, grid, attenuation)
    grey = grey.reshape(size, 2, size, 2).mean(axis=(1, 3))
    rng = stream(study.seed, study.index, "noise")
    grain = study.acquisition.grain * min(size / 256, 1.0)
    noise = rng.standard_normal((size, size), dtype=np.float32)
    grey = grey + noise * np.float32(grain / 255) * (0.25 + 2.4 * grey * (1 - grey))
    return np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8)


def masks(study: Study, *, size: int) -> np.ndarray:
    """Where each finding is.

    Args:
        study: what is drawn.
        size: pixels a side.

    Returns:
        bool [14,size,size] in the order of FINDINGS; all False for what is absent or has no place ("No Finding").
    """
    grid = make_grid(study, size=size)
    chest = make_chest(study, grid=grid)
    total = np.zeros((len(FINDINGS), size, size), bool)
    seen = _field_of_view(study, size) > 0.5
    for finding in study.findings:
        total[FINDINGS.index(finding.label)] |= (pathology.region(study, chest, finding) > 0.5) & seen
    return total


def boxes(study: Study) -> list[Box]:
    """One box for each connected part of each finding's mask that is larger than specks, in fractions."""
    found = []
    for label, mask in zip(FINDINGS, masks(study, size=BOX_SIZE), strict=True):
        if not mask.any():
            continue
        parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        areas = np.bincount(parts.ravel())[1:]
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts)):
            if areas[number] < max(4, 0.1 * areas.max()):
                continue
            found.append(
                Box(
                    label,
                    columns.start / BOX_SIZE,
                    rows.start / BOX_SIZE,
                    columns.stop / BOX_SIZE,
                    rows.stop / BOX_SIZE,
                )
            )
    return found


def _attenuation(study: Study, chest: Chest) -> np.ndarray:
    grid = chest.grid
    zero = np.zeros_like(chest.lung)
    layers = Layers(zero, zero, zero.copy(), Tubes(grid))
    fractures = []
    for finding in study.findings:
        pathology.apply(study, chest, finding, layers)
        if finding.label == "Fracture":
            u, v, _ = pathology.fracture_point(study, chest.shape, finding)
            strength = 1.0 if finding.certain else 0.6
            step_size = (0.020 + 0.020 * finding.size) * strength * (1 if finding.variant > 0.5 else -1)
            fractures.append((u, v, step_size, (0.28 + 0.26 * finding.size) * strength))
    slow, fine = thorax.mottle(study, size=grid.size)
    tissue = thorax.soft_tissue(study, chest)
    body = step(tissue - 0.06, 0.12)
    blocked = np.minimum(0.80 * chest.heart + 0.62 * chest.middle, 0.86)
    air = AIR * chest.depth * (1 - layers.fill) * (1 - blocked) * (1 + 0.02 * slow)
    markings = thorax.vessels(study, chest) * chest.lung * (1 - layers.clear) * (1 - 0.75 * layers.fill) * (1 - blocked)
    parenchyma = 0.010 * fine * chest.lung * (1 - layers.clear)
    core = 0.26 * np.maximum(chest.heart, chest.middle)
    below = step(grid.v - chest.diaphragm, 0.06)
    liver = 0.25 * below * body * (1 + 0.4 * ~chest.left)
    total = tissue * (1.22 + 0.015 * slow) - air + markings + parenchyma + core + liver
    total = total + skeleton.bones(study, chest, fractures) * body + layers.extra + layers.tubes.draw()
    total = total - thorax.airways(chest) - thorax.abdomen_gas(study, chest)
    total = np.maximum(total, 0)
    devices = Tubes(grid)
    for finding in study.findings:
        if finding.label == "Support Devices":
            for points, radius, density in pathology.device_curves(chest, finding):
                devices.add(points, radius=radius, density=2 * density)
    return total + devices.draw()


def _expose(study: Study, grid: Grid, attenuation: np.ndarray) -> np.ndarray:
    """Grey 0 .. 1 after scatter, window and collimation."""
    q = study.acquisition
    span = 1 / (q.high - q.low)
    transmitted = np.exp(-2.2 * attenuation)
    veiled = -np.log((transmitted + np.float32(SCATTER * 0.25)) / np.float32(1 + SCATTER * 0.25)) / np.float32(2.2)
    level = np.clip((veiled * 1.6 - q.low) * span, 0, None)
    grey = 1 - np.exp(-np.float32(1.5) * level ** np.float32(q.gamma))
    view = _field_of_view(study, grid.size)
    return np.maximum(grey * view, _marker(study, grid) * view)


def _field_of_view(study: Study, size: int) -> np.ndarray:
    """1 inside the collimator, 0 outside; float32 [S,S]."""
    left, top, right, bottom = study.acquisition.edges
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = axis[None, :], axis[:, None]
    lean = np.float32(study.acquisition.collimator)
    px = 1 / size
    view = step(x - left + lean * (y - 0.5), px) if left else np.ones((size, size), np.float32)
    for edge, distance in ((top, y - top + lean * (x - 0.5)), (right, 1 - right - x), (bottom, 1 - bottom - y)):
        if edge:
            view = view * step(distance - (lean * (y - 0.5) if edge is right else 0), px)
    return view


def _marker(study: Study, grid: Grid) -> np.ndarray:
    """The laterality letter, float32 [S,S] of 0 .. 1."""
    q = study.acquisition
    flat = dataclasses.replace(grid, cos=1.0, sin=0.0, zoom=1.0, x=0.5, y=0.5, px=1 / grid.size)
    tubes = Tubes(flat)
    if q.marker:
        u = q.marker_x if q.marker == "L" else -q.marker_x
        w, h = 0.010, 0.016
        strokes = [[(u - w, q.marker_y - h), (u - w, q.marker_y + h)]]
        if q.marker == "L":
            strokes.append([(u - w, q.marker_y + h), (u + w, q.marker_y + h)])
        else:
            bowl = [(u - w, q.marker_y - h), (u + w, q.marker_y - 0.5 * h), (u - w, q.marker_y)]
            strokes += [bowl, [(u - w, q.marker_y), (u + w, q.marker_y + h)]]
        for stroke in strokes:
            tubes.add(np.array(stroke), radius=0.0035, density=1.2)
    return np.minimum(tubes.draw(), 0.97)
