"""Every YAML under configs/ is run or parsed by the real command line."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import main as command_line
from lightning_modules.precision import fastest_precision
from main import main, run_folder
from tests.chain import ROOT, SMALL, Chain

STAGES = tuple(SMALL)
FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.yaml"))
BY_FOLDER = {
    "stage": [f"configs/{stage}.yaml" for stage in STAGES],
    "base": ["configs/base.yaml"],
    "data": [f for f in FILES if f.startswith("configs/data/")],
    "trainer": [f for f in FILES if f.startswith("configs/trainer/")],
    "debug": [f for f in FILES if f.startswith("configs/debug/")],
    "sweep": [f for f in FILES if f.startswith("configs/sweep/")],
    "experiment": [f for f in FILES if f.startswith("configs/experiment/")],
}


def test_every_file_is_covered_here() -> None:
    assert sorted(f for files in BY_FOLDER.values() for f in files) == FILES


def test_each_config_begins_with_what_it_is_and_how_it_is_run() -> None:
    for file in FILES:
        head = "".join((ROOT / file).read_text().splitlines(keepends=True)[:3])
        assert head.startswith("#"), file
        assert any(word in head for word in ("python main.py", "python -m", "-c configs/", "wandb sweep")), file


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_trains_tests_and_leaves_a_checkpoint(chain: Chain, stage: str) -> None:
    metrics = chain.run("test", stage)
    assert chain.path(stage).is_file()
    assert any(key.startswith(f"{stage}/") for key in metrics), metrics
    assert all(value == value for key, value in metrics.items() if "/auroc/" not in key and "pointing" not in key)


@pytest.mark.parametrize("stage", STAGES)
def test_the_fast_debug_config_stops_after_two_batches(chain: Chain, stage: str, tmp_path: Path) -> None:
    arguments = chain.arguments("fit", stage, f"--run_dir={tmp_path}", configs=("configs/debug/fast.yaml",))
    cli = main([a for a in arguments if not a.startswith("--trainer.max_epochs") and "batch_size" not in a])
    assert cli.trainer.global_step == 2


@pytest.mark.parametrize("stage", ["codebook", "generator"])
def test_the_callbacks_of_the_shipped_configs_write_their_metrics(chain: Chain, stage: str, tmp_path: Path) -> None:
    extra = [f"--run_dir={tmp_path}"]
    config = yaml.safe_load((ROOT / f"configs/{stage}.yaml").read_text())
    callbacks = [{"class_path": "MetricsFile"}, *config["trainer"]["callbacks+"]]
    for callback in callbacks:
        if "extractor" in callback.get("init_args", {}):
            callback["init_args"]["extractor"]["init_args"]["ckpt"] = str(chain.path("classifier"))
    override = tmp_path / "callbacks.yaml"
    override.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    arguments = [a for a in chain.arguments("test", stage, *extra) if not a.startswith("--trainer.callbacks")]
    position = arguments.index("-c")
    while position + 2 < len(arguments) and arguments[position + 2] == "-c":
        position += 2
    main([*arguments[: position + 2], "-c", str(override), *arguments[position + 2 :]])
    written = yaml.safe_load((tmp_path / "metrics.json").read_text())
    key = {"codebook": "codebook/rfid", "generator": "generator/fid"}[stage]
    assert written[key] > 0
    assert ("codebook/bits" in written) == (stage == "codebook")
    assert written["protocol"]["precision"] == fastest_precision("cpu")  # the shipped configs leave it open
    assert list((tmp_path / "pictures").glob("*.png"))


def test_the_codebook_panel_measures_and_draws(chain: Chain, tmp_path: Path) -> None:
    arguments = chain.arguments("fit", "codebook", f"--run_dir={tmp_path}")
    position = arguments.index("--trainer.callbacks=[]")
    # The shipped list of the panel after an empty one, as `callbacks+` in a file adds to what stood before it.
    config = str(ROOT / "configs/experiment/codebook-panel.yaml")
    health = "--trainer.callbacks+=CodeHealth"  # of configs/codebook.yaml
    cli = main([*arguments[: position + 1], "-c", config, *arguments[position + 1 :], health])
    logged = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    assert 0 <= logged["train/dead"] < 32
    arguments = chain.arguments("test", "codebook", f"--run_dir={tmp_path}")
    last = (health, "--trainer.callbacks+=MetricsFile")
    main([*arguments[: position + 1], "-c", config, *arguments[position + 1 :], *last])
    written = yaml.safe_load((tmp_path / "metrics.json").read_text())
    assert 0 < written["codebook/ms_ssim"] < 1
    assert 0 <= written["codebook/bits"] < written["codebook/bits_nominal"] == 64 * 5
    assert written["codebook/usage"] == pytest.approx(1 - written["codebook/dead"] / 32)
    assert written["codebook/bits"] == pytest.approx(64 * math.log2(written["codebook/perplexity"]), abs=1e-3)
    assert written["codebook/cnr_findings"] >= 1
    assert written["protocol"]["metrics"]["codebook/cnr_retained"]["included"]
    assert (tmp_path / "pictures" / "atlas.png").is_file()


def test_the_privacy_gate_judges_a_generator(chain: Chain, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs/experiment/privacy.yaml").read_text())
    (gate,) = config["trainer"]["callbacks+"]
    for extractor in gate["init_args"]["extractors"]:
        extractor["init_args"]["ckpt"] = str(chain.path("classifier"))
    gate["init_args"] |= {"fail": False, "false_alarms": 0.2}  # of a dozen validation images
    override = tmp_path / "callbacks.yaml"
    override.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "MetricsFile"}, gate]}}))
    arguments = chain.arguments("test", "generator", f"--run_dir={tmp_path}")
    position = arguments.index("--trainer.callbacks=[]")
    main([*arguments[:position], "-c", str(override), *arguments[position + 1 :]])
    written = yaml.safe_load((tmp_path / "metrics.json").read_text())
    assert 0 <= written["generator/privacy_flagged"] <= 1
    found = yaml.safe_load((tmp_path / "privacy.json").read_text())
    assert len(found["flagged"]) == round(written["generator/privacy_flagged"] * written["protocol"]["n"])
    assert set(found["thresholds"]) >= {"pixel", "patch", "finding-classifier"}


def test_the_evaluation_reads_draws_again_and_looks_at_the_grain(chain: Chain, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs/experiment/evaluation.yaml").read_text())
    fidelity, alignment, diversity, quality = config["trainer"]["callbacks+"]
    alignment["init_args"]["aligner"]["init_args"]["ckpt"] = str(chain.path("aligner"))
    override = tmp_path / "callbacks.yaml"
    callbacks = [{"class_path": "MetricsFile"}, fidelity, alignment, diversity, quality]
    override.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    arguments = chain.arguments("test", "generator", f"--run_dir={tmp_path}")
    position = arguments.index("--trainer.callbacks=[]")
    main([*arguments[:position], "-c", str(override), *arguments[position + 1 :]])
    written = yaml.safe_load((tmp_path / "metrics.json").read_text())
    assert written["generator/lite0/fid"] > 0
    assert written["generator/alignment_real"] < 0  # a log-likelihood
    assert 0 < written["generator/diversity_same_prompt"] <= 1
    assert written["generator/niqe"] > 0


def test_sides_and_degrees_are_measured_on_a_generator(chain: Chain, tmp_path: Path) -> None:
    written = figures_with(chain, tmp_path, "consistency", {"min_training": 3, "min_cases": 1})
    assert written["generator/consistency_side_cases"] > 0
    assert 0 <= written["generator/consistency_side_synthetic"] <= 1
    assert "Pleural Effusion" in written["protocol"]["metrics"]["generator/consistency_side"]["training"]["probes"]


def test_prompts_of_training_images_are_sampled_and_listed(chain: Chain, tmp_path: Path) -> None:
    # More validation images than the chain's six, and so not its caches.
    more = (
        "--data.init_args.layout_options.studies=400",
        "--data.init_args.tokens=null",
        "--data.init_args.clues=null",
    )
    written = figures_with(
        chain, tmp_path, "memorisation", {"prompts": 2, "alike": 1}, "--trainer.limit_test_batches=1", *more
    )
    assert 0 <= written["generator/memorisation_training"] <= 1
    listed = yaml.safe_load((tmp_path / "memorisation.json").read_text())["prompts"]
    assert (
        [one["split"] for one in listed].count("train") == len(listed) / 2 == written["generator/memorisation_n"] == 2
    )


def figures_with(chain: Chain, folder: Path, experiment: str, changes: dict, *extra: str) -> dict:
    """What a generator's test with the one callback of an experiment's file writes, some of its options changed."""
    config = yaml.safe_load((ROOT / f"configs/experiment/{experiment}.yaml").read_text())
    (callback,) = config["trainer"]["callbacks+"]
    callback["init_args"]["extractor"]["init_args"]["ckpt"] = str(chain.path("classifier"))
    callback["init_args"] |= changes
    override = folder / "callbacks.yaml"
    override.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "MetricsFile"}, callback]}}))
    arguments = chain.arguments("test", "generator", f"--run_dir={folder}", *extra)
    position = arguments.index("--trainer.callbacks=[]")
    main([*arguments[:position], "-c", str(override), *arguments[position + 1 :]])
    return yaml.safe_load((folder / "metrics.json").read_text())


def test_a_training_is_evaluated_and_its_best_weights_are_kept(chain: Chain, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs/generator.yaml").read_text())
    callbacks = [one for one in config["trainer"]["callbacks+"] if one["class_path"] != "SampleGrid"]
    for callback in callbacks:
        callback["init_args"]["extractor"]["init_args"]["ckpt"] = str(chain.path("classifier"))
    override = tmp_path / "callbacks.yaml"
    override.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    arguments = chain.arguments("fit", "generator", f"--run_dir={tmp_path}", "--trainer.max_epochs=5")
    position = arguments.index("--trainer.callbacks=[]")
    shipped = str(ROOT / "configs/experiment/training-evaluation.yaml")
    trainer = main([*arguments[:position], "-c", str(override), "-c", shipped, *arguments[position + 1 :]]).trainer
    written = {
        path.parent.name: yaml.safe_load(path.read_text()) for path in (tmp_path / "in_training").glob("*/figures.json")
    }
    assert set(written) == {"epoch-1", "epoch-3"}
    scores = {epoch: figures["in_training/generator/fid"] for epoch, figures in written.items()}
    assert float(trainer.checkpoint_callback.best_model_score) == pytest.approx(min(scores.values()))
    best = min(scores, key=scores.__getitem__)
    assert Path(trainer.checkpoint_callback.best_model_path).name.startswith(best.replace("-", "="))
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert written[best]["in_training/generator/loss"] > 0
    assert "in_training/classifier/auroc_findings" in written[best]


@pytest.mark.parametrize("file", BY_FOLDER["trainer"])
def test_trainer_configs_make_a_trainer(
    chain: Chain, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = chain.arguments("fit", "classifier", f"--run_dir={tmp_path}", "--trainer.max_steps=1", configs=(file,))
    arguments = [a for a in arguments if not (file.endswith("online.yaml") and a.startswith("--trainer.logger"))]
    main([*arguments, "--trainer.devices=1", "--trainer.limit_val_batches=0"])
    assert (tmp_path / "config.yaml").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_sweep_points_are_parsed_as_an_agent_sends_them(stage: str, chain: Chain, tmp_path: Path) -> None:
    """A W&B agent replaces ${args} by --name=value items; each value reaches the object it is meant for."""
    sweep = yaml.safe_load((ROOT / f"configs/sweep/{stage}.yaml").read_text())
    assert sweep["program"] == "main.py"
    assert sweep["command"][-1] == "${args}"
    assert sweep["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    point = {key: spec["values"][-1] if "values" in spec else spec["min"] for key, spec in sweep["parameters"].items()}
    shipped = [item for item in sweep["command"][3:-1] if item != "-c"]
    assert shipped == ["fit", "configs/base.yaml", f"configs/{stage}.yaml", "configs/trainer/wandb_online.yaml"]
    agent = [f"--{key}={value}" for key, value in point.items()]
    arguments = [a for a in chain.arguments("fit", stage, f"--run_dir={tmp_path}") if "batch_size" not in a]
    cli = main([*arguments, "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0", *agent])
    groups = cli.trainer.optimizers[0].param_groups
    if stage == "codebook":
        groups = groups[:1]  # the discriminator's is a share of it
    rates = {value for key, value in point.items() if key.endswith("lr")}
    assert {group.get("initial_lr", group["lr"]) for group in groups} == rates
    assert {group["weight_decay"] for group in groups} == {point["model.init_args.optimizer.init_args.weight_decay"]}
    assert cli.datamodule.batch_size == point["data.init_args.batch_size"]


def test_runs_of_a_sweep_get_their_own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_folder("runs/a") == "runs/a"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r7")
    assert run_folder("runs/a") == "runs/a/r7"


def test_a_cpu_without_the_allocator_s_settings_is_told_what_to_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command_line.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4294967296")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    advice = command_line.allocator_advice()
    assert advice is not None
    assert advice.endswith("export MALLOC_TRIM_THRESHOLD_=17179869184")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "17179869184")
    assert command_line.allocator_advice() is None
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"export {name} := {value}" in makefile for name, value in command_line.ALLOCATOR.items())


def test_the_command_line_says_so_before_it_begins(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command_line, "allocator_advice", lambda: "memory: export these")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(chain.arguments("fit", "classifier", f"--run_dir={tmp_path}", "--trainer.max_epochs=0"))
    assert "memory: export these" in caplog.messages


def test_the_image_size_reaches_the_networks(chain: Chain) -> None:
    for stage in ("codebook", "aligner"):
        cli = main([*chain.arguments("fit", stage), f"--run_dir={chain.folder / 'links'}", "--trainer.max_epochs=0"])
        assert cli.model.network.config.resolution == cli.datamodule.size == 32


def test_run_dir_reaches_trainer_and_checkpoints(chain: Chain, tmp_path: Path) -> None:
    arguments = chain.arguments("fit", "classifier", f"--run_dir={tmp_path}", "--trainer.max_epochs=0")
    trainer = main(arguments).trainer
    assert trainer.default_root_dir == str(tmp_path)
    assert trainer.checkpoint_callback.dirpath == str(tmp_path / "checkpoints")


def test_the_architecture_comes_from_the_checkpoint_and_the_rest_from_the_command_line(chain: Chain) -> None:
    arguments = [a for a in chain.arguments("test", "generator") if "init_args.network" not in a]
    cli = main([*arguments, "--model.init_args.sampling.steps=1"])
    assert cli.model.config.width == 32
    assert cli.model.sampling.steps == 1


def test_a_checkpoint_of_another_stage_is_refused_by_the_command_line(chain: Chain) -> None:
    arguments = [a for a in chain.arguments("test", "codebook") if not a.startswith("--ckpt_path")]
    with pytest.raises(ValueError, match=r"last\.ckpt is a checkpoint of the classifier stage, expected the codebook"):
        main([*arguments, f"--ckpt_path={chain.path('classifier')}"])


def test_a_missing_checkpoint_is_named(chain: Chain, tmp_path: Path) -> None:
    arguments = [a for a in chain.arguments("test", "codebook") if not a.startswith("--ckpt_path")]
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist"):
        main([*arguments, f"--ckpt_path={tmp_path / 'none.ckpt'}"])


def test_a_codebook_that_changed_under_the_token_cache_is_refused(chain: Chain, tmp_path: Path) -> None:
    """Another codebook of the same shape: only its digest tells that the cached codes are not its own."""
    other = tmp_path / "codebook"
    main([*chain.arguments("fit", "codebook"), f"--run_dir={other}", "--seed_everything=5"])
    arguments = chain.arguments("fit", "generator", f"--run_dir={tmp_path / 'generator'}")
    changed = f"--model.init_args.codebook_ckpt={other / 'checkpoints/last.ckpt'}"
    with pytest.raises(ValueError, match=r"codebook|tokens"):
        main([*arguments, changed])


@pytest.mark.parametrize("file", [f for f in BY_FOLDER["data"] if not f.endswith("shards.yaml")])
def test_data_configs_name_a_missing_root(file: str, chain: Chain, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    arguments = [a for a in chain.arguments("fit", "prompter", configs=(file,)) if "layout_options" not in a]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main([*arguments, f"--run_dir={tmp_path}", f"--data.root={missing}"])


def test_the_environment_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: Chain) -> None:
    monkeypatch.setenv("CXR_ROOT", str(tmp_path / "from-environment"))
    arguments = chain.arguments("fit", "prompter", f"--run_dir={tmp_path}", configs=("configs/data/openi.yaml",))
    with pytest.raises(FileNotFoundError, match="from-environment"):
        main([a for a in arguments if "layout_options" not in a])


def test_main_prints_its_help_as_a_process() -> None:
    result = subprocess.run(
        [sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0
    assert "predict" in result.stdout


def test_the_sbatch_file_is_clean_and_asks_for_one_task_a_gpu() -> None:
    file = ROOT / "configs/slurm/fit.sbatch"
    checker = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert checker
    result = subprocess.run([checker, str(file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    text = file.read_text()
    assert "--ntasks-per-node=4" in text
    assert "--gpus-per-node=4" in text
    assert "--signal=SIGUSR1@90" in text
    assert "--ckpt_path" not in text.split("main.py fit", 1)[1]


def test_the_command_line_file_stays_small() -> None:
    assert len(Path(command_line.__file__).read_text().splitlines()) <= 110
