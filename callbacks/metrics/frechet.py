"""Fréchet distance, its jackknife, and the kernel distance (KID) of two feature sets: pure functions, float64.

Fréchet distance (Heusel et al., arXiv 1706.08500): |μx - μy|² + tr Σx + tr Σy - 2 tr (Σx Σy)^½. With Σx = A Aᵀ and
Σy = B Bᵀ the last trace is the sum of the singular values of Aᵀ B, with no matrix square root and no ridge: exact also
where Σ is singular. Of few images A and B are their centred features and Aᵀ B is as small as they are few. Of many,
A is the Cholesky factor, and the eigenvalues of Aᵀ Σy A, the squares of these singular values, take half the time.
KID: arXiv 1801.01401. N, M images of D features.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

EXACT = 1e-9  # of the traces: an error below this is none
BLOCK = 1024  # rows of a kernel at a time: 80 MB at 10,000 images


class Moments(NamedTuple):
    """Mean and covariance of one feature set, float64."""

    mean: Tensor  # [D]
    rows: Tensor | None  # [N,D], where N ≤ D: rowsᵀ rows is the unbiased covariance
    covariance: Tensor | None  # [D,D], where N > D
    n: int

    @property
    def variance(self) -> Tensor:
        """The trace of the covariance."""
        return self.rows.square().sum() if self.rows is not None else cast(Tensor, self.covariance).trace()


class Jackknife(NamedTuple):
    """A Fréchet distance, and what leaving out patients tells of it."""

    distance: float
    error: float  # its standard error
    infinity: float  # the distance less its bias of 1/N; may be negative, for it is unbiased around 0


class KernelDistance(NamedTuple):
    """KID over subsets."""

    mean: float
    std: float  # over the subsets; NaN where there is only one
    subset_size: int
    subsets: int


def moments(features: Tensor) -> Moments:
    """Mean and covariance factor of float [N,D].

    Raises:
        ValueError: for N < 2, or features that are not finite or the same in all images.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"features of the shape {list(features.shape)}; a covariance needs [N, D] of at least 2 images"
        )
    x = features.detach().cpu().double()
    if not torch.isfinite(x).all():
        raise ValueError(f"features of {int((~torch.isfinite(x)).any(1).sum())} of {len(x)} images are not finite")
    mean = x.mean(0)
    rows = (x - mean) / math.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return Moments(mean, rows, None, len(x))
    return Moments(mean, None, rows.T @ rows, len(x))


def frechet_distance(x: Moments, y: Moments) -> float:
    """The squared Fréchet (2-Wasserstein) distance of the Gaussians with these moments; 0 for equal ones.

    The plug-in value of finite samples is biased upwards by about 1/N: compare only at equal N.
    """
    if x.mean.shape != y.mean.shape:
        raise ValueError(f"{x.mean.numel()} and {y.mean.numel()} features: the extractors differ")
    distance = (x.mean - y.mean).square().sum() + x.variance + y.variance - 2 * _cross(x, y)
    # Rounding may leave -1e-13 where the sets are equal.
    return max(0.0, distance.item())


def _cross(x: Moments, y: Moments) -> Tensor:
    """Tr (Σx Σy)^½."""
    if x.rows is not None and y.rows is not None:
        return torch.linalg.svdvals(x.rows @ y.rows.T).sum()
    if x.covariance is None:
        x, y = y, x
    # The root of y: its rows, or what is as good.
    root = y.rows if y.rows is not None else _root(cast(Tensor, y.covariance))  # R D
    covariance = cast(Tensor, x.covariance)
    values = torch.linalg.eigvalsh(root @ covariance @ root.T).clamp_min(0)
    # Rounding moves an eigenvalue by `slip` at most, and the root of one below by the root of that. Where so many
    # are that small that the sum is no longer exact, the singular values themselves, twice as slow, are.
    slip = values[-1] * torch.finfo(values.dtype).eps
    if (values < slip).sum() * slip.sqrt() > EXACT * (x.variance + y.variance):
        return torch.linalg.svdvals(root @ _root(covariance).T).sum()
    return values.sqrt().sum()


def _root(covariance: Tensor) -> Tensor:
    """R [r,D] with Rᵀ R = the covariance [D,D]: its Cholesky factor, or where it is singular its eigenvectors."""
    factor, failed = torch.linalg.cholesky_ex(covariance, upper=True)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return (vectors[:, kept] * values[kept].sqrt()).T


