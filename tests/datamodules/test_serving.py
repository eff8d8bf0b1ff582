"""Images from shards, from files and from a URL are the same batches; draws, labels and changes of training rows."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image

from datamodules.augment import augment
from datamodules.cxr import CXRDataModule
from datamodules.images import read_masks
from datamodules.manifest import Box, encode_boxes, make_manifest
from datamodules.prepare import prepare
from datamodules.reports.labels import FINDINGS
from datamodules.rows import RowTable, write_rows
from tests.datamodules.trainers import quiet_trainer

EFFUSION, EDEMA = FINDINGS.index("Pleural Effusion"), FINDINGS.index("Edema")


@pytest.fixture
def root(tmp_path):
    """24 noise images of several shapes; rows 0-15 train, 16-19 validate, 20-23 test; rows 0 and 1 have edema."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for n in range(24):
        noise = rng.integers(0, 255, (40, 30 + n), dtype=np.uint8)
        noise[:, :4] = 0
        Image.fromarray(noise).save(folder / f"r{n}.png")
        split = "train" if n < 16 else "validate" if n < 20 else "test"
        rows.append((f"r{n}.png", f"Small left effusion {n}.", f"p{n}", split, "-1" if n % 2 else "1", str(int(n < 2))))
    columns = ["image", "report", "patient", "split", "Pleural Effusion", "Edema"]
    pd.DataFrame(rows, columns=columns).assign(position="PA").to_csv(folder / "t.csv", index=False)
    return folder


@pytest.fixture
def make(root, tmp_path):
    def build(**options):
        cache = str(tmp_path / "cache")
        defaults = {"layout": "table", "root": str(root), "size": 16, "batch_size": 4, "cache_dir": cache}
        return CXRDataModule(**(defaults | options))

    return build


def batches(data):
    return [batch for loader in (data.train_dataloader(), data.test_dataloader()) for batch in loader]


def images_of(data):
    return {i: image for b in batches(data) for i, image in zip(b["image_id"], b["image"], strict=True)}


def assert_equal_batches(a, b):
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if torch.is_tensor(value):
                torch.testing.assert_close(value, other[key], rtol=0, atol=0, equal_nan=True)
            else:
                assert value == other[key]


def test_shards_files_and_a_url_give_the_same_batches(make, tmp_path):
    cached = make()
    expected = batches(cached)
    out = tmp_path / "prepared"
    prepare(cached.source, sizes=[16, 32], out=out, rows_per_shard=5)
    prepared = make(shards=str(out), root=None)
    assert_equal_batches(batches(prepared), expected)
    assert_equal_batches(batches(make(shards=f"file://{out}", root=None)), expected)
    assert_equal_batches(batches(make(store="files")), expected)
    assert_equal_batches(batches(make(num_workers=2)), expected)
    # Codes of one are codes of the other.
    assert prepared.tokens_key == cached.tokens_key
    assert prepared.manifest.digest() == cached.manifest.digest()
    with pytest.raises(FileNotFoundError, match=r"no finished shards of 64 px; python -m datamodules prepare --root"):
        make(shards=str(out), size=64).train_dataloader()
    with pytest.raises(FileNotFoundError, match=r"nothing/manifest.parquet does not exist; finish it first"):
        _ = make(shards=str(tmp_path / "nothing")).source


def test_shards_serve_a_selection_and_skip_what_could_not_be_read(make, root, tmp_path):
    source = make().source
    (root / "r3.png").write_text("broken")
    out = tmp_path / "prepared"
    frame = source.frame.assign(view=np.where(source.frame["image_id"].isin(["r1", "r9"]), "LATERAL", "PA"))
    prepare(make_manifest(frame, source="table"), sizes=[16], out=out, rows_per_shard=5, unreadable="drop")
    shown = images_of(make(shards=str(out), views=["PA"]))
    assert set(shown) == {f"r{n}" for n in (*range(16), *range(20, 24))} - {"r1", "r3", "r9"}
    Image.new("L", (8, 8)).save(root / "r3.png")
    whole = images_of(make())
    for image_id, image in shown.items():
        assert torch.equal(image, whole[image_id]), image_id


