"""Every layout behind a URL: the same rows and the same pixels as from disk, and shards made of them."""

import fsspec
import numpy as np
import pytest

from datamodules import layouts
from datamodules.doctor.examine import examine
from datamodules.phantom import disk
from datamodules.prepare import prepare
from datamodules.shards import ShardStore


@pytest.mark.parametrize("name", disk.NAMES)
def test_a_url_gives_what_the_folder_gives(name, tmp_path):
    disk.write(name, tmp_path / name, studies=8, seed=2, size=64)
    memory = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}-{name}"
    memory.put(f"{tmp_path / name}/", f"/{tmp_path.name}-{name}/", recursive=True)
    try:
        local, remote = layouts.read(name, tmp_path / name), layouts.read(name, url)
        assert remote.frame.drop(columns="image").equals(local.frame.drop(columns="image"))
        assert [(r.reason, r.ids) for r in remote.drops] == [(r.reason, r.ids) for r in local.drops]
        assert remote.frame["image"].str.startswith("memory://").all()
        diagnosis = examine(url, state=tmp_path / "state")
        assert diagnosis.layout == name
        assert diagnosis.count("error") == 0
        pixels = []
        for place, manifest in (("local", local), ("remote", remote)):
            prepare(manifest, sizes=[16], out=tmp_path / place)
            pixels.append(ShardStore.open(tmp_path / place, size=16).gather(np.arange(len(manifest))))
        np.testing.assert_array_equal(pixels[0], pixels[1])
        assert pixels[0].std() > 10
    finally:
        memory.rm(f"/{tmp_path.name}-{name}", recursive=True)