def jackknife(x: Tensor, y: Tensor, groups: Tensor, *, folds: int = 20) -> Jackknife:
    """How sure the Fréchet distance of x [N,D] and y [N,D] is, and where it tends with N; row i of both is of group i.

    Delete-a-group jackknife for unequal groups (Busing, Meijer & van der Leeden, 1999): patients are dealt into `folds`
    parts, each part is left out of both sets in turn. The bootstrap is not used: repeated rows lower the rank of the
    covariance, which moves a Fréchet distance up by more than its own spread. What leaving parts out adds says how
    much of the distance the finite N adds, as far as that is 1/N (Chong & Forsyth, arXiv 1911.07023, fit the same
    line to subsets of many sizes): no more than a hint where N is not several times D.

    On Gaussian sets the mean error is the standard deviation over fresh draws within 30 % where N > D, and up to 35 %
    above it where N < D; a single value scatters by about 20 % of itself.

    Returns:
        Error and infinity are NaN for fewer than 3 patients or 6 images, of which no spread can be told.
    """
    of_x, of_y = moments(x), moments(y)
    whole = frechet_distance(of_x, of_y)
    _, patient = torch.unique(groups, return_inverse=True)
    patients = int(patient.max()) + 1 if len(patient) else 0
    folds = min(folds, patients)
    if folds < 3 or len(x) < 6:
        return Jackknife(whole, math.nan, math.nan)
    part = patient * folds // patients
    without = _Parted(x, of_x, part), _Parted(y, of_y, part)
    pseudo, weights = [], []
    for fold in range(folds):
        kept = part != fold
        if int(kept.sum()) < 2:
            return Jackknife(whole, math.nan, math.nan)
        h = len(x) / int((~kept).sum())
        pseudo.append(h * whole - (h - 1) * frechet_distance(*(side.without(fold) for side in without)))
        weights.append(h)
    value, h_all = torch.tensor(pseudo, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    centre = (value / h_all).sum()
    error = math.sqrt(((value - centre).square() / (h_all - 1)).mean().item())
    return Jackknife(whole, error, centre.item())


class _Parted:
    """Moments of a set without one of its parts: a part's sums are taken from those of the whole, where N > D."""

    def __init__(self, features: Tensor, whole: Moments, part: Tensor) -> None:
        self.features, self.part, self.mean = features, part, whole.mean
        self.centred = features.detach().cpu().double() - self.mean
        self.scatter = None if whole.covariance is None else whole.covariance * (whole.n - 1)

    def without(self, fold: int) -> Moments:
        left = self.centred[self.part == fold]
        n = len(self.centred) - len(left)
        if self.scatter is None or n <= len(self.mean):
            return moments(self.features[self.part != fold])
        shift = -left.sum(0) / n
        covariance = (self.scatter - left.T @ left - n * torch.outer(shift, shift)) / (n - 1)
        return Moments(self.mean + shift, None, covariance, n)


def kid(x: Tensor, y: Tensor, *, subset_size: int = 1000, subsets: int = 100, seed: int = 0) -> KernelDistance:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³, averaged over random subsets of both sets.

    Args:
        x: float [N,D].
        y: float [M,D].
        subset_size: images a subset; where it is N and M or more, the one whole set is taken instead.
        subsets: how many are drawn, each without repeats.
        seed: of the draws.

    Returns:
        May be slightly negative for equal distributions: it is unbiased around 0.

    Raises:
        ValueError: for fewer than 2 images.
    """
    size = min(subset_size, len(x), len(y))
    if size < 2:
        raise ValueError(f"KID needs at least 2 images a side; there are {len(x)} and {len(y)}")
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    if size == len(x) == len(y):
        return KernelDistance(_mmd(x, y), math.nan, size, 1)
    generator = torch.Generator().manual_seed(seed)
    drawn = [[torch.randperm(len(z), generator=generator)[:size] for z in (x, y)] for _ in range(subsets)]
    if len(x) * len(y) <= subsets * size**2:  # the whole kernel has fewer elements than those of the subsets
        values = _mmds(x, y, *(_members(len(z), [pair[i] for pair in drawn]) for i, z in enumerate((x, y))))
    else:
        values = torch.tensor([_mmd(x[i], y[j]) for i, j in drawn], dtype=torch.float64)
    spread = values.std().item() if subsets > 1 else math.nan
    return KernelDistance(values.mean().item(), spread, size, subsets)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mmd(x: Tensor, y: Tensor) -> float:
    m = len(x)
    kxx, kyy, kxy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = kxx.sum() - kxx.trace() + kyy.sum() - kyy.trace()
    return (within / (m * (m - 1)) - 2 * kxy.sum() / (m * m)).item()


def _members(n: int, subsets: list[Tensor]) -> Tensor:
    """Float64 [n,S]: 1 where a row is in a subset."""
    members = torch.zeros(n, len(subsets), dtype=torch.float64)
    for column, rows in enumerate(subsets):
        members[rows, column] = 1
    return members


def _mmds(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    """`_mmd` of S pairs of subsets, float64 [S]: each kernel is computed once, and summed over the subsets' members."""

    def summed(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
        parts = zip(a.split(BLOCK), of_a.split(BLOCK), strict=True)
        return torch.stack([(members * (_kernel(rows, b) @ of_b)).sum(0) for rows, members in parts]).sum(0)

    m = of_x[:, 0].sum()
    within = sum(
        summed(z, z, of_z, of_z) - (z.square().sum(1) / z.shape[1] + 1) ** 3 @ of_z
        for z, of_z in ((x, of_x), (y, of_y))
    )
    return within / (m * (m - 1)) - 2 * summed(x, y, of_x, of_y) / (m * m)
