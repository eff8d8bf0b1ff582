"""Large JPEGs as hospitals have them: phantoms of 3,000 px with grain, about as large as MIMIC-CXR's are."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.phantom.render import render
from datamodules.phantom.study import study

SIDE = 3000


def write_jpegs(folder: Path, count: int) -> list[Path]:
    """`count` different files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(0), []
    for n in range(count):
        drawn = Image.fromarray(render(study(0, n), size=512)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 1.2, (SIDE, SIDE)).astype(np.float32)
        pixels = np.clip(np.asarray(drawn, dtype=np.float32) + grain + 0.5, 0, 255).astype(np.uint8)
        paths.append(folder / f"{n:03d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=95)
    return paths
