"""WordPatchAligner through a real Trainer: it learns, keeps its checkpoint, makes key patches of training studies."""

from collections.abc import Iterator
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from datamodules.cxr import CXRDataModule
from datamodules.reports.mentions import extract
from datamodules.tokens import TokenCache
from lightning_modules import stages
from lightning_modules.aligner import WordPatchAligner
from lightning_modules.key_patch_run import KeyPatchRun
from lightning_modules.networks.alignment import AlignerConfig
from lightning_modules.networks.alignment_losses import LossWeights
from lightning_modules.networks.key_patch_build import KeyPatchOptions
from lightning_modules.networks.key_patch_files import read_facts

TINY = AlignerConfig(
    resolution=16,
    patch=4,
    channels=(8, 16),
    width=32,
    depth=1,
    heads=2,
    dim=32,
    dropout=0.0,
    vocabulary=300,
    text_width=32,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small lose more to waiting threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(root: Path, **options: object) -> lightning.Trainer:
    settings: dict = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings |= {"use_distributed_sampler": False, "default_root_dir": root}
    return lightning.Trainer(**(settings | options))


def data(folder: Path, **options: object) -> CXRDataModule:
    settings: dict = {"layout": "phantom", "layout_options": {"studies": 60, "seed": 3}, "size": 16, "batch_size": 16}
    return CXRDataModule(**(settings | {"cache_dir": str(folder / "cache")} | options))


def with_tokens(folder: Path, **options: object) -> CXRDataModule:
    """The data with a cache of random codes, on a grid as coarse as the aligner's."""
    served, path = data(folder, **options), folder / "tokens.safetensors"
    ids = served.manifest.frame["image_id"].tolist()
    codes = np.random.default_rng(0).integers(0, 64, (len(ids), 4, 4))
    served.write_tokens(path, image_ids=ids, codes=codes, checkpoint_digest="c" * 64, codes_total=64)
    return data(folder, **options, tokens=str(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A folder with an aligner checkpoint, a token cache, key patches and clues; and the test metrics."""
    folder = tmp_path_factory.mktemp("aligner")
    lightning.seed_everything(0, verbose=False)
    module = WordPatchAligner(
        TINY, key_patch_options=KeyPatchOptions(top_pairs=20, word_quota=6, word_floor=2), least_cases=1
    )
    served = data(folder, masks=True)
    fit = trainer(folder, max_epochs=2)
    fit.fit(module, served)
    path = folder / "aligner.ckpt"
    fit.save_checkpoint(path)
    (metrics,) = trainer(folder).test(module, data(folder, masks=True), ckpt_path=path, verbose=False)
    tokens = with_tokens(folder)
    trainer(folder).predict(module, tokens, ckpt_path=path, return_predictions=False)
    return folder, dict(metrics)


def test_checkpoint_rebuilds_the_same_aligner(made: tuple[Path, dict[str, float]]) -> None:
    path = made[0] / "aligner.ckpt"
    opened = stages.open_stage(path, stage="aligner")
    assert opened.config == {"network": TINY.__dict__}
    rebuilt = WordPatchAligner(**opened.config)
    assert rebuilt.config == TINY
    first = WordPatchAligner.load_from_checkpoint(path, map_location="cpu").eval()
    second = WordPatchAligner.load_from_checkpoint(path, map_location="cpu").eval()
    image, report = torch.rand(2, 1, 16, 16) * 2 - 1, ["Large left pleural effusion.", "Clear lungs."]
    a, b = first.align(image, report), second.align(image, report)
    assert torch.equal(a.similarity, b.similarity)
    assert a.similarity.shape == (2, 5, 16)
    assert a.similarity.abs().max() <= 1.0001
    assert a.words[1] == ["clear", "lungs", "."]
    assert [report[1][x:y] for x, y in a.spans[1]] == ["Clear", "lungs", "."]
    assert first.network is not None
    assert 0 < first.network.image.offset.abs().max() < 0.25  # measured while it was trained
    assert opened.weights("network.text.").keys() == first.network.text.state_dict().keys()  # type: ignore[union-attr]


def test_metrics_and_their_references(made: tuple[Path, dict[str, float]]) -> None:
    metrics = made[1]
    rows = data(made[0]).manifest.split("test").frame
    assert metrics["aligner/retrieval_pairs"] == len(rows)
    assert 0 < metrics["aligner/pointing_chance"] < metrics["aligner/pointing_centre"] <= 1
    assert metrics["aligner/recall_at_1"] <= metrics["aligner/recall_at_5"] <= metrics["aligner/recall_at_10"]
    for name in ("zero_shot_auroc", "status_flipped", "side_flipped"):  # what the demo's targets ask for
        assert 0 <= metrics[f"aligner/{name}"] <= 1
    distinct = rows["report"].nunique() == len(rows)
    if distinct:
        assert metrics["aligner/recall_at_1_chance"] == pytest.approx(1 / len(rows))


def test_key_patches_come_from_training_studies_only(made: tuple[Path, dict[str, float]]) -> None:
    folder = made[0]
    lines = pd.read_parquet(folder / "key_patches.parquet").to_dict("records")
    frame = data(folder).manifest.frame.set_index("image_id")
    assert {frame.loc[line["image_id"], "split"] for line in lines} == {"train"}
    assert {line["kind"] for line in lines} == {"pathology"}
    counts = {word: sum(line["word"] == word for line in lines) for word in {line["word"] for line in lines}}
    assert max(counts.values()) <= 6
    codes = TokenCache.load(folder / "tokens.safetensors", kind="codes")
    for line in lines:
        grid = codes.values[codes.index[line["image_id"]]].reshape(-1)
        assert line["codes"].tolist() == [int(grid[position]) for position in line["positions"]]
        x0, y0, _, _ = line["box"]
        assert line["positions"].tolist() == [round(y0 * 4) * 4 + round(x0 * 4)]  # patch grid = code grid here
        asserted = {m.word for m in extract(frame.loc[line["image_id"], "report"]) if m.status != "absent"}
        assert line["word"] in asserted
    arrays = load_file(folder / "key_patches.safetensors")
    torch.testing.assert_close(arrays["features"].norm(dim=1), torch.ones(len(lines)))
    assert (folder / "atlas.png").stat().st_size > 0


def test_clue_cache_agrees_with_the_verb_and_leaves_out_the_patient(made: tuple[Path, dict[str, float]]) -> None:
    folder = made[0]
    cache = TokenCache.load(folder / "clues.safetensors", kind="clues", manifest_digest=data(folder).clues_key)
    assert cache.checkpoint_digest == stages.file_digest(folder / "key_patches.safetensors")
    made = read_facts(folder / "key_patches.safetensors")["digests"]
    assert made == {
        "aligner": stages.file_digest(folder / "aligner.ckpt"),
        "tokens": "c" * 64,
        "manifest": data(folder).manifest.digest(),
        "splits": data(folder).source.split_digest(),
    }
    module = WordPatchAligner.load_from_checkpoint(
        folder / "aligner.ckpt", map_location="cpu", key_patches=str(folder / "key_patches.safetensors")
    ).eval()
    frame = data(folder).manifest.frame.head(8)
    reports, patients = frame["report"].tolist(), frame["patient_id"].tolist()
    wanted = module.clues(reports, exclude_patients=patients)
    assert wanted.shape == (8, 24, 2)
    assert np.array_equal(cache.values[[cache.index[i] for i in frame["image_id"]]], wanted.numpy())
    lines = pd.read_parquet(folder / "key_patches.parquet").to_dict("records")
    fetched = module.retriever[0].fetch(reports, exclude_patients=patients)
    assert any(fetched)
    for patient, report, row in zip(patients, reports, fetched, strict=True):
        assert patient not in {lines[found.entry]["patient_id"] for found in row}
        denied = {m.word for m in extract(report) if m.status == "absent"}
        asserted = {m.word for m in extract(report) if m.status != "absent"}
        assert not {found.word for found in row} & (denied - asserted)


def test_what_is_missing_is_said(made: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    folder = made[0]
    with pytest.raises(ValueError, match="the aligner has no weights: give --ckpt_path"):
        trainer(tmp_path).test(WordPatchAligner(TINY), data(folder), verbose=False)
    module = WordPatchAligner.load_from_checkpoint(folder / "aligner.ckpt", map_location="cpu")
    with pytest.raises(ValueError, match=r"the aligner has no key patches: run `python main\.py predict`"):
        module.clues(["Cardiomegaly."])
    with pytest.raises(ValueError, match="the data has no token cache"):
        trainer(tmp_path).predict(WordPatchAligner(TINY), data(folder), ckpt_path=folder / "aligner.ckpt")
    checkpoint = torch.load(folder / "aligner.ckpt", weights_only=True)
    checkpoint[stages.KEY]["stage"] = "codebook"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="codebook stage, expected the aligner stage"):
        trainer(tmp_path).test(WordPatchAligner(TINY), data(folder), ckpt_path=tmp_path / "other.ckpt")


def test_heat_maps_are_named_for_any_split_and_need_the_aligner_s_own_key_patches(
    made: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    folder = made[0]
    key_patches = str(folder / "key_patches.safetensors")
    module = WordPatchAligner(TINY, key_patches=key_patches, predict_output="heat_maps")
    served = data(folder)
    named = trainer(tmp_path).predict(module, served, ckpt_path=folder / "aligner.ckpt")
    assert named is not None
    frame = served.manifest.frame
    assert sorted(name for batch in named for name in batch["picture"]) == sorted(frame["image_id"] + ".png")
    assert not list(tmp_path.glob("*.safetensors"))
    lines = pd.read_parquet(folder / "key_patches.parquet").to_dict("records")
    reports, patients = frame["report"].tolist()[:8], frame["patient_id"].tolist()[:8]
    origins = module.explain_clues(reports, exclude_patients=patients)
    assert any(origins)
    for patient, of_report, clues in zip(
        patients, origins, module.clues(reports, exclude_patients=patients), strict=True
    ):
        assert sum(len(one.positions) for one in of_report) == int((clues[:, 0] >= 0).sum())
        for one in of_report:
            line = lines[one.entry]
            assert (one.image_id, one.entry_word, one.grid) == (line["image_id"], line["word"], 4)
            assert line["patient_id"] != patient
    checkpoint = torch.load(folder / "aligner.ckpt", weights_only=True)
    checkpoint["global_step"] += 1
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="the aligner changed; make the key patches again"):
        trainer(tmp_path).predict(module, served, ckpt_path=tmp_path / "other.ckpt")


@pytest.mark.parametrize("split", ["validate", "test"])
def test_a_planted_study_of_another_split_is_passed_over(
    made: tuple[Path, dict[str, float]], tmp_path: Path, split: str
) -> None:
    """All studies of a batch but one are of another split: nothing of them comes near the codebook."""
    folder = made[0]
    module = WordPatchAligner.load_from_checkpoint(folder / "aligner.ckpt", map_location="cpu").eval()
    served = data(folder, tokens=str(folder / "tokens.safetensors"))
    predicting = trainer(tmp_path)
    predicting.datamodule = served  # type: ignore[attr-defined]
    predicting.ckpt_path = folder / "aligner.ckpt"
    served.setup("predict")
    batch = next(iter(served.predict_dataloader()))
    run = KeyPatchRun(predicting, KeyPatchOptions())
    run.splits = dict.fromkeys(batch["image_id"], split)
    module.key_patch_run = run
    assert module.predict_step(batch, 0) == {"image_id": []}
    assert run.builder.candidates() == ([], [])
    kept = next(i for i, report in enumerate(batch["report"]) if extract(report))
    run.splits[batch["image_id"][kept]] = "train"
    assert module.predict_step(batch, 0) == {"image_id": [batch["image_id"][kept]]}
    pairs, floor = run.builder.candidates()
    assert {c.image_id for c in [*pairs[0], *floor]} == {batch["image_id"][kept]}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_build_is_the_same_bit_for_bit(made: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """Twice on one rank, in other batches, and on two ranks, which share 150 studies and two chunks of clues."""
    served = with_tokens(tmp_path, layout_options={"studies": 150, "seed": 5})
    options = KeyPatchOptions(top_pairs=30, top_words=5, word_quota=9, word_floor=2, pixels=True)
    two_ranks = {"devices": 2, "strategy": "ddp_spawn"}
    written = {}
    for name, batch_size, ranks in (("one", 16, {}), ("again", 16, {}), ("batches", 7, {}), ("two", 16, two_ranks)):
        path = made[0] / "aligner.ckpt"
        module = WordPatchAligner.load_from_checkpoint(
            path,
            map_location="cpu",
            key_patch_options=options,
            optimizer=torch.optim.AdamW,  # the default cannot be sent to ranks
        )
        served = data(tmp_path, layout_options={"studies": 150, "seed": 5}, tokens=served.tokens, batch_size=batch_size)
        trainer(tmp_path / name, **ranks).predict(module, served, ckpt_path=path, return_predictions=False)
        names = ("key_patches.safetensors", "key_patches.parquet", "clues.safetensors", "atlas.png")
        written[name] = [(tmp_path / name / file).read_bytes() for file in names]
    assert len(pd.read_parquet(tmp_path / "one" / "key_patches.parquet")) > 50
    for name, files in written.items():
        assert [file == one for file, one in zip(files, written["one"], strict=True)] == [True] * 4, name


def test_it_learns_eight_pairs_by_heart(tmp_path: Path) -> None:
    lightning.seed_everything(0, verbose=False)
    module = WordPatchAligner(
        TINY,
        optimizer=lambda params: torch.optim.AdamW(params, lr=3e-3),
        cosine=False,
        losses=LossWeights(words=4.0, same_labels=0.0),
    )
    served = data(tmp_path, layout_options={"studies": 60, "seed": 3}, limit=8, batch_size=8)
    trainer(tmp_path, max_epochs=150, limit_val_batches=0).fit(module, served)
    module.eval()
    module.on_test_epoch_start()
    with torch.no_grad():
        module.test_step(next(iter(served.train_dataloader())), 0)
    scores = module.collected.scores(network=module.network, resolution=16)
    assert scores["retrieval_pairs"] == 8
    assert scores["word_recall_at_1"] == 1.0
    # By statements, whose ceiling is .75: two reports deny different things of images that show the same.
    assert scores["recall_at_1"] >= 0.5
