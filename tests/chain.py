"""The whole chain at the smallest sizes through the real command line, in-process: what the CLI tests build on."""

from pathlib import Path

from main import main

ROOT = Path(__file__).parents[1]
STUDIES = 120
# Sizes only; everything else is what the shipped configs say.
COMMON = (
    "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.callbacks=[]", "--trainer.max_epochs=1",
    f"--data.init_args.layout_options.studies={STUDIES}", "--data.init_args.size=32", "--data.init_args.batch_size=16",
)  # fmt: skip
SMALL = {
    "prompter": ("--model.init_args.network.width=32", "--model.init_args.network.depth=1",
                 "--model.init_args.network.heads=2", "--model.init_args.candidates=1",
                 "--model.init_args.rescue=1", "--model.init_args.max_new_tokens=24"),
    "classifier": ("--model.init_args.network.channels=[8,16]",),
    "codebook": ("--model.init_args.network.channels=[8,16,16]", "--model.init_args.network.stem=1",
                 "--model.init_args.network.codes=32",
                 "--model.init_args.network.code_dim=8", "--model.init_args.discriminator_width=8"),
    "aligner": ("--model.init_args.network.channels=[8,16]", "--model.init_args.network.width=16",
                "--model.init_args.network.dim=16"),
    "generator": ("--model.init_args.network.width=32", "--model.init_args.network.depth=1",
                  "--model.init_args.network.heads=2", "--model.init_args.sampling.steps=2"),
}  # fmt: skip


class Chain:
    """One folder with the runs of all stages; `run` calls the real main() with a stage's shipped configs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, stage: str, name: str = "checkpoints/last.ckpt") -> Path:
        return self.folder / stage / name

    def inputs(self, stage: str) -> tuple[str, ...]:
        """The arguments that tell a stage where the former ones are."""
        model = {
            "codebook": {"classifier_ckpt": self.path("classifier")},
            "aligner": {"classifier_ckpt": self.path("classifier")},
            "generator": {
                "codebook_ckpt": self.path("codebook"),
                "aligner_ckpt": self.path("aligner"),
                "key_patches": self.path("aligner", "key_patches.safetensors"),
            },
        }.get(stage, {})
        data = {
            "aligner": {"tokens": self.path("codebook", "tokens.safetensors")},
            "generator": {
                "tokens": self.path("codebook", "tokens.safetensors"),
                "clues": self.path("aligner", "clues.safetensors"),
            },
        }.get(stage, {})
        return (
            f"--data.init_args.cache_dir={self.folder / 'cache'}",
            *(f"--model.init_args.{key}={value}" for key, value in model.items()),
            *(f"--data.init_args.{key}={value}" for key, value in data.items()),
        )

    def arguments(self, verb: str, stage: str, *extra: str, configs: tuple[str, ...] = ()) -> list[str]:
        """The command line of one verb of one stage."""
        files = [ROOT / "configs/base.yaml", ROOT / f"configs/{stage}.yaml", *(ROOT / c for c in configs)]
        flags = [flag for file in files for flag in ("-c", str(file))]
        checkpoint = [] if verb == "fit" else [f"--ckpt_path={self.path(stage)}"]
        run_dir = f"--run_dir={self.folder / stage}"
        return [verb, *flags, *COMMON, *SMALL[stage], *self.inputs(stage), run_dir, *checkpoint, *extra]

    def run(self, verb: str, stage: str, *extra: str, configs: tuple[str, ...] = ()) -> dict[str, float]:
        """Run it and return the logged metrics."""
        cli = main(self.arguments(verb, stage, *extra, configs=configs))
        return {key: float(value) for key, value in cli.trainer.callback_metrics.items()}

    def build(self, last: str = "generator") -> "Chain":
        """Train every stage up to `last` and write its artefacts."""
        for stage, predicts in (
            ("prompter", True),
            ("classifier", False),
            ("codebook", True),
            ("aligner", True),
            ("generator", False),
        ):
            self.run("fit", stage)
            if predicts:
                self.run("predict", stage)
            if stage == last:
                break
        return self
