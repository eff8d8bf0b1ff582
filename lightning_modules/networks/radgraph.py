"""RadGraph: findings and their status by a trained graph reader (Jain et al., NeurIPS Datasets and Benchmarks 2021).

DyGIE++ marks observations and anatomy in a report and relates them; RadGraph-XL (Delbrouck et al., Findings of ACL
2024) is the same with more training reports. The package `radgraph` runs it. The project's own mention rules name the
finding in the words of an observation and of what is related to it; RadGraph says whether it is there. The weights are
not free to hand on: a user fetches them and names their folder.
"""

import contextlib
import io
import json
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import Mention, extract, labels_from
from datamodules.reports.modifiers import Status

# The package's names of its models for radiographs; a model's vocabulary carries one, and its weights fit no other.
TYPES = ("radgraph", "radgraph-xl", "modern-radgraph-xl")
WEIGHTS, VOCABULARY, ENCODER = "weights.th", "vocabulary", "encoder"
# How a label begins and ends: of the package, and of the annotations on PhysioNet.
OBSERVATION, ANATOMY = ("Observation", "OBS"), ("Anatomy", "ANAT")
STATUSES: dict[str, Status] = {
    "definitely present": "present",
    "definitely absent": "absent",
    "uncertain": "uncertain",
    "DP": "present",
    "DA": "absent",
    "U": "uncertain",
}
# What the package raises at a configuration without a key, at weights of another network, and at a broken file.
UNREADABLE = (KeyError, TypeError, RuntimeError, OSError, EOFError, pickle.UnpicklingError)

# Entities by their number, as RadGraph writes them: tokens, label, start_ix, end_ix, relations.
Entities = Mapping[str, Mapping[str, Any]]


class RadGraph:
    """The model of a folder: config.json, vocabulary/, weights.th, and encoder/ with its BERT's tokenizer and config.

    The package reads one report at a time.
    """

    def __init__(self, folder: str | Path, *, device: torch.device | str = "cpu") -> None:
        """Load the model; nothing is fetched.

        Raises:
            FileNotFoundError: naming what is missing, what to fetch and where to put it.
            ValueError: if the folder's parts do not fit one another.
            ImportError: with the command that installs the package.
        """
        folder = Path(folder)
        name = _model_type(folder)
        published = _package()
        with tempfile.TemporaryDirectory() as parent, _encoder_from(folder / ENCODER):
            # The package knows a model by its folder's name, and writes a lock beside the vocabulary.
            place = Path(parent) / name
            shutil.copytree(folder / VOCABULARY, place / VOCABULARY)
            for file in ("config.json", WEIGHTS):
                (place / file).symlink_to((folder / file).resolve())
            try:
                # It prints the device, which is not yet the one asked for.
                with contextlib.redirect_stdout(io.StringIO()):
                    network = published.RadGraph(model_type=name, model_cache_dir=parent, cuda=-1)
            except UNREADABLE as error:
                raise ValueError(
                    f"{folder}: config.json, {VOCABULARY}/, {WEIGHTS} and {ENCODER}/config.json do not make one {name} "
                    f"({type(error).__name__}: {' '.join(str(error).split())[:400]}); fetch them again from one source"
                ) from error
        network.device = torch.device(device)
        self.network = network.to(network.device).requires_grad_(False).eval()

    @torch.inference_mode()
    def entities(self, reports: Sequence[str]) -> list[Entities]:
        """The graph of each report, none of which may be empty.

        Raises:
            RuntimeError: if the package gives none.
        """
        # A text of one word only makes the package warn.
        texts = [f"{report} ." if len(report.split()) == 1 else report for report in reports]
        # Its masked scores of -1e20 are more than half precision holds.
        with torch.autocast(self.network.device.type, enabled=False):
            graphs = [self.network([text]).get("0") for text in texts]
        if None in graphs:
            raise RuntimeError(f"RadGraph has no graph for {texts[graphs.index(None)]!r}; its own message stands above")
        return [graph["entities"] for graph in graphs]

    def labels(self, reports: Sequence[str]) -> np.ndarray:
        """The labels of texts, float32 [N,14] in the order of FINDINGS; an empty text gives NaN throughout."""
        out = np.full((len(reports), len(FINDINGS)), np.nan, dtype=np.float32)
        written = [n for n, report in enumerate(reports) if report.strip()]
        for n, graph in zip(written, self.entities([reports[n] for n in written]), strict=True):
            out[n] = labels_from(mentions_of(graph))
        return out


