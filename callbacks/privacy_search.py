"""From generated, held-out and training images to the nearest training image of each, by every detector.

Each rank reads its share of the training images, a block at a time, and compares all queries with it; what is kept is
the nearest so far. So memory grows with the queries and not with the training set, which is read once. Only the few
candidates of the pixel detector are read again, to be aligned. Q queries, C windows an image.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from callbacks.extraction import check_images, extract
from callbacks.metrics.bank import RowBank, id_hash
from callbacks.metrics.copied_patches import patch_scores, shifted_windows, window_distances, windows
from callbacks.metrics.nearest import Nearest, least_distances, nearest_rows
from callbacks.metrics.ranks import from_all_ranks
from callbacks.metrics.registration import (
    COARSE,
    FINE,
    SHARP,
    aligned,
    coarse,
    coarse_distances,
    fine,
    placed_distance,
    sharp,
)
from callbacks.protocols import FeatureExtractor, SplitDataset
from callbacks.reading import BLOCK, drawn, read_images

PAIRS = 256  # aligned at a time
PIXEL, PATCH = "pixel", "patch"

Spaces = Mapping[str, FeatureExtractor]
Redraw = Callable[[Tensor], Tensor]  # see protocols.Redraws


class Collected(NamedTuple):
    """A set of N images as all ranks see it, in the order of their ids' hashes."""

    ids: list[str]
    rows: dict[str, Tensor]  # "coarse", "fine", "sharp" and the names of the extractors → float32 [N,D]


