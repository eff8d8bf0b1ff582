"""The generator's module on a real tiny chain: samples, seeds, clues, written data set."""

import dataclasses
import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from callbacks.samples import read_samples, refuse_other_generator
from datamodules.images import read_image
from datamodules.layouts import read
from datamodules.reports.labels import FINDINGS
from lightning_modules import stages
from lightning_modules.generator import CXRGenerator, image_seed
from lightning_modules.networks.masked_generator import GeneratorConfig
from main import main
from tests.chain import Chain

REPORTS = ["There is a large left pleural effusion.", "The lungs are clear.", "Mild cardiomegaly."]
VIEW = torch.tensor([0, 1, 0])


@pytest.fixture(scope="module")
def generator(chain: Chain) -> CXRGenerator:
    return CXRGenerator.load_from_checkpoint(chain.path("generator"), weights_only=True).eval().float()


def test_a_checkpoint_alone_is_enough_to_sample(generator: CXRGenerator) -> None:
    images = generator.sample(REPORTS, VIEW, seed=3)
    assert images.shape == (3, 1, 32, 32)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(images, generator.sample(REPORTS, VIEW, seed=3))
    assert not torch.equal(images, generator.sample(REPORTS, VIEW, seed=4))


def test_an_image_is_made_from_its_own_seed_whatever_stands_beside_it(generator: CXRGenerator) -> None:
    seeds = torch.tensor([11, 12, 13])
    together = generator.sample(REPORTS, VIEW, seed=seeds)
    alone = generator.sample(REPORTS[1:2], VIEW[1:2], seed=seeds[1:2])
    # Codes are equal unless floating-point order decides a tie; then a cell of 4 × 4 pixels differs.
    assert ((together[1:2] - alone).abs() > 1e-3).float().mean() < 0.05


def test_seeds_are_stable_numbers() -> None:
    assert image_seed(0, "a") == image_seed(0, "a") != image_seed(1, "a")
    assert 0 <= image_seed(5, -1, "study") < 2**63
    assert image_seed(0, "phantom-0-000001") == 5401410243611308439


def test_decoded_images_are_those_of_the_codebook(generator: CXRGenerator, chain: Chain) -> None:
    opened = stages.open_stage(chain.path("codebook"), stage="codebook")
    codes = torch.arange(64).view(1, 64) % 32
    for name, value in opened.weights("network.").items():
        assert torch.equal(generator.vqgan.state_dict()[name].float(), value.float()), name
    expected = generator.vqgan.decode(codes.view(1, 8, 8)).clamp(-1, 1)
    assert torch.allclose(generator.decode(codes), expected, atol=1e-5)
    image = generator.decode(codes)
    assert torch.equal(generator.redraw(image), generator.decode(generator.vqgan.encode(image).flatten(1)))
    assert generator.decode_random(5, seed=1).shape == (5, 1, 32, 32)
    assert torch.equal(generator.decode_random(5, seed=1), generator.decode_random(5, seed=1))


