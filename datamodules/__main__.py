"""`python -m datamodules {doctor,prepare,verify,vocabulary,keywords,match-reports,phantom}`: before training."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from datamodules import keywords_cli, layouts, matching_cli, verify, vocabulary_cli
from datamodules.config_options import add_config, read_configs
from datamodules.doctor import cli as doctor
from datamodules.doctor.recognise import DAMAGE, recognise
from datamodules.layout_options import add_option, on_command_line, parse_options
from datamodules.layouts.source import as_path
from datamodules.manifest import Manifest
from datamodules.phantom import disk
from datamodules.prepare import PLAN, prepare
from datamodules.prepared import MANIFEST
from datamodules.reports.labels import FRONTAL_VIEWS, VIEWS
from datamodules.selection import select


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 1 where the data has errors."""
    parser = argparse.ArgumentParser(prog="python -m datamodules", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    doctor.add_arguments(commands.add_parser("doctor", help="look at a data set, say what is in it and what is wrong"))

    resize = commands.add_parser("prepare", help="resize a data set once, into shards that training reads")
    _add_layout(resize)
    resize.add_argument("--size", type=int, nargs="+", default=[256], help="sides in pixels (default 256)")
    resize.add_argument("--views", nargs="+", choices=VIEWS, help="keep these views only, e.g. PA AP")
    resize.add_argument("--out", type=Path, required=True, help="the folder to write, or to go on with")
    resize.add_argument("--workers", type=int, help="processes (default: all cores that were granted)")
    resize.add_argument(
        "--unreadable",
        choices=("error", "drop"),
        default="error",
        help="what is done about pictures that cannot be read: stop, or leave them out and say so in the ledger",
    )

    vocabulary = commands.add_parser("vocabulary", help="mine the vocabulary from the training reports")
    _add_layout(vocabulary)
    vocabulary_cli.add_arguments(vocabulary)

    keywords_cli.add_arguments(commands.add_parser("keywords", help="draw keyword sets from a vocabulary"))

    text = "give images with labels alone real reports of other patients with the same findings"
    matching = commands.add_parser("match-reports", help=text)
    _add_layout(matching)
    matching_cli.add_arguments(matching)

    phantom = commands.add_parser("phantom", help="write phantoms to disk in the layout of a data set")
    phantom.add_argument("--layout", default="table", choices=disk.NAMES, help="default table")
    phantom.add_argument("--studies", type=int, required=True)
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--size", type=int, default=256, help="side in pixels (default 256)")
    phantom.add_argument("--out", type=Path, required=True, help="the folder to write, new or empty")
    add_option(phantom, "an option of the layout's writer, the value as JSON or plain text: --option reports=zip")

    verify.add_arguments(commands.add_parser("verify", help="see whether shards are still what prepare wrote"))

    given = parser.parse_args(args)
    kept = "; what is finished is kept, the same command goes on with the rest" if given.command == "prepare" else ""
    run = {
        "doctor": doctor.run,
        "prepare": _prepare,
        "vocabulary": lambda given: vocabulary_cli.run(given, _read(given)),
        "keywords": keywords_cli.run,
        "match-reports": lambda given: matching_cli.run(given, _read(given)),
        "phantom": _phantom,
        "verify": verify.run,
    }[given.command]
    try:
        return run(given)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"error: {on_command_line(str(error))}", file=sys.stderr)
    except BrokenPipeError:
        # `... | head` has read enough; what Python still holds for it has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk, a lost mount, a folder that may not be written.
        print(f"error: {error}; see to the disk or the permissions{kept}", file=sys.stderr)
    except BrokenProcessPool:
        cause = "most often because memory ran out; take fewer with --workers"
        print(f"error: a worker process was killed, {cause}{kept}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"stopped{kept}", file=sys.stderr)
        return 130
    return 1


def _add_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layout", choices=sorted(layouts.NAMES), help="by default what the root is; the phantom without a root"
    )
    parser.add_argument("--root", help="folder, file or fsspec URL of the data set (the phantom needs none)")
    parser.add_argument("--studies", type=int, help="how many phantoms")
    parser.add_argument("--seed", type=int, help="of the phantoms, or of the split where the data set has none")
    add_option(parser)
    add_config(parser)


