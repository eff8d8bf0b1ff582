"""A picture of the key-patch codebook: the best patches of some words, a row a word. It shows training images."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_modules.networks.key_patch_build import Candidate

MARGIN = 4  # pixels around and between patches
FONT = 12


def atlas_words(entries: Sequence[Candidate], *, words: int) -> list[str]:
    """The words with most entries, pathologies before anatomy: anatomy is named in every report, and would fill it."""
    counts = Counter(entry.word for entry in entries)
    pathologies = {entry.word for entry in entries if entry.kind == "pathology"}
    return sorted(counts, key=lambda word: (word not in pathologies, -counts[word], word))[:words]


def write_atlas(
    entries: Sequence[Candidate], path: str | Path, *, words: int = 20, patches: int = 8, size: int = 48
) -> None:
    """Draw the best patches of words.

    Args:
        entries: all with their pixels.
        path: a PNG.
        words: rows, chosen by `atlas_words`; each is labelled with its word and how many entries it has.
        patches: most in a row, best first.
        size: side of a patch in the picture, in pixels.
    """
    of_word: dict[str, list[Candidate]] = defaultdict(list)
    for entry in entries:
        of_word[entry.word].append(entry)
    rows = {f"{word} ({len(of_word[word])})": of_word[word] for word in atlas_words(entries, words=words)}
    font, step = ImageFont.load_default(FONT), size + MARGIN
    label = max(round(font.getlength(text)) for text in rows) + 2 * MARGIN
    picture = Image.new("L", (label + patches * step, len(rows) * step + MARGIN), 0)
    draw = ImageDraw.Draw(picture)
    for r, (text, of_one) in enumerate(rows.items()):
        top = MARGIN + r * step
        draw.text((MARGIN, top + (size - FONT) // 2), text, fill=255, font=font)
        for c, entry in enumerate(sorted(of_one, key=lambda e: e.key)[:patches]):
            tile = Image.fromarray(np.asarray(entry.pixels)).resize((size, size), Image.Resampling.BICUBIC)
            picture.paste(tile, (label + c * step, top))
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)
