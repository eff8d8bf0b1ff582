"""Names under which a file is written before it is renamed."""

import uuid
from pathlib import Path


def temporary_beside(path: Path) -> Path:
    """A name of its own in the folder of `path`: several processes, also of several nodes, may write at once."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
