"""CXRDataModule's batches, filters, caches and prompts, and the command line of the package."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule

from datamodules.cxr import CXRDataModule
from datamodules.images import read_masks
from datamodules.manifest import Manifest
from datamodules.prompts import FLAGGED, flagged_studies
from datamodules.reports.labels import FINDINGS
from tests.datamodules.pictures import write_table
from tests.datamodules.trainers import quiet_trainer


@pytest.fixture
def root(tmp_path):
    """24 images, each of one grey level that is 10 × its number; rows 0-15 train, 16-19 validate, 20-23 test."""
    columns = {
        "split": ["train"] * 16 + ["validate"] * 4 + ["test"] * 4,
        "view": ["LATERAL" if n in (3, 21) else "PA" for n in range(24)],
        "Edema": ["-1", "1", "0"] + [""] * 21,
    }
    return write_table(tmp_path / "data", columns, side=8)


@pytest.fixture
def make(root, tmp_path):
    def build(**options):
        defaults = {
            "layout": "table",
            "root": str(root),
            "size": 8,
            "batch_size": 4,
            "cache_dir": str(tmp_path / "cache"),
        }
        return CXRDataModule(**(defaults | options))

    return build


def collect(loader, key="image_id"):
    return [value for batch in loader for value in batch[key]]


def test_batch_contract(make):
    batch = next(iter(make().test_dataloader()))
    assert batch["image_id"] == ["r20", "r21", "r22", "r23"]
    assert batch["image"].shape == (4, 1, 8, 8)
    assert batch["image"].dtype == torch.float32
    torch.testing.assert_close(batch["image"][:, 0, 0, 0], torch.tensor([200, 210, 220, 230]) / 127.5 - 1)
    assert batch["report"] == ["report 20", "report 21", "report 22", "report 23"]
    assert batch["view"].tolist() == [0, 2, 0, 0]
    assert batch["labels"].shape == (4, 14)
    assert batch["labels"].isnan().all()
    assert batch["patient_id"][0] == "p20"
    assert not {"codes", "clues", "masks"} & set(batch)


@pytest.mark.parametrize(("policy", "expected"), [("ignore", np.nan), ("zeros", 0.0), ("ones", 1.0)])
def test_policy_for_uncertain_labels(make, policy, expected):
    batches = list(make(policy=policy).train_dataloader())
    values = {i: float(v) for b in batches for i, v in zip(b["image_id"], b["labels"][:, 5], strict=True)}
    np.testing.assert_equal([values["r0"], values["r1"], values["r2"]], [expected, 1.0, 0.0])


def test_labels_of_training_rows_follow_policy_and_limit(make):
    edema = FINDINGS.index("Edema")
    np.testing.assert_equal(make().train_labels()[:4, edema], [np.nan, 1, 0, np.nan])
    labels = make(policy="ones", limit=5).train_labels()
    assert labels.dtype == np.float32
    assert labels.shape == (5, 14)
    loader = make(policy="ones", limit=5).train_dataloader()
    np.testing.assert_array_equal(loader.dataset.labels(), labels)


def test_image_stays_with_its_row_after_filters(make):
    data = make(views=["PA"], limit=6)
    for batch in data.train_dataloader():
        levels = ((batch["image"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert levels == [10 * int(i[1:]) for i in batch["image_id"]]
    assert len(data.train_dataloader().dataset) == 6
    assert collect(data.test_dataloader()) == ["r20", "r22", "r23"]
    assert [(d.reason, d.ids) for d in data.manifest.drops] == [("view is not one of ['PA']", ("r3", "r21"))]


def test_train_is_shuffled_by_epoch_and_sees_each_row_once(make):
    data = make(batch_size=5)
    loader = data.train_dataloader()
    first = collect(loader)
    loader.sampler.set_epoch(1)
    second = collect(loader)
    assert sorted(first) == sorted(second) == sorted(f"r{n}" for n in range(16))
    assert first != second
    assert [len(batch["image_id"]) for batch in loader] == [4, 4, 4, 4]
    assert collect(make(batch_size=5).train_dataloader()) == first
    assert len(collect(make(batch_size=64).train_dataloader())) == 16


def test_limit_is_a_seeded_subset_of_train_only(make):
    chosen = [set(collect(make(limit=5, seed=s, batch_size=5).train_dataloader())) for s in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(collect(make(limit=5).val_dataloader())) == 4


def test_the_data_line_says_how_many_rows_the_limit_leaves(make, capsys):
    for limit, expected in ((5, "train 5 of 16"), (16, "train 16"), (99, "train 16")):
        make(limit=limit).prepare_data()
        assert f"data: table 8 px: {expected}, validate 4, test 4; digest " in capsys.readouterr().out


def test_predict_goes_through_all_splits_in_order(make):
    assert collect(make(batch_size=5).predict_dataloader()) == [f"r{n}" for n in range(24)]
    assert collect(make(predict_splits=["test"]).predict_dataloader()) == ["r20", "r21", "r22", "r23"]


class Places:
    def __init__(self, rank, world):
        self.global_rank, self.world_size = rank, world
        self.strategy = type("S", (), {"root_device": torch.device("cpu")})()


def test_two_ranks_see_what_one_rank_sees(make):
    one = make(batch_size=4)
    ranks = [make(batch_size=2), make(batch_size=2)]
    for rank, data in enumerate(ranks):
        data.trainer = Places(rank, 2)
    pairs = zip(*(d.train_dataloader() for d in ranks), strict=True)
    for single, pair in zip(one.train_dataloader(), pairs, strict=True):
        assert sorted(single["image_id"]) == sorted(pair[0]["image_id"] + pair[1]["image_id"])
    assert sorted(i for d in ranks for i in collect(d.val_dataloader())) == ["r16", "r17", "r18", "r19"]


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "validate": [], "test": [], "predict": []}

    def training_step(self, batch, _):
        self.seen["train"].append(batch["image_id"])
        return (batch["image"].mean() - self.weight) ** 2

    def validation_step(self, batch, _):
        self.seen["validate"] += batch["image_id"]

    def test_step(self, batch):
        self.seen["test"] += batch["image_id"]

    def predict_step(self, batch, _):
        self.seen["predict"] += batch["image_id"]
        return batch["view"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_trainer_runs_all_loops(make, tmp_path, capsys):
    model, data = Recorder(), make()
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(model, datamodule=data)
    first, second = (
        [i for batch in part for i in batch] for part in (model.seen["train"][:4], model.seen["train"][4:])
    )
    assert sorted(first) == sorted(second) == sorted(f"r{n}" for n in range(16))
    assert first != second  # Lightning has set the epoch
    trainer.test(model, datamodule=data, verbose=False)
    trainer.predict(model, datamodule=data, return_predictions=False)
    assert model.seen["test"] == ["r20", "r21", "r22", "r23"]
    assert model.seen["predict"] == [f"r{n}" for n in range(24)]
    assert "data: table 8 px: train 16, validate 4, test 4; digest " in capsys.readouterr().out
    saved = list((tmp_path / "cache").glob("manifest-*.parquet"))
    assert [Manifest.load(p).digest() for p in saved] == [data.manifest.digest()]


def test_all_rows_are_hashed_once(make, monkeypatch):
    calls, hash_rows = [], pd.util.hash_pandas_object
    monkeypatch.setattr(pd.util, "hash_pandas_object", lambda *a, **k: calls.append(len(a[0])) or hash_rows(*a, **k))
    data = make()
    data.prepare_data()
    next(iter(data.train_dataloader()))
    next(iter(data.val_dataloader()))
    assert calls == [24]


def test_codes_and_clues_come_by_image_id(make, tmp_path):
    plain = make(images=False)
    ids = list(plain.source.frame["image_id"])[::-1]
    numbers = np.array([int(i[1:]) for i in ids])
    codes = np.broadcast_to(numbers[:, None, None], (24, 2, 2))
    clues = np.stack([numbers[:, None], numbers[:, None] % 4], axis=-1)
    tokens_path, clues_path = tmp_path / "t.safetensors", tmp_path / "c.safetensors"
    plain.write_tokens(tokens_path, image_ids=ids, codes=codes, checkpoint_digest="book", codes_total=24)
    with pytest.raises(ValueError, match=r"name its token cache with --data.init_args.tokens"):
        plain.write_clues(clues_path, image_ids=ids, clues=clues, key_patches_digest="ali")
    with_tokens = make(tokens=str(tokens_path), images=False)
    with pytest.raises(ValueError, match=r"positions are expected in \[-1, 4\) and found in \[1, 4\]"):
        with_tokens.write_clues(clues_path, image_ids=ids, clues=np.add(clues, [0, 1]), key_patches_digest="ali")
    with_tokens.write_clues(clues_path, image_ids=ids, clues=clues, key_patches_digest="ali")
    # Served to a subset, without images.
    data = make(tokens=str(tokens_path), clues=str(clues_path), views=["PA"], images=False)
    data.prepare_data()
    data.setup("fit")
    assert (data.tokens_digest, data.clues_digest) == ("book", "ali")
    batch = next(iter(data.test_dataloader()))
    assert batch["codes"][:, 0, 0].tolist() == [20, 22, 23]
    assert batch["codes"].dtype == torch.int64
    assert batch["clues"].tolist() == [[[20, 0]], [[22, 2]], [[23, 3]]]
    assert "image" not in batch
    assert list((tmp_path / "cache").glob("images-*")) == []
    assert (plain.tokens_digest, plain.clues_digest) == (None, None)
    # Another size is other data.
    with pytest.raises(ValueError, match=f"made from data {plain.tokens_key[:12]}, .*make it again"):
        make(tokens=str(tokens_path), size=16).setup("fit")


def test_prompts_replace_reports_and_are_marked(make, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"study_id": f"r{n}", "report": f"written {n}"}) + "\n" for n in (20, 22)))
    data = make(prompts=str(path))
    assert collect(data.test_dataloader(), "report") == ["written 20", "report 21", "written 22", "report 23"]
    sources = data.manifest.frame.set_index("image_id")["report_source"]
    assert sources["r20"].startswith("prompter:")
    assert len(sources["r20"]) == len("prompter:") + 12
    assert sources["r21"] == "column report"
    # Images do not depend on texts, clues do.
    assert data.tokens_key == make().tokens_key
    assert data.clues_key != make().clues_key


def test_flagged_prompts_are_counted_and_left_out_when_asked(make, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    rows = [{"study_id": f"r{n}", "report": f"written {n}", "verified": n != 22} for n in (20, 22, 23)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = make(prompts=str(path))
    data.prepare_data()
    assert (
        "data: 3 studies have a text of the prompter, 1 of them flagged, which are served: "
        "--data.init_args.prompts_verified=true leaves them out"
    ) in capsys.readouterr().out
    assert [(note.level, note.ids) for note in data.manifest.notes if note.reason == FLAGGED] == [("warning", ("r22",))]
    strict = make(prompts=str(path), prompts_verified=True)
    strict.prepare_data()
    assert collect(strict.test_dataloader(), "report") == ["written 20", "report 21", "written 23"]
    said = capsys.readouterr().out
    assert f"dropped: 1 × {FLAGGED}\n" in said
    assert "data: 2 studies have a text of the prompter, 0 of them flagged\n" in said
    assert flagged_studies(strict.manifest) == frozenset()
    # Caches are keyed by what the layout holds, not by what is served of it.
    assert (strict.tokens_key, strict.clues_key) == (data.tokens_key, data.clues_key)
    path.write_text(json.dumps(rows[0]) + "\n" + '{"study_id": "r22", "report": "mine"}\n')
    with pytest.raises(ValueError, match=r"prompts.jsonl: line 2: study r22 does not say whether its text is verified"):
        _ = make(prompts=str(path), prompts_verified=True).manifest
    assert flagged_studies(make(prompts=str(path)).manifest) == frozenset()
    path.write_text('{"study_id": "r22", "report": "mine", "verified": "no"}\n')
    with pytest.raises(ValueError, match=r"prompts.jsonl: line 1: verified is 'no', expected true or false"):
        _ = make(prompts=str(path)).manifest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"study_id": "r1", "report": "a"}\nnot json\n', r"p.jsonl: line 2: expected a JSON object"),
        ('{"study": "r1"}\n', r"p.jsonl: line 1: expected a JSON object with study_id and report"),
        ('{"study_id": "r1", "report": "a"}\n' * 2, r"p.jsonl: line 2: study r1 is given twice"),
        ('{"study_id": "r1", "report": " "}\n', r"p.jsonl: line 1: study r1 has an empty report"),
        ('{"study_id": "z", "report": "a"}\n', r"none of its 1 studies \(first: z\) is in this data set \(first: r0\)"),
    ],
)
def test_wrong_prompts_are_refused(make, tmp_path, content, message):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        _ = make(prompts=str(tmp_path / "p.jsonl")).manifest


def test_text_only_serves_rows_without_images(make, root):
    frame = pd.read_csv(root / "studies.csv", dtype=str, keep_default_na=False).drop(columns="image")
    frame["study"] = frame["patient"] = [f"s{n // 2}" for n in range(24)]
    frame.loc[22:23, "report"] = ["", " "]
    frame.to_csv(root / "studies.csv", index=False)
    options = {"layout_options": {"image_column": None, "study_column": "study"}}
    data = make(text_only=True, **options)
    batch = next(iter(data.test_dataloader()))
    assert batch["report"] == ["report 20"]
    assert "image" not in batch
    assert {d.reason: d.count for d in data.manifest.drops} == {
        "no report": 2,
        "another image of a study that is served as text": 11,
    }
    assert data.train_reports() == [f"report {n}" for n in range(0, 16, 2)]
    with pytest.raises(ValueError, match=r"none of 24 rows is left: 24 × no image; .*--data.init_args.text_only=true"):
        _ = make(**options).manifest


def test_empty_splits(make):
    with pytest.raises(
        ValueError, match=r"no rows in validate; the splits hold {'train': 1, 'validate': 0, 'test': 1}"
    ):
        make(views=["LATERAL"]).val_dataloader()


def test_unreadable_image_stops_with_its_name(make, root):
    (root / "r7.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ValueError, match=r"1 of 24 images cannot be read:\n  image r7: .*r7.png: cannot be read"):
        make().prepare_data()
    with pytest.raises(ValueError, match=r"r7\.png: cannot be read"):
        make(store="files").reference_dataset(16, seed=0)[range(16)]


def test_reference_images_are_train_only_and_seeded(make):
    data = make()
    dataset = data.reference_dataset(16, seed=0)
    assert len(dataset) == len(data.reference_dataset(99, seed=0)) == 16
    images = dataset[range(16)]["image"]
    assert images.shape == (16, 1, 8, 8)
    levels = ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    assert sorted(levels) == [10 * n for n in range(16)]
    three = data.reference_dataset(3, seed=1)[[0, 1, 2]]
    again = make().reference_dataset(3, seed=1)[[2]]
    assert three["image_id"][2:] == again["image_id"]
    assert torch.equal(three["image"][2:], again["image"])


def test_workers_read_the_same(make):
    assert collect(make(num_workers=2).test_dataloader()) == ["r20", "r21", "r22", "r23"]


def test_phantom_with_masks(tmp_path):
    options = {"layout_options": {"studies": 40, "seed": 3}, "size": 32, "cache_dir": str(tmp_path), "masks": True}
    data = CXRDataModule(**options)
    assert "masks" not in next(iter(data.train_dataloader()))
    # What predict writes needs no masks, and drawing them takes as long as drawing the images.
    assert "masks" not in next(iter(data.predict_dataloader()))
    batch = next(iter(data.test_dataloader()))
    first = int(np.flatnonzero(data.manifest.frame["split"] == "test")[0])
    expected = read_masks(f"phantom:3:{first}", boxes="", size=32)
    assert batch["image_id"][0] == f"phantom-3-{first:06d}"
    np.testing.assert_array_equal(batch["masks"][0].numpy(), expected)
    # Read back from the cache, it is the same data.
    assert len(list(tmp_path.glob("phantom-*.parquet"))) == 1
    assert CXRDataModule(**options).manifest.digest() == data.manifest.digest()


@pytest.mark.real
def test_real_nih_is_served(real_data, tmp_path):
    options = {"layout": "nih", "root": str(real_data / "nih_sample"), "size": 32, "cache_dir": str(tmp_path)}
    data = CXRDataModule(**options, masks=True, batch_size=168)
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (168, 1, 32, 32)
    assert -0.6 < float(batch["image"].mean()) < 0.4
    boxed = {i for i, b in zip(data.manifest.frame["image_id"], data.manifest.frame["boxes"], strict=True) if b}
    assert {i for i, m in zip(batch["image_id"], batch["masks"], strict=True) if m.any()} == boxed & set(
        batch["image_id"]
    )
    assert batch["labels"][:, FINDINGS.index("Fracture")].isnan().all()
