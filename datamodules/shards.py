"""Images of a manifest as one array of resized pixels, made once; and where each finding is, as masks.

`read_image` is the only place that decodes a picture. What it cannot read is an error, never a black image.
"""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image, UnidentifiedImageError

from datamodules.files import temporary_beside
from datamodules.manifest import Box, Manifest, decode_boxes
from datamodules.reports.labels import FINDINGS

SCHEMA = 1
PHANTOM = "phantom:"
# Starting workers takes about a second, which is what this many images take.
IN_PROCESS = 256
CHUNK = 64
SHOWN = 5


def read_image(reference: str, *, size: int) -> np.ndarray:
    """One radiograph, grey: uint8 [size, size].

    A picture that is not square is padded with black to a centred square: nothing is cut off, nothing is stretched.
    Eight bits are taken as they are; 16 bits and floats are scaled: the smallest value becomes 0, the largest 255.

    Args:
        reference: path of a picture that Pillow reads, or "phantom:<seed>:<index>".
        size: side in pixels.

    Raises:
        ValueError: naming the file, when it is missing, truncated, no picture, or has nothing in it.
    """
    if reference.startswith(PHANTOM):
        from datamodules.phantom import render
        from datamodules.phantom.study import study

        seed, index = _phantom(reference)
        return _checked(render.render(study(seed, index), size=size), reference, size)
    try:
        with Image.open(reference) as picture:
            # A JPEG decodes at 1/2, 1/4 or 1/8 for little; twice the wanted side keeps 55 dB to the full decode.
            picture.draft("L", (2 * size, 2 * size))
            grey = _grey(picture, reference)
    except FileNotFoundError as error:
        raise ValueError(f"{reference}: there is no such image; mend the path in the table, or the root") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{reference}: cannot be read as an image ({error}); fetch it again, or take its row out of the table"
        ) from error
    width, height = grey.size
    side = max(width, height)
    if width != height:
        square = Image.new("L", (side, side), 0)
        square.paste(grey, ((side - width) // 2, (side - height) // 2))
        grey = square
    if side != size:
        grey = grey.resize((size, size), Image.Resampling.BICUBIC)
    return _checked(np.array(grey, dtype=np.uint8), reference, size)


def read_masks(reference: str, *, boxes: str | Sequence[Box], size: int) -> np.ndarray:
    """Where each finding is: bool [14, size, size], all False where that is not known.

    Args:
        reference: as in `read_image`; a phantom has its own masks.
        boxes: the manifest's `boxes` of the row. A box covers the pixels whose centres lie in it.
        size: side in pixels.
    """
    if reference.startswith(PHANTOM):
        from datamodules.phantom import render
        from datamodules.phantom.study import study

        seed, index = _phantom(reference)
        return np.asarray(render.masks(study(seed, index), size=size), dtype=bool)
    masks = np.zeros((len(FINDINGS), size, size), dtype=bool)
    found = decode_boxes(boxes) if isinstance(boxes, str) else boxes
    if not found:
        return masks
    with Image.open(reference) as picture:  # reads the header only
        width, height = picture.size
    side = max(width, height)
    centres = (np.arange(size) + 0.5) / size
    for box in found:
        # Boxes are fractions of the picture; the padding of read_image moves and shrinks them.
        left, right = ((x * width + (side - width) // 2) / side for x in (box.x0, box.x1))
        top, bottom = ((y * height + (side - height) // 2) / side for y in (box.y0, box.y1))
        inside = ((centres >= top) & (centres < bottom))[:, None] & ((centres >= left) & (centres < right))[None, :]
        masks[FINDINGS.index(box.finding)] |= inside
    return masks


def images_digest(manifest: Manifest, *, size: int) -> str:
    """Sha256 over which pictures these are, in which order, at which size; reports and labels do not enter.

    A phantom is drawn by this package, so the text of its code enters: after a change its images are made again.
    """
    state = hashlib.sha256(f"images:{SCHEMA}:{size}:{manifest.source}\n".encode())
    if manifest.frame["image"].str.startswith(PHANTOM).any():
        state.update(phantom_code().encode())
    for image_id, image in zip(manifest.frame["image_id"], manifest.frame["image"], strict=True):
        state.update(f"{image_id}\t{image}\n".encode())
    return state.hexdigest()


def phantom_code() -> str:
    """Sha256 of the files that decide what a phantom's image, report and labels are."""
    here = Path(__file__).parent
    files = [
        *sorted((here / "phantom").glob("*.py")),
        here / "layouts" / "phantom.py",
        here / "reports" / "sections.py",
    ]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def build_store(manifest: Manifest, *, size: int, folder: str | Path) -> Path:
    """Resize every image of the manifest once.

    Args:
        manifest: each row has an image.
        size: side in pixels.
        folder: where the array is kept.

    Returns:
        Path of a `.npy`, uint8 [N, size, size] in the manifest's order, named by `images_digest`. One that is there is
        used again. It is written under a temporary name and renamed when complete.

    Raises:
        ValueError: naming the first images that cannot be read, and how many there are.
    """
    folder = Path(folder)
    path = folder / f"images-{images_digest(manifest, size=size)[:12]}-{size}.npy"
    if path.is_file():
        open_store(path, count=len(manifest), size=size)
        return path
    references, ids = list(manifest.frame["image"]), list(manifest.frame["image_id"])
    missing = [i for i, reference in zip(ids, references, strict=True) if not reference]
    if missing:
        raise ValueError(
            f"{manifest.source}: image {missing[0]} has no file ({len(missing)} rows); serve it as text only"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if not path.is_file():  # another process may have made it meanwhile
            _write_store(path, manifest.source, references, ids, size)
    open_store(path, count=len(manifest), size=size)
    return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold `path` for this process: stages of a chain or the jobs of a sweep start at once and want the same images."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"images: waiting for another process that is making {path.name}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_store(path: Path, source: str, references: list[str], ids: list[str], size: int) -> None:
    temporary = temporary_beside(path)
    try:
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(ids), size, size))
        store.flush()
        del store
        failures = _fill(temporary, references, ids, size)
        if failures:
            shown = "\n  ".join(failures[:SHOWN])
            raise ValueError(f"{source}: {len(failures)} of {len(ids)} images cannot be read:\n  {shown}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_store(path: str | Path, *, count: int, size: int) -> np.ndarray:
    """The array of `build_store`, memory-mapped.

    Raises:
        ValueError: when it is not uint8 [count, size, size].
    """
    store = np.load(path, mmap_mode="r", allow_pickle=False)
    if store.dtype != np.uint8 or store.shape != (count, size, size):
        raise ValueError(
            f"{path}: expected uint8 {(count, size, size)} and found {store.dtype} {store.shape}; remove the file, it "
            "is made again"
        )
    return store


def _fill(path: Path, references: list[str], ids: list[str], size: int) -> list[str]:
    jobs = [
        (start, references[start : start + CHUNK], ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK)
    ]
    # What Slurm or a container granted, not what the node has.
    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    # A spawned worker imports the main module again, which a script read from standard input does not allow.
    main = getattr(sys.modules["__main__"], "__file__", None)
    if len(ids) <= IN_PROCESS or workers < 2 or (main is not None and not Path(main).is_file()):
        return [failure for job in jobs for failure in _fill_chunk(path, *job, size)]
    failures: dict[int, list[str]] = {}
    began, told = time.monotonic(), time.monotonic()
    # Spawned, not forked: a fork of a process in which torch or CUDA has threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_fill_chunk, path, *job, size): job[0] for job in jobs}
        for done, future in enumerate(as_completed(pending), start=1):
            failures[pending[future]] = future.result()
            if time.monotonic() - told > 5:
                told = time.monotonic()
                count = min(done * CHUNK, len(ids))
                print(f"images: {count}/{len(ids)}, {count / (told - began):.0f}/s", file=sys.stderr, flush=True)
    return [failure for start in sorted(failures) for failure in failures[start]]


def _fill_chunk(path: Path, start: int, references: list[str], ids: list[str], size: int) -> list[str]:
    store = np.load(path, mmap_mode="r+")
    failures = []
    for offset, (reference, image_id) in enumerate(zip(references, ids, strict=True)):
        try:
            store[start + offset] = read_image(reference, size=size)
        except ValueError as error:
            failures.append(f"image {image_id}: {error}")
    store.flush()
    return failures


def _grey(picture: Image.Image, reference: str) -> Image.Image:
    if picture.mode not in ("F", "I") and not picture.mode.startswith("I;16"):
        return picture.convert("L")
    values = np.asarray(picture, dtype=np.float32)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{reference}: {bad} of {values.size} pixels are not finite; fetch the image again")
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ValueError(f"{reference}: every pixel is {low:g}, there is nothing in it; take its row out of the table")
    return Image.fromarray(np.round((values - low) * (255.0 / (high - low))).astype(np.uint8))


def _phantom(reference: str) -> tuple[int, int]:
    parts = reference.split(":")
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise ValueError(f"{reference}: is not a phantom; expected phantom:<seed>:<index>")
    return int(parts[1]), int(parts[2])


def _checked(pixels: np.ndarray, reference: str, size: int) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.shape != (size, size):
        raise ValueError(f"{reference}: expected uint8 {(size, size)} and found {pixels.dtype} {pixels.shape}")
    return pixels
