"""keywords.jsonl: drawn keyword sets, one JSON object a line, for the prompter to write reports from.

    {"schema": 1, "study_id": "keywords-0-000007-side", "anatomy": ["left lung base"],
     "pathology": ["small left pleural effusion"], "labels": {"No Finding": 0, ..., "Support Devices": 0},
     "view": null, "seed": 0, "index": 7, "vocabulary": "<sha256 of vocabulary.json>",
     "pair": {"study_id": "keywords-0-000007", "change": "side", "before": "small right pleural effusion",
              "after": "small left pleural effusion"}}

`labels` holds all 14 CheXpert findings: 1 stated, -1 only stated as possible, 0 not stated: a drawn set is complete, so
that what it does not state is absent. It is null for what a stated finding is a kind of: a consolidation is an opacity
that nobody called so. "No Finding" is 1 where nothing but devices is stated. `pair` is null but for
counterfactuals, where `study_id` names the study that was changed; `before` is null for a finding that was added,
`after` for one that was removed.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datamodules.files import replacing
from datamodules.reports.consistency import check_consistent
from datamodules.reports.counterfactuals import Counterfactual
from datamodules.reports.keywords import NORMAL, Keywords, parse
from datamodules.reports.labels import FINDINGS, VIEWS
from datamodules.reports.phrases import lexicon

SCHEMA = 1
# CheXpert's hierarchy (Irvin et al., arXiv 1901.07031, figure 1): finding → what it is a kind of.
KIND_OF = {
    "Cardiomegaly": ("Enlarged Cardiomediastinum",),
    "Pneumonia": ("Consolidation", "Lung Opacity"),
    **dict.fromkeys(("Lung Lesion", "Edema", "Consolidation", "Atelectasis"), ("Lung Opacity",)),
}
KEYS = ("study_id", "anatomy", "pathology", "labels", "view", "seed", "index", "vocabulary", "pair")


def labels_of_keywords(keywords: Keywords) -> dict[str, int | None]:
    """The 14 CheXpert labels of a complete set of keywords, see the module's docstring."""
    labels: dict[str, int | None] = dict.fromkeys(FINDINGS, 0)
    normal = True
    for keyword in map(parse, keywords.pathology):
        label = lexicon().entities[keyword.word].label
        normal &= label == "Support Devices"
        if label is not None and labels[label] != 1:
            labels[label] = -1 if keyword.possible else 1
    for finding in [finding for finding, value in labels.items() if value]:
        labels.update({parent: None for parent in KIND_OF.get(finding, ()) if labels[parent] == 0})
    labels["No Finding"] = int(normal)
    return labels


def row(
    keywords: Keywords,
    *,
    seed: int,
    index: int,
    vocabulary: str,
    view: str | None = None,
    counterfactual: Counterfactual | None = None,
) -> dict[str, Any]:
    """One line of the file, see the module's docstring.

    Args:
        keywords: of the study, or of the changed study.
        seed: of the sampler.
        index: which draw.
        vocabulary: sha256 of the artefact.
        view: that the sampler was given.
        counterfactual: what was changed.
    """
    drawn = f"keywords-{seed}-{index:06d}"
    pair = None
    if counterfactual is not None:
        change = counterfactual.change
        pair = {"study_id": drawn, "change": change, "before": counterfactual.before, "after": counterfactual.after}
        drawn = f"{drawn}-{change}"
    return {
        "schema": SCHEMA,
        "study_id": drawn,
        **keywords.as_dict(),
        "labels": labels_of_keywords(keywords),
        "view": view,
        "seed": seed,
        "index": index,
        "vocabulary": vocabulary,
        "pair": pair,
    }


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Write the lines under a temporary name, then rename; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for one in rows:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read and check the file; also lines that a user wrote: what they need are `study_id`, `anatomy`, `pathology`.

    Returns:
        The rows with all keys; labels are worked out where they are missing.

    Raises:
        FileNotFoundError: with the command that makes it.
        ValueError: names file and line: no JSON, another schema, a study twice, keywords that contradict each other.
    """
    path = Path(path) if isinstance(path, str) else path  # a URL's path object is no Path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; draw it with `python -m datamodules keywords`")
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON ({error}); draw it again with `datamodules keywords`") from error
        one = _checked(data, where)
        if one["study_id"] in rows:
            raise ValueError(f"{where}: the study {one['study_id']!r} stands there twice; give each line its own id")
        rows[one["study_id"]] = one
    return list(rows.values())


def keywords_of_prompt(text: str) -> Keywords:
    """The inverse of `Keywords.prompt`: "small left pleural effusion ; heart".

    Raises:
        ValueError: names the part that is no keyword.
    """
    parts = [part.strip() for part in text.split(";")]
    kinds = {part: parse(part).kind for part in parts if part != NORMAL}
    return Keywords(
        tuple(part for part, kind in kinds.items() if kind == "anatomy"),
        tuple(part for part, kind in kinds.items() if kind == "pathology"),
    )


def _checked(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict) or data.get("schema", SCHEMA) != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{where}: found schema {found}, expected {SCHEMA}; draw it again with `datamodules keywords`")
    if not isinstance(data.get("study_id"), str) or not data["study_id"]:
        raise ValueError(f"{where}: study_id is {data.get('study_id')!r}, expected a name")
    for key in ("anatomy", "pathology"):
        words = data.get(key)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{where}: {key} is {words!r}, expected a list of keywords")
    if data.get("view") is not None and data["view"] not in VIEWS:
        raise ValueError(f"{where}: view is {data['view']!r}, expected null or one of {list(VIEWS)}")
    try:
        kinds = {word: parse(word).kind for word in (*data["anatomy"], *data["pathology"])}
        check_consistent(data["pathology"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for key in ("anatomy", "pathology"):
        wrong = [word for word in data[key] if kinds[word] != key]
        if wrong:
            raise ValueError(f"{where}: {wrong} stand under {key} and are none; move them")
    pair = data.get("pair")
    if pair is not None and (not isinstance(pair, dict) or not isinstance(pair.get("study_id"), str)):
        raise ValueError(f'{where}: pair is {pair!r}, expected null or {{"study_id": the study that was changed, ...}}')
    keywords = Keywords(tuple(data["anatomy"]), tuple(data["pathology"]))
    labels = data.get("labels") or labels_of_keywords(keywords)
    if not isinstance(labels, dict) or labels.keys() != set(FINDINGS) or not set(labels.values()) <= {1, 0, -1, None}:
        raise ValueError(
            f"{where}: labels is {labels!r}, expected 1, 0, -1 or null for each of {list(FINDINGS)}; or leave it out"
        )
    return {"schema": SCHEMA, **dict.fromkeys(KEYS), **data, "labels": labels}
