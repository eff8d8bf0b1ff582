"""All that is said of a set of made images by features of one extractor: distances, their controls, and their parts.

N real and N made images of D features, row for row of the same prompt.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from callbacks.metrics.bank import Rows
from callbacks.metrics.frechet import KernelDistance, frechet_distance, jackknife, kid, moments
from callbacks.metrics.manifold import manifold, radii


@dataclasses.dataclass(frozen=True)
class FidelityOptions:
    """How sets are compared.

    Attributes:
        folds: parts of the jackknife.
        kid_subset: images a KID subset; all of them where N is smaller.
        neighbours: k of precision, recall, density and coverage.
        least: images that a part (of a finding, of a view) needs to be measured for itself.
        seed: of the KID subsets.
    """

    folds: int = 20
    kid_subset: int = 1000
    neighbours: int = 5
    least: int = 50
    seed: int = 0


class Fidelity(NamedTuple):
    """Figures by the end of their names, and what is to be said of them."""

    values: dict[str, float]
    protocol: dict[str, Any]


def fidelity(
    real: Rows,
    fake: Rows,
    others: Mapping[str, Rows],
    *,
    name: str,
    options: FidelityOptions,
    parts: Mapping[str, Tensor],
) -> Fidelity:
    """Compare the made with the real images.

    Args:
        real: of the real images.
        fake: of the made ones.
        others: further sets to compare with the real one; "floor" are real images of other patients.
        name: "fid" or "rfid"; KID is called alike.
        options: how.
        parts: bool [N] each, images to be compared for themselves, as many made as real ones.

    Returns:
        `<name>` with `_n`, `_low`, `_high`, `_infinity` and an ending for each of `others`; `<kid>` and `<kid>_floor`;
        precision, recall, density, coverage, with `_floor`; `<name>/<part>` and `<kid>/<part>`. NaN where there are too
        few images, with the reason in `protocol["undefined"]`.
    """
    kernel, n = name.replace("fid", "kid"), len(real.values)
    at_real = moments(real.values)
    distance, error, infinity = jackknife(real.values, fake.values, real.groups, folds=options.folds)
    low = math.nan if math.isnan(error) else max(0.0, distance - 1.96 * error)
    values = {name: distance, f"{name}_n": float(n), f"{name}_low": low, f"{name}_high": distance + 1.96 * error}
    values[f"{name}_infinity"] = infinity
    undefined: dict[str, str] = {}
    if math.isnan(error):
        reason = f"{n} images of too few patients for a jackknife"
        undefined |= dict.fromkeys((f"{name}_low", f"{name}_high", f"{name}_infinity"), reason)
    for kind, rows in others.items():
        values[f"{name}_{kind}"] = frechet_distance(at_real, moments(rows.values))
    whole = _kid(real.values, fake.values, options)
    values[kernel] = whole.mean
    sets = {"": fake}
    if "floor" in others:
        values[f"{kernel}_floor"] = _kid(real.values, others["floor"].values, options).mean
        sets["_floor"] = others["floor"]
    of_real = radii(real.values.double(), neighbours=options.neighbours) if n > options.neighbours else None
    for ending, rows in sets.items():
        shares = _manifold(real.values, rows.values, of_real, options)
        values |= {f"{key}{ending}": value for key, value in shares.items()}
    if n <= options.neighbours:
        few = f"{n} images for {options.neighbours} neighbours"
        undefined |= {key: few for key, value in values.items() if math.isnan(value) and key not in undefined}
    counts = {}
    for part, chosen in parts.items():
        counts[part] = int(chosen.sum())
        if counts[part] >= options.least:
            own, made = real.values[chosen], fake.values[chosen]
            values[f"{name}/{part}"] = frechet_distance(moments(own), moments(made))
            values[f"{kernel}/{part}"] = _kid(own, made, options).mean
    return Fidelity(
        values,
        {
            "n": n,
            "patients": int(real.groups.unique().numel()),
            "repeated_left_out": real.repeated,
            "seed": options.seed,
            "interval": f"± 1.96 jackknife errors, patients in {options.folds} parts; of the biased figure at this N",
            "kid": {"subset_size": whole.subset_size, "subsets": whole.subsets},
            "neighbours": options.neighbours,
            "parts": counts,
            "least": options.least,
            "rank_deficient": _rank_warning(n, real.values.shape[1]),
            "undefined": undefined,
        },
    )


def _kid(x: Tensor, y: Tensor, options: FidelityOptions) -> KernelDistance:
    return kid(x, y, subset_size=options.kid_subset, seed=options.seed)


def _manifold(real: Tensor, fake: Tensor, of_real: Tensor | None, options: FidelityOptions) -> dict[str, float]:
    if of_real is None:
        return dict.fromkeys(("precision", "recall", "density", "coverage"), math.nan)
    return manifold(real, fake, neighbours=options.neighbours, real_radii=of_real)._asdict()


def _rank_warning(n: int, width: int) -> str | None:
    if n > width:
        return None
    return (
        f"{n} images for {width} features: the covariance is singular and the bias of the Fréchet distance large; "
        "rely on KID, and on differences from the floor"
    )
