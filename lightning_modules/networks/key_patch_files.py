"""The key-patch codebook on disk: `key_patches.safetensors` for retrieval, and a Parquet table of its entries to read.

Both hold the digests of what they were made from, and the same entries in the same order. Equal entries make equal
bytes.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.key_patch_build import Candidate, KeyPatchOptions
from lightning_modules.networks.key_patches import SIDES, KeyPatchConfig
from lightning_modules.networks.text_numbers import text_number

SCHEMA = 2
ARRAYS = ("features", "codes", "positions", "word", "side", "patient", "centres", "pathology")
KEY = "key_patches"  # of the metadata, one JSON text: safetensors writes several keys in any order
TABLE = pa.schema(
    {
        "word": pa.string(),
        "kind": pa.string(),
        "side": pa.string(),
        "score": pa.float32(),
        "image_id": pa.string(),
        "study_id": pa.string(),
        "patient_id": pa.string(),
        "box": pa.list_(pa.float32(), 4),
        "codes": pa.list_(pa.int32()),
        "positions": pa.list_(pa.int32()),
    }
)


@dataclasses.dataclass(frozen=True)
class Digests:
    """What a key-patch codebook was made from.

    Attributes:
        aligner: sha256 of its checkpoint.
        tokens: sha256 of the codebook checkpoint whose codes it holds.
        manifest: `Manifest.digest` of the rows that were seen.
        splits: `Manifest.split_digest` of the whole data set.
    """

    aligner: str
    tokens: str
    manifest: str
    splits: str


def write_key_patches(
    entries: Sequence[Candidate], path: str | Path, *, digests: Digests, options: KeyPatchOptions
) -> None:
    """Write `path` (safetensors) and the same name with .parquet.

    Args:
        entries: from `select`; at least one.
        path: of the safetensors file; `load_key_patches` reads it.
        digests: kept in the metadata of both.
        options: how many entries and tokens a report fetches: kept in the metadata, so that all fetch alike. Whether
            crops are kept.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    words = sorted({entry.word for entry in entries})
    facts = {
        "schema": SCHEMA,
        "split": "train",
        "digests": dataclasses.asdict(digests),
        "words": words,
        "clue_entries": options.clue_entries,
        "clue_tokens": options.clue_tokens,
    }
    temporary = path.with_name(path.name + ".tmp")
    save_file(_arrays(entries, words), temporary, metadata={KEY: json.dumps(facts)})
    table = path.with_suffix(".parquet")
    rows = table.with_name(table.name + ".tmp")
    pyarrow.parquet.write_table(_table(entries, facts, pixels=options.pixels), rows)
    os.replace(rows, table)
    os.replace(temporary, path)


def _arrays(entries: Sequence[Candidate], words: Sequence[str]) -> dict[str, Tensor]:
    cells = max(len(entry.codes) for entry in entries)
    place = {word: i for i, word in enumerate(words)}
    word = torch.tensor([place[entry.word] for entry in entries])
    halves = torch.from_numpy(np.stack([entry.word_half for entry in entries])).float()
    sums = halves.new_zeros(len(words), halves.shape[1]).index_add(0, word, halves)
    kinds = {entry.word: entry.kind for entry in entries}

    def padded(rows: Iterable[Sequence[int]]) -> Tensor:
        return torch.tensor([[*row, *[-1] * (cells - len(row))] for row in rows])

    return {
        "features": torch.from_numpy(np.stack([entry.feature for entry in entries])).float(),
        "codes": padded(entry.codes for entry in entries),
        "positions": padded(entry.positions for entry in entries),
        "word": word,
        "side": torch.tensor([SIDES.get(entry.side, -1) for entry in entries]),
        "patient": torch.tensor([text_number(entry.patient_id) for entry in entries]),
        "boxes": torch.tensor([entry.box for entry in entries]),
        "scores": torch.tensor([entry.score for entry in entries]),
        "centres": functional.normalize(sums, dim=1),
        "pathology": torch.tensor([kinds[word] == "pathology" for word in words]),
    }