def mentions_of(entities: Entities) -> list[Mention]:
    """The pathologies that a report's observations name; their characters count from the start of the joined words.

    An observation is read with what modifies it, where it is located, and what modifies that, in the order of the text;
    one that modifies another is part of that one. What it suggests is an observation of its own. A finding is absent
    where these words deny it ("heart size normal", of which RadGraph says that the normal size is present), else what
    RadGraph says.

    Raises:
        ValueError: if a label is none of RadGraph's.
    """
    found: list[Mention] = []
    for key, entity in entities.items():
        status = _status(entity)
        if status is None:
            continue
        joined = _joined(entities, key)
        modified = [of for relation, of in entity["relations"] if relation == "modify" and of not in joined]
        if any(_status(entities[of]) is not None for of in modified):
            continue
        for mention in extract(_words(entities[one] for one in joined)):
            if mention.kind == "pathology":
                found.append(replace(mention, status="absent" if mention.status == "absent" else status))
    return found


def _status(entity: Mapping[str, Any]) -> Status | None:
    """Of an observation; None for anatomy. "Observation::measurement::uncertain" and "OBS-U" are both uncertain."""
    kind, *rest = re.split("::|-", entity["label"])
    status = rest[-1] if rest else ""
    if kind not in (*OBSERVATION, *ANATOMY) or status not in STATUSES:
        raise ValueError(
            f"RadGraph's label {entity['label']!r} of {entity['tokens']!r} is not known; expected one of "
            f"{[*OBSERVATION, *ANATOMY]}, then :: or -, then one of {list(STATUSES)}"
        )
    return STATUSES[status] if kind in OBSERVATION else None


def _joined(entities: Entities, key: str) -> set[str]:
    """An entity, what modifies it, where it is located, and what is joined to these."""
    joined, new = {key}, [key]
    while new:
        last = new.pop()
        near = {of for relation, of in entities[last]["relations"] if relation == "located_at"}
        near |= {
            one
            for one, entity in entities.items()
            if any(relation == "modify" and of == last for relation, of in entity["relations"])
        }
        new += near - joined
        joined |= near
    return joined


def _words(entities: Iterable[Mapping[str, Any]]) -> str:
    """Their tokens in the order of the text; spans may overlap."""
    words = {entity["start_ix"] + n: word for entity in entities for n, word in enumerate(entity["tokens"].split())}
    return " ".join(words[n] for n in sorted(words))


def _model_type(folder: Path) -> str:
    """Which of the package's models the folder holds; refuses a folder that lacks a part."""
    archive = f"unpack radgraph-xl.tar.gz of StanfordAIMI/RRG_scorers (Hugging Face) into {folder}"
    for part in ("config.json", WEIGHTS, VOCABULARY):
        if not (folder / part).exists():
            raise FileNotFoundError(
                f"{folder}/{part} is missing; expected a RadGraph's config.json, {VOCABULARY}/, {WEIGHTS} and "
                f"{ENCODER}/: {archive}"
            )
    config = json.loads((folder / "config.json").read_text())
    try:
        bert = config["model"]["embedder"]["token_embedders"]["bert"]["model_name"]
    except KeyError as error:
        raise ValueError(
            f"{folder}/config.json has no {error} of model.embedder.token_embedders.bert.model_name; {archive}"
        ) from error
    encoder = folder / ENCODER
    if not (encoder / "config.json").is_file() or not any(
        (encoder / file).is_file() for file in ("tokenizer.json", "vocab.txt")
    ):
        raise FileNotFoundError(
            f"{encoder} lacks config.json, or both tokenizer.json and vocab.txt; fetch configuration and tokenizer of "
            f"{bert} (its weights are in {WEIGHTS}): hf download {bert} --include '*.json' 'vocab.txt' "
            f"--local-dir {encoder}"
        )
    found = sorted(
        path.name.removesuffix("__ner_labels.txt") for path in folder.glob(f"{VOCABULARY}/*__ner_labels.txt")
    )
    known = [name for name in TYPES if name in found]
    if len(known) != 1:
        raise ValueError(
            f"{folder}/{VOCABULARY} holds the entity labels (*__ner_labels.txt) of {found}; expected those of one of "
            f"{list(TYPES)}; {archive}"
        )
    return known[0]


def _package() -> Any:
    try:
        # Its import changes the filters of the whole process.
        with warnings.catch_warnings():
            import radgraph
    except ImportError as error:
        raise ImportError(f"a RadGraph needs its package: pip install 'cxr-synth[radgraph]' ({error})") from error
    return radgraph


@contextlib.contextmanager
def _encoder_from(folder: Path) -> Iterator[None]:
    """Within it the package takes its BERT and tokenizer from this folder, where it would ask the hub by their name."""
    from radgraph.allennlp.common import cached_transformers

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    # Two methods that the package calls and transformers 5 dropped.
    tokenizer.encode_plus = tokenizer.__call__
    tokenizer.build_inputs_with_special_tokens = lambda ids: [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
    before = cached_transformers.get, cached_transformers.get_tokenizer
    cached_transformers.get = lambda *_, **__: AutoModel.from_config(config)
    cached_transformers.get_tokenizer = lambda *_, **__: tokenizer
    try:
        yield
    finally:
        cached_transformers.get, cached_transformers.get_tokenizer = before
