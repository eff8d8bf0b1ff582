"""The format of metrics.json: its schema and the schema's version, and how it is written.

A key that is added leaves the version; one that is renamed, moved or means something else raises it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("metrics.schema.json")  # JSON Schema 2020-12 of the file of one stage


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN) under a temporary name, then move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