def _read(given: argparse.Namespace) -> Manifest:
    named = {n: getattr(given, n) for n in ("studies", "seed") if getattr(given, n) is not None}
    config = read_configs(given.config)
    given.layout, given.root = given.layout or config.get("layout"), given.root or config.get("root")
    if given.root is None and given.studies is None:
        given.root = os.environ.get("CXR_ROOT")
    layout = _layout(given)
    if layout == "phantom" and "studies" not in {**named, **(config.get("layout_options") or {})}:
        raise ValueError("name a data set with --root <folder or URL>, or how many phantoms with --studies")
    options = parse_options(given.option)
    # Another layout than the config's has other options.
    configured = (config.get("layout_options") or {}) if layout == config.get("layout", layout) else {}
    twice = sorted(set(options) & set(named))
    if twice:
        raise ValueError(f"--{twice[0]} and --option {twice[0]}=... are both given; give one of them")
    try:
        return layouts.read(layout, given.root, **(configured | options | named))
    except DAMAGE as error:
        if isinstance(error, ValueError | OSError):
            raise  # the reader's own words
        raise ValueError(
            f"{given.root} cannot be read ({type(error).__name__}: {error}); "
            f"see what is wrong: python -m datamodules doctor {given.root}"
        ) from error


def _layout(given: argparse.Namespace) -> str:
    """The layout that was named, or the one that the root is; without a root the phantom."""
    if given.layout is not None or given.root is None:
        return given.layout or "phantom"
    place = as_path(given.root)
    if not place.exists():
        raise FileNotFoundError(f"{given.root} does not exist; name the folder, file or URL of the data set")
    found = recognise(place)
    if len(found) != 1:
        what = f"could be {' or '.join(found)}" if found else "is no known layout"
        raise ValueError(f"{given.root} {what}; name it with --layout, one of {sorted(layouts.NAMES)}")
    return found[0]


def _prepare(given: argparse.Namespace) -> int:
    _check_out(given)
    manifest, _ = select(_read(given), views=given.views)
    kept = prepare(manifest, sizes=given.size, out=given.out, workers=given.workers, unreadable=given.unreadable)
    written = sum(file.stat().st_size for file in given.out.rglob("*") if file.is_file())
    sizes = " and ".join(map(str, given.size))
    print(f"prepare: {len(kept)} images at {sizes} px in {given.out}, {written / 1e6:,.1f} MB")
    print(f"manifest: {given.out / MANIFEST}, digest {kept.digest()[:12]}; its ledger: {MANIFEST}.ledger.json")
    for drop in kept.drops:
        print(f"dropped: {drop.count} × {drop.reason}, e.g. {', '.join(drop.ids[:3])}")
    for note in kept.notes:
        if note.level == "error":
            print(f"ERROR: {note.count} × {note.reason}, e.g. {', '.join(note.ids[:3])}; {on_command_line(note.mend)}")
    # The config serves frontal views, which a data set of unknown views does not have.
    views = "" if kept.frame["view"].isin(FRONTAL_VIEWS).any() else " --data.init_args.views=null"
    out = shlex.quote(str(given.out))
    print(
        f"next: CXR_SHARDS={out} python main.py fit -c configs/base.yaml -c configs/classifier.yaml "
        f"-c configs/data/shards.yaml --data.init_args.size={given.size[0]}{views} --run_dir=runs/own/classifier"
    )
    return 0


def _check_out(given: argparse.Namespace) -> None:
    """Refuse a place where shards would be lost, or would be taken for a part of the data set."""
    # Not every shell expands ~ in --out=~/shards.
    out = given.out = given.out.expanduser()
    if "://" in str(out) or str(out).split("/")[0].endswith(":"):
        raise ValueError(f"--out {out} is a URL; write to a local folder, and copy that to where it is served from")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a new folder for the shards")
    if out.name.isdigit() and (out.parent / PLAN).is_file():
        raise ValueError(f"--out {out} holds one size of the shards in {out.parent}; name that folder")
    root = given.root or os.environ.get("CXR_ROOT", "")
    if root and "://" not in root and Path(root).is_dir() and out.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(f"--out {out} is inside the data set {root}; name a folder outside of it")


def _phantom(given: argparse.Namespace) -> int:
    options = parse_options(given.option)
    written = disk.write(given.layout, given.out, studies=given.studies, seed=given.seed, size=given.size, **options)
    rows = f"{written.frame['study_id'].nunique()} studies, {len(written)} images"
    print(f"phantom: {rows} in {given.out} as {given.layout}")
    print(f"next: python -m datamodules doctor {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
