"""How the prompter's sampling settings change what it writes, on the validation split: the settings are chosen here.

    python -m tests.benchmarks.sampling --ckpt runs/openi/prompter/checkpoints/last.ckpt --root NLMCXR_reports.tgz

The test split is not looked at. `new_trigrams` is the share of three words in a row that no training report holds:
beside that of the real reports of the same studies it tells odd phrases, which no other figure does.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch

from datamodules.cxr import CXRDataModule
from datamodules.reports.labels import VIEWS
from lightning_modules.networks.report_metrics import Baseline
from lightning_modules.networks.report_writer import Sampling
from lightning_modules.networks.written import Request, Written
from lightning_modules.prompter import ReportPrompter
from lightning_modules.stages import file_digest
from tests.benchmarks.record import write


def new_trigrams(texts: list[str], baseline: Baseline) -> float:
    """The share of three words in a row that stand in no training report."""
    found = [baseline.trigrams.new(text) for text in texts]
    return sum(new for new, _ in found) / max(1, sum(total for _, total in found))


def figures(written: list[Written], reports: list[str], baseline: Baseline) -> dict[str, float]:
    """What one setting gives."""
    texts, n = [one.report for one in written], len(written)
    asked = sum(len(one.request.keywords.anatomy) + len(one.request.keywords.pathology) for one in written)
    return {
        "coverage": 1 - sum(len(one.check.missing) for one in written) / max(1, asked),
        "contradiction": sum(bool(one.check.contradicting) for one in written) / n,
        "unasked": sum(bool(one.check.unasked) for one in written) / n,
        "verified": sum(one.verified for one in written) / n,
        "guided": sum(one.guided for one in written) / n,
        "new_trigrams": new_trigrams(texts, baseline),
        "new_trigrams_guided": new_trigrams([one.report for one in written if one.guided], baseline),
        "new_trigrams_real": new_trigrams(reports, baseline),
        "copied_excess": sum(map(baseline.copied, texts)) / n - sum(map(baseline.copied, reports)) / n,
        "words": sum(len(text.split()) for text in texts) / n,
        "words_real": sum(len(report.split()) for report in reports) / n,
        "texts_written_each": sum(one.attempts for one in written) / n,
    }


def measure(
    ckpt: str, root: str, *, layout: str, studies: int, candidates: list[int], temperatures: list[float],
    top_ps: list[float], rescues: list[int], show: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """All combinations on the first studies of the validation split."""
    options = {"section": "first"} if layout == "openi" else {}
    data = CXRDataModule(layout=layout, root=root, layout_options=options, text_only=True, images=False)
    train = list(data.train_reports())
    frame = data.manifest.frame
    frame = frame[(frame["split"] == "validate") & (frame["report"] != "")].drop_duplicates("study_id").head(studies)
    prompter = ReportPrompter.load_from_checkpoint(ckpt, map_location="cpu").eval()
    baseline = Baseline(train, codec=prompter._ready().codec)
    reports = frame["report"].tolist()
    requests = [
        Request(prompter.keywords_of(report), view=str(view) if view in VIEWS else "unknown")
        for report, view in zip(reports, frame["view"], strict=True)
    ]
    rows = []
    for count, temperature, top_p, rescue in itertools.product(candidates, temperatures, top_ps, rescues):
        prompter.sampling = Sampling(count, rescue, 200, temperature, top_p)
        began = time.process_time()
        written = prompter.write(requests, seed=0, keys=frame["study_id"].tolist())
        seconds = (time.process_time() - began) / len(written)
        found = figures(written, reports, baseline)
        setting = {"candidates": count, "temperature": temperature, "top_p": top_p, "rescue": rescue}
        rows.append(setting | found | {"cpu_seconds_each": seconds})
        print({key: round(value, 4) for key, value in rows[-1].items()}, flush=True)
        for one in written[:show]:
            print(f"  {one.attempts:4d} {'guided' if one.guided else ''} {one.request.keywords.prompt()}")
            print(f"       {one.report}", flush=True)
    return write(
        "sampling",
        {
            "ckpt": file_digest(ckpt),
            "data": data.manifest.digest(),
            "split": "validate",
            "n": len(reports),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--layout", default="openi")
    parser.add_argument("--studies", type=int, default=128)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 0.85, 1.0])
    parser.add_argument("--top-ps", type=float, nargs="+", default=[0.95])
    parser.add_argument("--rescues", type=int, nargs="+", default=[32])
    parser.add_argument("--show", type=int, default=0, help="texts to print for each setting")
    given = vars(parser.parse_args())
    if not Path(given["ckpt"]).is_file():
        raise SystemExit(f"{given['ckpt']}: no such checkpoint; train it with configs/experiment/prompter-openi.yaml")
    torch.set_num_threads(1)
    measure(**given)
