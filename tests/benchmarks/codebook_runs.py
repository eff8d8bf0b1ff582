"""One codebook trained for a time and tested: what codebook_peers.py and codebook_ablation.py have in common.

A side is a change of a command line of main.py, given through `main()` itself. Every side is trained for the same
wall-clock time (`AnnealedTimer`) without validation, and tested by the same callbacks with the same judge. The alarms
of the shipped configs are left out: a side that collapses is a result.
"""

import argparse
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lightning_modules.stages import file_digest
from main import CXRSynthCLI
from main import main as command_line
from tests.benchmarks.budget import AnnealedTimer

ROOT = Path(__file__).parents[2]
MODEL, NETWORK = "--model.init_args.", "--model.init_args.network."
# What a side's training depends on beside its configs: with other code, what was found before is no result.
_NETWORKS = "vqgan codes fidelity features quantizer fsq lfq discriminator losses transformer classifier"
CODE = (
    *(f"lightning_modules/{name}.py" for name in ("codebook", "classifier", "feature_networks", "schedule")),
    *(f"lightning_modules/networks/{name}.py" for name in _NETWORKS.split()),
    *(f"tests/benchmarks/{name}.py" for name in ("budget", "monai_codebook")),
)
# Of metrics.json, without the prefix "codebook/".
FIGURES = (
    "rfid", "rfid_low", "rfid_high", "rfid_blur", "rkid", "psnr", "ssim", "l1", "usage", "perplexity",
    "auroc_real", "auroc_reconstruction", "auroc_retained", "auroc_retained_low", "auroc_retained_high",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What all sides of a comparison share.

    Attributes:
        configs: YAML files below configs/, in order.
        judge: checkpoint of a FindingClassifier, for rFID and AUROC; no loss looks through it.
        minutes: wall-clock time of training of each side.
        folder: each side has a folder of its own in it.
        more: further arguments of main.py.
    """

    configs: tuple[str, ...]
    judge: str
    minutes: float
    folder: Path
    more: tuple[str, ...] = ()

    def arguments(self, changes: Sequence[str] = ()) -> list[str]:
        """Of `main.py fit`, the changes last."""
        flags = [flag for name in self.configs for flag in ("-c", str(ROOT / "configs" / name))]
        return [*flags, *self.more, *changes]


@dataclass(frozen=True)
class Subject:
    """What a setting is about, read before anything is trained."""

    module: Any  # ImageCodebook with random weights
    protocol: dict[str, Any]


def subject(setting: Setting) -> Subject:
    """The codebook and the data that the setting's command line names.

    Raises:
        FileNotFoundError: if the judge is missing.
    """
    if not Path(setting.judge).is_file():
        raise FileNotFoundError(
            f"the judge {setting.judge} does not exist; `make demo` and `make nih` train one, or name another"
        )
    quiet = ("--trainer.logger=false", "--trainer.callbacks=[]", "--trainer.max_epochs=0")
    cli = command_line(["fit", *setting.arguments(quiet), f"--run_dir={setting.folder / 'subject'}"])
    manifest, features = cli.datamodule.manifest, cli.model.classifier_ckpt
    split = manifest.frame["split"]
    return Subject(
        cli.model,
        {
            "code": code_digest(),
            "configs": {name: file_digest(str(ROOT / "configs" / name)) for name in setting.configs},
            "arguments": list(setting.more),
            "minutes": setting.minutes,
            "layout": manifest.source,
            "data_digest": manifest.digest(),
            "size": cli.datamodule.size,
            "batch_size": cli.datamodule.batch_size,
            "train": int((split == "train").sum()),
            "n": int((split == "test").sum()),
            "judge": file_digest(setting.judge),
            "features": file_digest(features) if features else None,
        },
    )


def code_digest() -> str:
    """sha256 over the files of `CODE`, in order."""
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in CODE)).hexdigest()


def side_folder(setting: Setting, name: str, *, seed: int) -> Path:
    """Where a side's run is."""
    slug = name.replace(",", "").replace(" ", "-").lower()
    return setting.folder / f"{slug}-{seed}"


def run(
    setting: Setting,
    about: Subject,
    name: str,
    changes: Sequence[str],
    *,
    seed: int,
    callbacks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Train and test one side, or read what an earlier call with the same wishes found.

    Args:
        setting: of all sides.
        about: the setting's subject.
        name: of the side.
        changes: arguments that make this side.
        seed: of weights and order; the splits stay the same.
        callbacks: of this side alone, as in a config.

    Returns:
        `FIGURES`, steps, seconds of wall-clock and processor time, parameters by part, and "protocol" as metrics.json
        has it.
    """
    folder = side_folder(setting, name, seed=seed)
    done = folder / "result.json"
    wished = about.protocol | {"changes": list(changes), "callbacks": list(callbacks), "seed": seed}
    if done.is_file():
        found = json.loads(done.read_text())
        if found["wished"] == wished:
            return dict(found["result"])
    # What another wish or an interruption left: the clock cannot be set back, so the side starts anew.
    shutil.rmtree(folder, ignore_errors=True)
    result = trained(setting, changes, folder=folder, seed=seed, callbacks=callbacks)
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps({"wished": wished, "result": result}, indent=1))
    temporary.rename(done)
    return result


def trained(
    setting: Setting, changes: Sequence[str], *, folder: Path, seed: int, callbacks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """As `run`, without looking for a former result."""
    timer = {
        "class_path": "tests.benchmarks.budget.AnnealedTimer",
        "init_args": {"seconds": 60 * setting.minutes},
    }
    given = [{"class_path": "ProgressLine"}, timer, *callbacks, *measures(setting.judge)]
    fixed = (
        f"--trainer.callbacks={json.dumps(given)}", "--trainer.logger=false", "--trainer.max_epochs=-1",
        "--trainer.limit_val_batches=0", "--checkpoint.save_top_k=0", f"--run_dir={folder}",
        f"--seed_everything={seed}", f"--data.init_args.seed={seed}",
    )  # fmt: skip
    cli: CXRSynthCLI = command_line(["fit", *setting.arguments(changes), *fixed])
    clock = next(c for c in cli.trainer.callbacks if isinstance(c, AnnealedTimer))
    trained_for = {
        "steps": cli.trainer.global_step, "seconds": clock.time_elapsed(), "cpu_seconds": clock.cpu_seconds,
    }  # fmt: skip
    metrics = tested(cli, folder / "checkpoints/last.ckpt")
    network = cli.model.network
    sizes = {part: parameters(getattr(network, part)) for part in ("encoder", "decoder")}
    figures = {figure: metrics[f"codebook/{figure}"] for figure in FIGURES}
    return trained_for | {"parameters": sizes} | figures | {"protocol": metrics["protocol"]}


def tested(cli: CXRSynthCLI, checkpoint: Path) -> dict[str, Any]:
    """What the callbacks of a side write of its checkpoint, the content of metrics.json."""
    cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False)
    return dict(json.loads((Path(cli.trainer.default_root_dir) / "metrics.json").read_text()))


def seen_by_lite0(setting: Setting, changes: Sequence[str], *, folder: Path) -> dict[str, Any]:
    """rFID of a trained side as EfficientNet-Lite0 sees it: no loss and no label of the data has shaped that network.

    Args:
        setting: of all sides.
        changes: arguments that make this side.
        folder: the side's.

    Returns:
        {"rfid_lite0", "rfid_lite0_low", "rfid_lite0_high", "rfid_lite0_blur"}; empty where the extra `lite0` is not
        installed.
    """
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        return {}
    lite0 = frechet({"class_path": "lightning_modules.feature_networks.FrozenEfficientNetLite0"})
    fixed = (
        f"--trainer.callbacks={json.dumps([{'class_path': 'MetricsFile'}, lite0])}", "--trainer.logger=false",
        "--trainer.max_epochs=0", f"--run_dir={folder / 'lite0'}",
    )  # fmt: skip
    cli: CXRSynthCLI = command_line(["fit", *setting.arguments(changes), *fixed])
    metrics = tested(cli, folder / "checkpoints/last.ckpt")
    return {f"rfid_lite0{end}": metrics[f"codebook/rfid{end}"] for end in ("", "_low", "_high", "_blur")}


def measures(judge: str) -> list[dict[str, Any]]:
    """The callbacks that test every side."""
    extractor = {
        "class_path": "lightning_modules.classifier.FrozenFindingClassifier",
        "init_args": {"ckpt": judge},
    }
    judged = {"extractor": extractor, "output": "reconstruction", "prefix": "codebook", "ratio": "retained"}
    return [
        {"class_path": "MetricsFile"},
        frechet(extractor),
        {"class_path": "DownstreamClassifier", "init_args": judged},
    ]


def frechet(extractor: Mapping[str, Any]) -> dict[str, Any]:
    """rFID through an extractor."""
    given = {"extractor": extractor, "output": "reconstruction", "prefix": "codebook", "name": "rfid", "floor": False}
    return {"class_path": "FidelityMetrics", "init_args": given}


def parameters(module: nn.Module) -> int:
    """How many numbers gradients teach it."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def options(
    description: str | None, *, configs: Sequence[str], judge: str, minutes: float, name: str
) -> argparse.ArgumentParser:
    """A parser of what every comparison is asked for; see `chosen`.

    Args:
        description: the program's docstring.
        configs: defaults, as the next two.
        judge: of the test.
        minutes: of training of each side.
        name: of the folder below runs/benchmarks/.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=configs, help="below configs/")
    parser.add_argument("--features", help="classifier of the losses, by default the configs'")
    parser.add_argument("--judge", default=judge)
    parser.add_argument("--minutes", type=float, default=minutes, help="of training of each side")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/benchmarks" / name)
    return parser


def chosen(given: argparse.Namespace, more: Sequence[str]) -> Setting:
    """The setting of parsed `options`, and further arguments of main.py."""
    features = [f"{MODEL}classifier_ckpt={given.features}"] if given.features else []
    return Setting(tuple(given.configs), given.judge, given.minutes, given.folder, (*more, *features))


def table(sides: Mapping[str, Sequence[Mapping[str, Any]]], figures: Sequence[str]) -> str:
    """The figures of each side's runs, one side a line."""
    lines = [f"{'':<30}" + "".join(f"{name:>18}" for name in figures)]
    for name, runs in sides.items():
        cells = (" / ".join("-" if one.get(key) is None else f"{one[key]:.4g}" for one in runs) for key in figures)
        lines.append(f"{name:<30}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
