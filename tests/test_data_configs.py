"""Every YAML under configs/data trains on phantoms that lie on disk in the layout that it is for."""

from pathlib import Path

import pytest

from datamodules import layouts
from datamodules.phantom import disk
from datamodules.prepare import prepare
from main import main
from tests.chain import ROOT, SMALL

FILES = sorted(path.stem for path in (ROOT / "configs/data").glob("*.yaml"))
STUDIES = 60
SIZE = 64


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


def root_of(name: str, place: Path) -> Path:
    """Phantoms in that layout, written once."""
    root = place / name
    if root.exists():
        return root
    if name == "joined":
        for part in ("nih", "openi"):
            disk.write(part, root / part, studies=STUDIES, seed=1, size=SIZE)
    elif name == "shards":
        manifest = layouts.read("phantom", None, studies=STUDIES, seed=1)
        prepare(manifest, sizes=[SIZE], out=root)
    else:
        disk.write(name, root, studies=STUDIES, seed=1, size=SIZE)
    return root


def command(name: str, *extra: str) -> list[str]:
    files = ["configs/base.yaml", "configs/classifier.yaml", f"configs/data/{name}.yaml"]
    flags = [flag for file in files for flag in ("-c", str(ROOT / file))]
    return ["fit", *flags, *SMALL["classifier"], *extra]


@pytest.mark.parametrize("name", FILES)
def test_a_classifier_trains_on_each_data_set(name: str, place: Path, tmp_path: Path) -> None:
    root = root_of(name, place)
    where = "shards" if name == "shards" else "root"
    options = [
        f"--data.init_args.{where}={root}",
        f"--data.init_args.cache_dir={tmp_path / 'cache'}",
        f"--data.init_args.size={SIZE}",
        "--data.init_args.batch_size=8",
        f"--run_dir={tmp_path / 'run'}",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.callbacks=[]",
        "--trainer.max_steps=2",
        "--trainer.limit_val_batches=0",
    ]
    if name in ("joined", "openi"):
        # The XML archive of OpenI knows no views, which these files would filter by.
        options.append("--data.init_args.views=null")
    cli = main(command(name, *options))
    assert cli.trainer.global_step == 2
    manifest = cli.datamodule.manifest
    assert set(manifest.frame["source"]) == {"joined": {"nih", "openi"}, "shards": {"phantom"}}.get(name, {name})
    assert (manifest.frame["split"] == "train").sum() >= 16
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_missing_shards_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=r"nowhere/manifest.parquet does not exist; finish it first"):
        main(command("shards", f"--data.init_args.shards={missing}", f"--run_dir={tmp_path}"))
