"""Where the manifest of a run comes from: prepared shards, the phantom, or a layout."""

import hashlib
import json
from pathlib import Path
from typing import Any

from datamodules import layouts
from datamodules.manifest import SCHEMA, Manifest
from datamodules.prepared import fetch_manifest
from datamodules.shards import phantom_code


def read_source(
    layout: str, root: str | None, layout_options: dict[str, Any], *, shards: str | None, cache_dir: Path
) -> Manifest:
    """Read everything that a layout holds, or what was prepared from it.

    Args:
        layout: one of `datamodules.layouts.NAMES`.
        root: its folder, file or fsspec URL.
        layout_options: what its `read` takes.
        shards: what `python -m datamodules prepare` wrote, a folder or a URL; with it, layout and root are not read.
        cache_dir: where the manifests of phantoms and of URLs are kept.
    """
    if shards is not None:
        return Manifest.load(fetch_manifest(shards, cache=cache_dir))
    if layout != "phantom":
        return layouts.read(layout, root, **layout_options)
    # Describing thousands of phantoms takes longer than reading them back; only options and code change them.
    key = json.dumps([SCHEMA, root, sorted(layout_options.items()), phantom_code()])
    path = cache_dir / f"phantom-{hashlib.sha256(key.encode()).hexdigest()[:12]}.parquet"
    if not path.is_file():
        layouts.read(layout, root, **layout_options).save(path)
    return Manifest.load(path)
