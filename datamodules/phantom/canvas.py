"""Drawing primitives of the phantom: the pixel grid in body coordinates, soft edges, tubes, smooth random fields.

Everything is defined in body coordinates and antialiased to the pixel, so that a picture at S pixels is about the area
average of the same picture at 2S.
"""

import dataclasses
import functools

import numpy as np

from datamodules.phantom.study import Study

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Pixel centres of an S × S picture in body coordinates: u to the patient's left of the midline, v downwards.

    Attributes:
        size: S.
        u: float32 [S,S].
        v: float32 [S,S].
        px: one pixel's side in body units.
        cos, sin, zoom, x, y: the map back: x + zoom * (u cos - v' sin), with v' = v - 0.5.
    """

    size: int
    u: np.ndarray
    v: np.ndarray
    px: float
    cos: float
    sin: float
    zoom: float
    x: float
    y: float

    def to_pixels(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Body coordinates to fractional pixel indices (column, row)."""
        column = self.x + self.zoom * (u * self.cos - (v - 0.5) * self.sin)
        row = self.y + self.zoom * (u * self.sin + (v - 0.5) * self.cos)
        return column * self.size - 0.5, row * self.size - 0.5


def make_grid(study: Study, *, size: int) -> Grid:
    """The grid of S = `size` pixels as the study was exposed (zoomed, shifted, tilted)."""
    acquisition = study.acquisition
    cos, sin = float(np.cos(acquisition.tilt)), float(np.sin(acquisition.tilt))
    x0, y0 = 0.5 + acquisition.shift_x, 0.5 + acquisition.shift_y
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = ((axis - x0) / acquisition.zoom)[None, :]
    y = ((axis - y0) / acquisition.zoom)[:, None]
    u = (x * cos + y * sin).astype(np.float32)
    v = (y * cos - x * sin + 0.5).astype(np.float32)
    return Grid(size, u, v, 1 / (size * acquisition.zoom), cos, sin, acquisition.zoom, x0, y0)


def step(distance: np.ndarray, width: float) -> np.ndarray:
    """0 for distance ≤ -width/2, 1 for ≥ width/2, linear between."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


def chord(grid: Grid, centre: Point, radii: Point, *, shear: float = 0.0) -> np.ndarray:
    """Path length through an ellipsoid, as a fraction of its longest: float32 [S,S], 0 outside.

    Args:
        grid: where to evaluate it.
        centre: (u, v).
        radii: along u and v.
        shear: du/dv of the ellipsoid's long axis.
    """
    dv = grid.v - np.float32(centre[1])
    du = grid.u - np.float32(centre[0])
    if shear:
        du -= np.float32(shear) * dv
    square = 1 - (du * np.float32(1 / radii[0])) ** 2 - (dv * np.float32(1 / radii[1])) ** 2
    return np.sqrt(np.maximum(square, 0))


@functools.lru_cache(maxsize=64)
def _interpolation(size: int, cells: int) -> np.ndarray:
    """Cubic B-spline weights [size, cells + 3] of pixel centres over `cells` equal cells."""
    position = (np.arange(size) + 0.5) / size * cells
    cell = np.minimum(position.astype(int), cells - 1)
    t = position - cell
    weights = np.zeros((size, cells + 3), np.float32)
    rows = np.arange(size)
    weights[rows, cell] = (1 - t) ** 3 / 6
    weights[rows, cell + 1] = (3 * t**3 - 6 * t**2 + 4) / 6
    weights[rows, cell + 2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights[rows, cell + 3] = t**3 / 6
    return weights


def field(rng: np.random.Generator, *, cells: int, size: int) -> np.ndarray:
    """A smooth random field of about unit variance, float32 [S,S]: the same landscape at every size.

    Args:
        rng: draws (cells + 3)² normal numbers, whatever the size.
        cells: waves a side, about.
        size: S.
    """
    knots = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    weights = _interpolation(size, cells)
    # A cubic B-spline of unit normals has a standard deviation of about 0.48 (= Σ w² averaged over a cell).
    return (weights @ knots @ weights.T) * np.float32(1 / 0.48)


@functools.lru_cache(maxsize=512)
def _resample(n: int, count: int) -> np.ndarray:
    """Weights [count,n] of linear interpolation at the middles of `count` equal parts of n points."""
    at = (np.arange(count) + 0.5) / count * (n - 1)
    low = np.minimum(at.astype(int), n - 2)
    weights = np.zeros((count, n))
    weights[np.arange(count), low] = 1 - (at - low)
    weights[np.arange(count), low + 1] = at - low
    return weights


@dataclasses.dataclass
class Tubes:
    """Collects tubes (vessels, catheters, wires, bones) and draws them all with one histogram.

    A tube is a curve with a radius; what is drawn is the chord length through it, spread over the pixels it covers so
    that its integral does not depend on the resolution.
    """

    grid: Grid

    def __post_init__(self) -> None:
        self._u: list[np.ndarray] = []
        self._v: list[np.ndarray] = []
        self._mass: list[np.ndarray] = []

    def add(
        self, points: np.ndarray, *, radius: float | np.ndarray, density: float | np.ndarray, hollow: bool = False
    ) -> None:
        """Add curves of about equal length, each of points at about equal distances.

        Args:
            points: float [N,2] or [M,N,2] of (u, v), joined by straight lines.
            radius: of the tube: one, or one a point as [N] or [M,N] or [M,1].
            density: attenuation along the tube's full diameter, one or one a point.
            hollow: concentrate the density at the walls, as in a catheter.
        """
        points = points[None] if points.ndim == 2 else points
        m, n = points.shape[:2]
        stride = 0.8 * self.grid.px
        longest = float(np.hypot(*np.moveaxis(np.diff(points, axis=1), -1, 0)).sum(axis=1).max())
        weights = _resample(n, max(2, int(np.ceil(longest / stride))))  # [K,N]
        track = weights @ points  # [M,K,2]
        r = np.broadcast_to(radius, (m, n)) @ weights.T  # [M,K]
        d = np.broadcast_to(density, (m, n)) @ weights.T
        tangent = np.gradient(track, axis=1)
        ds = np.maximum(np.hypot(tangent[..., 0], tangent[..., 1]), 1e-9)
        lanes = max(1, int(np.ceil(2 * float(r.max()) / stride)))
        offset = (np.arange(lanes) + 0.5) / lanes * 2 - 1
        profile = np.sqrt(1 - offset**2) if lanes > 1 else np.array([np.pi / 4])
        if hollow and lanes > 2:
            profile = profile - 0.8 * np.sqrt(np.maximum(0.64 - offset**2, 0)) + 0.12
        offset, profile = offset[:, None, None], profile[:, None, None]
        self._u.append((track[..., 0] - offset * (r * tangent[..., 1] / ds)).ravel())
        self._v.append((track[..., 1] + offset * (r * tangent[..., 0] / ds)).ravel())
        self._mass.append((profile * (d * ds * r * (2 / lanes))).ravel())

    def draw(self) -> np.ndarray:
        """The attenuation of all tubes, float32 [S,S]."""
        size = self.grid.size
        if not self._u:
            return np.zeros((size, size), np.float32)
        column, row = self.grid.to_pixels(np.concatenate(self._u), np.concatenate(self._v))
        mass = np.concatenate(self._mass) / self.grid.px**2
        # A margin of one pixel takes what lies outside, and is cut off.
        column, row = np.clip(column + 1, 0, size + 0.999), np.clip(row + 1, 0, size + 0.999)
        c, r = column.astype(np.int64), row.astype(np.int64)
        fc, fr = column - c, row - r
        wide = size + 3
        index = r * wide + c
        total = np.bincount(
            np.concatenate([index, index + 1, index + wide, index + wide + 1]),
            np.concatenate([mass * (1 - fc) * (1 - fr), mass * fc * (1 - fr), mass * (1 - fc) * fr, mass * fc * fr]),
            minlength=wide * wide,
        )
        return total.reshape(wide, wide)[1 : size + 1, 1 : size + 1].astype(np.float32)


def curve(*points: Point, steps: int = 24) -> np.ndarray:
    """A smooth curve [steps,2] through the points (Catmull-Rom)."""
    knots = np.array([points[0], *points, points[-1]], dtype=np.float64)
    segment = np.linspace(0, len(points) - 1, steps)
    i = np.minimum(segment.astype(int), len(points) - 2)
    t = (segment - i)[:, None]
    p0, p1, p2, p3 = knots[i], knots[i + 1], knots[i + 2], knots[i + 3]
    return 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