def test_masks_of_shards_need_no_pictures(make, root, tmp_path):
    source = make().source
    frame = source.frame.assign(boxes=encode_boxes([Box("Edema", 0.1, 0.2, 0.6, 0.9)]))
    boxed = make_manifest(frame, source="table")
    prepare(boxed, sizes=[16], out=tmp_path / "prepared", rows_per_shard=5)
    data = make(shards=str(tmp_path / "prepared"), masks=True)
    expected = [read_masks(image, boxes=boxed.boxes(0), size=16) for image in boxed.frame["image"].iloc[20:24]]
    shutil.rmtree(root)
    batch = next(iter(data.test_dataloader()))
    np.testing.assert_array_equal(batch["masks"].numpy(), np.stack(expected))
    assert batch["masks"].any()


def test_shards_made_again_behind_a_url_are_fetched_again(make, root, tmp_path):
    source, out = make().source, tmp_path / "prepared"
    good = (root / "r3.png").read_bytes()
    (root / "r3.png").write_text("broken")
    prepare(source, sizes=[16], out=out, unreadable="drop")
    images_of(make(shards=f"file://{out}"))
    (root / "r3.png").write_bytes(good)
    prepare(source, sizes=[16], out=out)
    assert images_of(make(shards=f"file://{out}"))["r3"].std() > 0.1


def test_rows_travel_as_a_path_and_hold_every_column(make, tmp_path):
    manifest = make().manifest
    table = write_rows(manifest, tmp_path / "rows.arrow")
    assert len(table) == 24
    rows = np.array([23, 0, 5])
    assert table.texts("report", rows) == [f"Small left effusion {n}." for n in rows]
    assert table.texts("patient_id", rows) == ["p23", "p0", "p5"]
    np.testing.assert_array_equal(table.labels(), manifest.labels())
    assert table.views(rows).tolist() == [3, 3, 3]
    made = (tmp_path / "rows.arrow").stat().st_mtime_ns
    again = write_rows(manifest, tmp_path / "rows.arrow")
    assert (tmp_path / "rows.arrow").stat().st_mtime_ns == made
    assert again.__getstate__() == {"path": tmp_path / "rows.arrow", "_table": None, "_labels": None}
    assert RowTable(tmp_path / "rows.arrow").texts("image_id", np.array([7])) == ["r7"]


def test_policies_by_finding(make):
    def effusions(policy):
        found = {}
        for batch in make(policy=policy).train_dataloader():
            found |= dict(zip(batch["image_id"], batch["labels"], strict=True))
        return [float(found[f"r{n}"][EFFUSION]) for n in range(4)]

    np.testing.assert_equal(effusions("ignore"), [1, np.nan, 1, np.nan])
    np.testing.assert_equal(effusions({"Edema": "ones"}), [1, np.nan, 1, np.nan])
    np.testing.assert_equal(effusions({"Pleural Effusion": "zeros"}), [1, 0, 1, 0])


def test_balance_draws_rare_findings_more_often(make):
    def edema(balance):
        data = make(balance=balance, policy="zeros")
        loader, seen = data.train_dataloader(), 0
        for epoch in range(40):
            loader.sampler.set_epoch(epoch)
            seen += sum(float(batch["labels"][:, EDEMA].sum()) for batch in loader)
        return seen / (40 * 16)

    assert edema(0.0) == pytest.approx(2 / 16)
    # Weights 8 (edema), 2 (effusion), 1: rows 0 and 1 weigh 8, seven of the others 2, the last seven 1.
    assert edema(1.0) == pytest.approx(16 / 37, abs=0.04)
    with pytest.raises(ValueError, match=r"balance is 3; expected 0"):
        make(balance=3).train_dataloader()


def test_an_epoch_of_other_rows_or_weights_is_not_resumed(make):
    loader = make().train_dataloader()
    next(iter(loader))
    for other in ({"balance": 0.5}, {"limit": 15}):
        data = make(**other)
        data.load_state_dict(loader.state_dict())
        with pytest.raises(ValueError, match=r"step 1 of 4 of epoch 0, with .*data .*go on with the same data"):
            data.train_dataloader()
    same = make()
    same.load_state_dict(loader.state_dict())
    assert sum(len(batch["image_id"]) for batch in same.train_dataloader()) == 12


def test_draws_of_other_labels_are_not_resumed(make):
    loader = make(balance=0.5, policy="zeros").train_dataloader()
    next(iter(loader))
    data = make(balance=0.5, policy="ones")
    data.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match=r"balance 0.5 of labels [0-9a-f]{8}.* go on with the same data"):
        data.train_dataloader()


