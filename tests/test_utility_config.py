"""configs/experiment/utility.yaml through the real command line, on samples that `predict` of a generator wrote."""

import json
from pathlib import Path

from main import main
from tests.chain import ROOT, Chain

CALLBACK = "--trainer.callbacks.init_args"


def test_the_shipped_config_trains_every_cell_on_what_predict_wrote(chain: Chain, tmp_path: Path) -> None:
    main(chain.arguments("predict", "generator", f"--run_dir={tmp_path}", "--data.init_args.predict_splits=[train]"))
    arguments = chain.arguments("test", "classifier", f"--run_dir={tmp_path / 'utility'}")
    position = arguments.index("--trainer.callbacks=[]")
    # The shipped list after an empty one, as `callbacks+` in a file adds to what stood before it.
    small = [
        f"{CALLBACK}.samples={tmp_path / 'samples' / 'samples.csv'}",
        f"{CALLBACK}.classifier.init_args.config.resolution=32",
        f"{CALLBACK}.classifier.init_args.config.channels=[8]",
        f"{CALLBACK}.seeds=1",
        f"{CALLBACK}.min_positives=1",
        f"{CALLBACK}.recipe.steps=2",
    ]
    config = ["-c", str(ROOT / "configs/experiment/utility.yaml")]
    main([*arguments[: position + 1], *config, *arguments[position + 1 :], *small])
    cells = json.loads((tmp_path / "utility" / "utility.json").read_text())["cells"]
    assert [(cell["share"], cell["ratio"]) for cell in cells] == [
        (0, 1), (0.01, 0), (0.01, 1), (0.1, 0), (0.1, 1), (1, 0), (1, 1),
    ]  # fmt: skip
    whole = cells[-1]
    assert whole["real"] == whole["synthetic"] > 50
    assert all(0 < cell["auroc"]["mean"] < 1 for cell in cells)
    assert (tmp_path / "utility" / "pictures" / "utility.png").is_file()