def _table(entries: Sequence[Candidate], facts: Mapping[str, Any], *, pixels: bool) -> pa.Table:
    columns: dict[str, list] = {name: [getattr(entry, name) for entry in entries] for name in TABLE.names}
    schema = TABLE
    if pixels:
        columns["png"] = [_png(entry) for entry in entries]
        schema = schema.append(pa.field("png", pa.binary()))
    told = {name: str(facts[name]) for name in ("schema", "split")} | facts["digests"]
    return pa.table(columns, schema=schema.with_metadata(told))


def _png(entry: Candidate) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(entry.pixels)).save(file, format="PNG")
    return file.getvalue()


def load_key_patches(
    path: str | Path,
    *,
    tokens_digest: str | None = None,
    aligner_digest: str | None = None,
    split_digest: str | None = None,
) -> tuple[KeyPatchConfig, dict[str, Tensor]]:
    """Read the `key_patches.safetensors` that the aligner's `predict` wrote.

    Args:
        path: the file.
        tokens_digest: sha256 of the codebook checkpoint whose codes are wanted; None does not check.
        aligner_digest: sha256 of the aligner checkpoint whose words ask; None does not check.
        split_digest: `Manifest.split_digest` of the data that is trained and measured on; None does not check, as for
            other data, none of which can have been in the codebook.

    Returns:
        The codebook's config and the arrays that `KeyPatchCodebook.load_state_dict` takes.

    Raises:
        FileNotFoundError: with the command that makes it.
        ValueError: if it is of another schema or split, or of another codebook, aligner or division into splits.
    """
    facts = read_facts(path)
    made = facts["digests"]
    if tokens_digest is not None and made["tokens"] != tokens_digest:
        raise ValueError(
            f"{path} holds codes of the codebook {made['tokens'][:12]}, expected those of {tokens_digest[:12]}: "
            "the codebook changed; make tokens and key patches again with `python main.py predict` of both stages"
        )
    if aligner_digest is not None and made["aligner"] != aligner_digest:
        raise ValueError(
            f"{path} was made by the aligner {made['aligner'][:12]}, expected {aligner_digest[:12]}: the aligner "
            "changed; make the key patches again with `python main.py predict` of the aligner stage"
        )
    if split_digest is not None and made["splits"] != split_digest:
        raise ValueError(
            f"{path} was made of the training studies of other splits ({made['splits'][:12]}) than this data has "
            f"({split_digest[:12]}): a training study of then may be a test study now, and its patches would be clues; "
            "make the key patches again with `python main.py predict` of an aligner that was trained on these splits"
        )
    with safe_open(str(path), framework="pt") as file:
        arrays = {name: file.get_tensor(name) for name in ARRAYS}
    entries, dim = arrays["features"].shape
    limits = facts["clue_entries"], facts["clue_tokens"]
    return KeyPatchConfig(entries, arrays["codes"].shape[1], dim, tuple(facts["words"]), *limits), arrays


def read_facts(path: str | Path) -> dict[str, Any]:
    """The schema, digests, split, vocabulary and limits of a key-patch file.

    Raises:
        FileNotFoundError: with the command that makes it.
        ValueError: if it is of another schema or split.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the key patches {path} do not exist; make them with "
            "`python main.py predict -c configs/base.yaml -c configs/aligner.yaml --ckpt_path=<aligner checkpoint>`"
        )
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    facts: dict[str, Any] = json.loads(metadata.get(KEY, "null")) or metadata
    if facts.get("schema") != SCHEMA or facts.get("split") != "train":
        raise ValueError(
            f"{path}: expected key patches of schema {SCHEMA} and split train, found schema {facts.get('schema')} "
            f"and split {facts.get('split')}; make them again with `python main.py predict` of the aligner stage"
        )
    return facts