FRONTAL = {"view_column": "position"}


class Seen(LightningModule):
    """Keeps images and reports as they reached the steps, those of training by epoch, and all of these in order."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = {"train": {}, "validate": {}, "order": []}

    def training_step(self, batch, _):
        self.batches["order"].append((self.current_epoch, batch["image_id"], batch["image"]))
        for image_id, image, report in zip(batch["image_id"], batch["image"], batch["report"], strict=True):
            self.batches["train"][self.current_epoch, image_id] = (image, report)
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, _):
        for image_id, image, report in zip(batch["image_id"], batch["image"], batch["report"], strict=True):
            self.batches["validate"][image_id] = (image, report)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(data, tmp_path):
    model = Seen()
    quiet_trainer(tmp_path, max_epochs=2).fit(model, datamodule=data)
    return model.batches


def test_training_images_change_and_evaluation_images_do_not(make, tmp_path):
    plain = fit(make(), tmp_path)
    changed = fit(make(augment=1.0, mirror=0.5, layout_options=FRONTAL), tmp_path)
    for image_id, (image, report) in plain["validate"].items():
        assert torch.equal(changed["validate"][image_id][0], image)
        assert changed["validate"][image_id][1] == report
    for key, (image, report) in plain["train"].items():
        other, text = changed["train"][key]
        assert not torch.equal(other, image)
        assert text in (report, report.replace("left", "right"))
    # Another epoch changes an image in another way; the same seed in the same way.
    assert not torch.equal(changed["train"][0, "r0"][0], changed["train"][1, "r0"][0])
    again = fit(make(augment=1.0, mirror=0.5, layout_options=FRONTAL), tmp_path)["train"]
    assert all(torch.equal(again[key][0], image) for key, (image, _) in changed["train"].items())


def test_each_draw_of_a_repeated_row_is_changed_in_its_own_way(make, tmp_path):
    raw = images_of(make())
    seen: dict[tuple[int, str], int] = {}
    repeats = 0
    for epoch, ids, images in fit(make(balance=1.0, augment=1.0, policy="zeros"), tmp_path)["order"]:
        for image_id, image in zip(ids, images, strict=True):
            draw = seen[epoch, image_id] = seen.get((epoch, image_id), -1) + 1
            key = f"0/{epoch}/{image_id}" + (f"/{draw}" if draw else "")
            assert torch.equal(image, augment(raw[image_id][None], keys=[key], strength=1.0)[0])
            repeats += draw > 0
    assert repeats > 8


def test_without_balance_the_changes_hang_on_seed_epoch_and_image_alone(make, tmp_path):
    data = make(augment=1.0, seed=3)
    assert "draw" not in next(iter(data.train_dataloader()))
    raw = images_of(data)
    for (epoch, image_id), (image, _) in fit(data, tmp_path)["train"].items():
        expected = augment(raw[image_id][None], keys=[f"3/{epoch}/{image_id}"], strength=1.0)
        assert torch.equal(image, expected[0])


def test_what_is_mirrored_says_so_in_its_report(make, tmp_path):
    plain, changed = fit(make(), tmp_path)["train"], fit(make(mirror=0.5, layout_options=FRONTAL), tmp_path)["train"]
    mirrored = 0
    for key, (image, report) in plain.items():
        other, text = changed[key]
        turned = text != report
        assert torch.equal(other, image.flip(-1) if turned else image)
        assert text == (report.replace("left", "right") if turned else report)
        mirrored += turned
    assert 8 <= mirrored <= 24


def test_codes_and_changed_images_exclude_each_other(make, tmp_path):
    with pytest.raises(
        ValueError, match=r"data.init_args.tokens holds codes of unchanged images; set augment and mirror"
    ):
        make(tokens=str(tmp_path / "t.safetensors"), mirror=0.1)


def test_the_ledger_is_beside_the_manifest_that_was_served(make, tmp_path):
    data = make(views=["PA"], layout_options={"view_column": None})
    with pytest.raises(ValueError, match=r"none of 24 rows is left: 24 × view is not one of \['PA'\]"):
        data.prepare_data()
    data = make()
    data.prepare_data()
    ledger = json.loads(next((tmp_path / "cache").glob("manifest-*.ledger.json")).read_text())
    assert ledger["source"] == "table"
    assert ledger["drops"] == []
    assert [note["level"] for note in ledger["notes"]] == ["warning"] * len(ledger["notes"])