def test_without_a_clue_cache_no_image_is_made_from_its_own_patient(
    generator: CXRGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    excluded: list[object] = []
    retrieve = generator.clue_retriever.clues

    def clues(report: list[str], *, exclude_patients: list[str] | None = None) -> torch.Tensor:
        excluded.append(exclude_patients)
        return retrieve(report, exclude_patients=exclude_patients)

    monkeypatch.setattr(generator.clue_retriever, "clues", clues)
    batch = {"report": REPORTS, "view": VIEW, "image_id": ["i", "j", "k"], "patient_id": ["a", "b", "c"]}
    assert generator._sample_batch(batch, 2).shape == (2, 1, 32, 32)  # type: ignore[arg-type]
    assert excluded == [["a", "b"]]


def test_a_prompt_is_drawn_again_with_other_noise(generator: CXRGenerator) -> None:
    batch = {"report": REPORTS, "view": VIEW, "image_id": ["i", "j", "k"], "patient_id": ["a", "b", "c"]}
    first = generator._sample_batch(batch, 3)  # type: ignore[arg-type]
    again, same, other = (generator.sample_again(batch, seed=seed) for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert torch.equal(again, same)
    assert again.shape == first.shape
    assert not any(torch.equal(again, images) for images in (first, other))


def test_the_sampler_states_its_settings(generator: CXRGenerator) -> None:
    stated = generator.sampling_protocol()
    assert set(stated) == {*dataclasses.asdict(generator.sampling), "seed", "clues"}
    assert json.loads(json.dumps(stated)) == stated
    assert (stated["seed"], stated["clues"]) == (0, True)


def test_key_patches_of_other_splits_are_refused(chain: Chain, tmp_path: Path) -> None:
    """Another seed of the phantom: as if studies had moved from training to test, all caches but these made anew."""
    arguments = chain.arguments(
        "fit",
        "generator",
        f"--run_dir={tmp_path}",
        "--data.init_args.layout_options.seed=7",
        "--data.init_args.tokens=null",
        "--data.init_args.clues=null",
    )
    with pytest.raises(ValueError, match="a training study of then may be a test study now"):
        main(arguments)


def test_clues_of_other_key_patches_are_refused(chain: Chain, tmp_path: Path) -> None:
    """By the same aligner from the same data, but fewer of them: the cache of clues is that of the former file."""
    chain.run("predict", "aligner", "--model.init_args.key_patch_options.word_quota=3", f"--run_dir={tmp_path}")
    other = tmp_path / "key_patches.safetensors"
    held, found = (stages.file_digest(path)[:12] for path in (other, chain.path("aligner", other.name)))
    arguments = chain.arguments("fit", "generator", f"--run_dir={tmp_path}")
    refused = f"the clues cache was made from the key_patches {found}, the generator holds {held}: run .*aligner.yaml"
    with pytest.raises(ValueError, match=refused):
        main([*arguments, f"--model.init_args.key_patches={other}"])


def test_former_stages_stay_frozen_while_training(generator: CXRGenerator) -> None:
    generator.train()
    assert generator.network.training
    assert not generator.vqgan.training
    assert not any(p.requires_grad for p in generator.vqgan.parameters())
    assert not any(p.requires_grad for p in generator.clue_retriever.parameters())
    frozen = {name for name, p in generator.network.named_parameters() if not p.requires_grad}
    assert frozen == {f"text.{name}" for name, _ in generator.network.text.named_parameters()}
    generator.eval()


def test_an_untrained_generator_says_what_is_missing() -> None:
    module = CXRGenerator(network=GeneratorConfig())
    with pytest.raises(ValueError, match="give --ckpt_path"):
        module.sample(REPORTS, VIEW)
    with pytest.raises(ValueError, match=r"model\.init_args\.codebook_ckpt"):
        module.setup("fit")


def test_without_clues_the_clues_change_nothing(generator: CXRGenerator) -> None:
    clues = torch.tensor([[[1, 2], [3, 4]]] * 3)
    none = torch.full_like(clues, -1)
    assert not torch.equal(
        generator.condition(REPORTS, VIEW, clues).clues, generator.condition(REPORTS, VIEW, none).clues
    )
    generator.use_clues = False
    try:
        assert torch.equal(generator.condition(REPORTS, VIEW, clues).clues, none)
    finally:
        generator.use_clues = True


def test_predict_writes_a_data_set_that_the_table_layout_reads(chain: Chain, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.loads(line) for line in chain.path("prompter", "prompts.jsonl").read_text().splitlines()]
    assert lines
    prompts.write_text("\n".join(json.dumps({"study_id": row["study_id"], "report": "Clear."}) for row in lines))
    main(
        [
            *chain.arguments("predict", "generator", configs=("configs/experiment/prompted.yaml",)),
            f"--run_dir={tmp_path}",
            f"--data.init_args.prompts={prompts}",
            "--data.init_args.tokens=null",
            "--data.init_args.clues=null",
        ]
    )
    samples = tmp_path / "samples"
    table = pd.read_csv(samples / "samples.csv")
    assert (table["report"] == "Clear.").any()
    picture = Image.open(samples / table["image"][0])
    assert picture.size == (32, 32)
    assert picture.mode == "L"
    manifest = read("table", str(samples / "samples.csv"), text_column="report", view_column="view")
    assert len(manifest) == len(table)
    assert set(FINDINGS) <= set(manifest.frame.columns)
    assert not list(samples.glob(".*.tmp"))
    assert (samples / "contact_sheet.png").is_file()


def test_the_utility_reads_what_the_samples_of_predict_were_made_by(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "samples.json").write_text("of a former run")
    cli = main(chain.arguments("predict", "generator", f"--run_dir={tmp_path}", "--model.init_args.sampling.steps=3"))
    samples = tmp_path / "samples"
    written = json.loads((samples / "samples.json").read_text())
    assert written["schema"] == 1
    assert written["table_sha256"] == stages.file_digest(samples / "samples.csv")
    read_again = read_samples(samples / "samples.csv")
    seed = os.environ.get("PL_GLOBAL_SEED")
    assert read_again.origin == {
        "checkpoint": {"name": "last.ckpt", "sha256": stages.file_digest(chain.path("generator"))},
        "sampling": cli.model.sampling_protocol() | {"steps": 3, "seed": 0, "clues": True},
        "data_digest": cli.datamodule.manifest.digest(),
        "layout": "phantom",
        "precision": str(cli.trainer.precision),
        "seed": int(seed) if seed else None,
        "n": len(read_again.pictures),
    }
    assert read_again.made_by == stages.file_digest(chain.path("generator"))
    refuse_other_generator(read_again, chain.path("generator"))
    with pytest.raises(ValueError, match=stages.file_digest(chain.path("codebook"))):
        refuse_other_generator(read_again, chain.path("codebook"))


def test_predict_writes_samples_of_joined_data(chain: Chain, tmp_path: Path) -> None:
    sets = [{"layout": "phantom", "studies": 12, "seed": seed, "name": f"a{seed}"} for seed in (1, 2)]
    main(
        [
            *chain.arguments("predict", "generator", configs=("configs/experiment/prompted.yaml",)),
            f"--run_dir={tmp_path}",
            "--data.init_args.layout=joined",
            f"--data.init_args.layout_options={json.dumps({'sets': sets})}",
            "--data.init_args.predict_splits=[train,validate,test]",
            "--data.init_args.tokens=null",
            "--data.init_args.clues=null",
        ]
    )
    samples = tmp_path / "samples"
    table = pd.read_csv(samples / "samples.csv")
    ids = {f"a{seed}/phantom-{seed}-{index:06d}" for seed in (1, 2) for index in range(12)}
    assert set(table["source_image_id"]) == ids
    assert set(table["image"]) == {path.name for path in samples.glob("*.png")} - {"contact_sheet.png"}
    assert table["image"][0] == "a1%2Fphantom-1-000000.png"
    manifest = read("table", str(samples / "samples.csv"))
    assert len(manifest) == 24
    assert read_image(manifest.frame["image"][0], size=32).shape == (32, 32)
    assert not list(samples.glob(".*.tmp"))