class Found(NamedTuple):
    """The nearest training image of Q queries by each detector; training images' distances to generated ones."""

    distances: dict[str, Tensor]  # detector → float32 [Q]
    places: dict[str, Tensor]  # detector → int64 [Q], rows of the training split
    members: dict[str, Tensor]  # extractor → float32 [M]

    def apart(self, made: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The distances of the generated images, which are the first, and those of the held-out ones."""
        of_made = {name: one[:made] for name, one in self.distances.items()}
        return of_made, {name: one[made:] for name, one in self.distances.items()}


class Gatherer:
    """Small pictures and features of images that come in batches on many ranks.

    Args:
        spaces: extractors by name.
        device: of the images.
        what: they are called in errors.
    """

    def __init__(self, spaces: Spaces, *, device: torch.device, what: str) -> None:
        self.spaces, self.what = spaces, what
        widths = {"coarse": COARSE**2, "fine": FINE**2, "sharp": SHARP**2}
        widths |= {name: int(one.num_features) for name, one in spaces.items()}
        self.banks = {kind: RowBank(width).to(device) for kind, width in widths.items()}
        for bank in self.banks.values():
            bank.start()  # on the device, so that a rank without images gathers a tensor that its backend can send
        self.ids: list[str] = []

    def add(self, images: Tensor, ids: Sequence[str]) -> None:
        """Add checked images [B,1,H,W]."""
        if not len(ids):
            return
        for kind, rows in rows_of(images, ids, spaces=self.spaces, what=self.what).items():
            self.banks[kind].update(rows, ids, ids)
        self.ids += ids

    def gathered(self) -> Collected:
        """What all ranks have added, each image once; all take part."""
        parts = from_all_ranks(self.ids)
        ids = sorted({name for part in parts for name in part}, key=id_hash)
        return Collected(ids, {kind: bank.compute().values for kind, bank in self.banks.items()})


def rows_of(images: Tensor, ids: Sequence[str], *, spaces: Spaces, what: str) -> dict[str, Tensor]:
    """What the detectors compare of checked images [B,1,H,W], see `Collected.rows`."""
    rows = {"coarse": coarse(images).flatten(1), "fine": fine(images).flatten(1), "sharp": sharp(images).flatten(1)}
    return rows | {name: extract(one, images, method="features", what=what, ids=ids) for name, one in spaces.items()}


def search(
    training: SplitDataset,
    made: Collected,
    held: Collected,
    *,
    spaces: Spaces,
    candidates: int,
    redraw: Redraw | None,
    seed: int,
    rank: int,
    world: int,
    device: torch.device,
) -> Found:
    """Compare the generated images, and the held-out ones after them, with the whole training split.

    Args:
        training: the split.
        made: the generated images.
        held: the held-out images; also the number of training images whose membership is inferred.
        spaces: extractors by name.
        candidates: training images that each query is aligned with.
        redraw: what draws the images; the training image that a query is nearest to is compared as it is and redrawn.
        seed: of the draw of members.
        rank: this process.
        world: number of processes, which share the training rows and the alignments.
        device: where it is computed.
    """
    queries = {kind: torch.cat([made.rows[kind], held.rows[kind]]).to(device) for kind in made.rows}
    pictures = queries["fine"].unflatten(1, (FINE, FINE))
    small = queries["coarse"].unflatten(1, (COARSE, COARSE))
    cells = windows(pictures[:1]).shape[1]
    near = {name: Nearest(len(pictures), k=1).to(device) for name in spaces}
    near["candidates"] = Nearest(len(pictures), k=candidates).to(device)
    near["windows"] = Nearest(len(pictures) * cells, k=1).to(device)
    members = set(drawn(len(training), len(held.ids), seed=seed))
    inferred = RowBank(len(spaces)).to(device)
    inferred.start()
    for images, ids, places in read_images(training, range(rank, len(training), world), device=device, what="training"):
        rows = rows_of(images, ids, spaces=spaces, what="training")
        keys = torch.tensor(places, device=device)
        for name in spaces:
            distances, at = nearest_rows(queries[name], rows[name], k=1)
            near[name].update(distances, keys[at])
        distances = coarse_distances(small, rows["coarse"].unflatten(1, (COARSE, COARSE)))
        distances, at = distances.topk(min(candidates, len(places)), dim=1, largest=False)
        near["candidates"].update(distances, keys[at])
        at_windows = windows(rows["fine"].unflatten(1, (FINE, FINE)))
        parts = [window_distances(shifted_windows(part), at_windows) for part in pictures.split(BLOCK)]
        distances, at = (torch.cat(side).flatten()[:, None] for side in zip(*parts, strict=True))
        near["windows"].update(distances, keys[at])
        if chosen := [i for i, place in enumerate(places) if place in members]:
            least = [least_distances(rows[name][chosen], made.rows[name].to(device)) for name in spaces]
            names = [ids[i] for i in chosen]
            inferred.update(torch.stack(least, dim=1) if least else rows["fine"].new_empty(len(names), 0), names, names)
    merged = {name: one.compute() for name, one in near.items()}
    results = {
        PIXEL: _registered(
            training, pictures, queries["sharp"].unflatten(1, (SHARP, SHARP)), merged["candidates"][1],
            redraw=redraw, rank=rank, world=world,
        )
    }  # fmt: skip
    distances, at = (side.view(-1, cells) for side in merged["windows"])
    usual = distances[len(made.ids) :].median(dim=0).values
    least_, cell = patch_scores(distances, usual)
    results[PATCH] = least_, at.gather(1, cell[:, None])[:, 0]
    results |= {name: (merged[name][0][:, 0], merged[name][1][:, 0]) for name in spaces}
    rows_of_members = inferred.compute().values
    return Found(
        {name: one[0] for name, one in results.items()},
        {name: one[1] for name, one in results.items()},
        {name: rows_of_members[:, column] for column, name in enumerate(spaces)},
    )


def _registered(
    training: SplitDataset,
    pictures: Tensor,
    larger: Tensor,
    candidates: Tensor,
    *,
    redraw: Redraw | None,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor]:
    """Distance of the candidate that is nearest after alignment, and its place, both [Q]; ranks share the queries.

    A generator draws a training image only as well as its decoder can: that is what a redrawn candidate stands for.
    """
    device, near = pictures.device, Nearest(len(pictures), k=1).to(pictures.device)
    step = max(1, PAIRS // candidates.shape[1])
    own = list(range(rank, len(pictures), world))
    distances = torch.full((len(pictures), 1), torch.inf, device=device)
    nearest = torch.full((len(pictures), 1), -1, device=device)
    for start in range(0, len(own), step):
        queries = own[start : start + step]
        wanted = candidates[queries]
        places, which = wanted.unique(return_inverse=True)
        # -1 stands for a candidate that there is not, where the split has fewer rows.
        real = places.clamp_min(0).tolist()
        read = [(images, ids) for images, ids, _ in read_images(training, real, device=device, what="training")]
        images, names = torch.cat([part for part, _ in read]), [name for _, ids in read for name in ids]
        rows = fine(images)[which.flatten()]
        found, moved = aligned(pictures[queries].repeat_interleave(wanted.shape[1], 0), rows)
        found = found.view(wanted.shape).masked_fill((wanted < 0).to(device), torch.inf)
        first = found.argmin(1).cpu()
        each = torch.arange(len(queries))
        chosen = which[each, first].tolist()
        looks = [images[chosen]]
        if redraw is not None:
            looks.append(check_images(redraw(looks[0]), what="redrawn training", ids=[names[i] for i in chosen]))
        moved = moved.view(*wanted.shape, 3)[each, first]
        as_placed = [placed_distance(larger[queries], sharp(look), moved) for look in looks]
        distances[queries, 0] = torch.stack(as_placed).amin(0)
        nearest[queries, 0] = wanted[each, first].to(device)
    near.update(distances, nearest)
    least, at = near.compute()
    return least[:, 0], at[:, 0]
