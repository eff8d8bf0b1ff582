"""`python -m callbacks card` and `compare`: hand-made files and files of real tests, refusals, exit codes."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import lightning
import pytest

from callbacks.__main__ import main
from callbacks.compare import compare, differences
from callbacks.downstream import DownstreamClassifier
from callbacks.fidelity import FidelityMetrics
from callbacks.figures import figures_of, open_run, parts_of
from callbacks.metrics_file import MetricsFile
from callbacks.metrics_json import SCHEMA_FILE
from tests.callbacks.chain import RandomProjection, TinyData, TinyStage, trainer

CLASSIFIER = {"name": "finding-classifier", "digest": "c" * 64, "num_features": 256, "resolution": 64}
PROTOCOL: dict[str, Any] = {
    "schema": 1,
    "stage": "CXRGenerator",
    "data_digest": "a" * 64,
    "layout": "phantom",
    "layout_options": {"studies": 6000},
    "split": "test",
    "n": 616,
    "repeated": 0,
    "ids_digest": "d" * 64,
    "limit_test_batches": 1.0,
    "label_policy": "ignore",
    "image_size": [64, 64],
    "images": {"size": 64, "filter": "Pillow Lanczos", "antialias": True},
    "sampling": {"steps": 12, "seed": 0},
    "seed": 0,
    "checkpoint": {"name": "last.ckpt", "sha256": "1" * 64},
    "precision": "32-true",
    "world_size": 1,
    "device": "cpu",
    "versions": {"python": "3.11.7", "torch": "2.9", "lightning": "2.6.1", "torchmetrics": "1.9.0"},
    "metrics": {
        "generator/fid": {"extractor": CLASSIFIER, "n": 616, "seed": 0, "kid": {"subset_size": 616}},
        "generator/diversity": {"figures": ["generator/diversity_real"], "n": 128, "seed": 0},
    },
    "undefined": {},
}
FIGURES = {
    "generator/fid": 3.25, "generator/fid_low": 3.0, "generator/fid_high": 3.5, "generator/fid_floor": 1.25,
    "generator/kid": 0.01234, "generator/diversity_real": 0.4,
}  # fmt: skip


def write(folder: Path, figures: dict[str, float | None] | None = None, **changes: Any) -> Path:
    """A stage's file with `changes` at paths of its protocol, written `a__b=value`; "/" stands for itself."""
    protocol = copy.deepcopy(PROTOCOL)
    for path, value in changes.items():
        *above, last = path.split("__")
        at = protocol
        for key in above:
            at = at[key]
        at[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    document = {**(FIGURES if figures is None else figures), "protocol": protocol}
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))
    (folder / "metrics.json").write_text(json.dumps(document))
    return folder


def test_a_figure_has_its_interval_floor_and_settings(tmp_path: Path):
    figures = figures_of(open_run(write(tmp_path / "a")))
    assert set(figures) == set(FIGURES) - {"generator/fid_low", "generator/fid_high"}
    fid = figures["generator/fid"]
    assert (fid.value, fid.low, fid.high, fid.floor, fid.n, fid.extractor) == (3.25, 3.0, 3.5, 1.25, 616, CLASSIFIER)
    assert list(fid.settings["metrics"]) == ["generator/fid"]
    assert "undefined" not in fid.settings
    real = figures["generator/diversity_real"]
    assert (real.n, real.extractor, real.low) == (128, None, None)
    assert real.settings["metrics"] == {"generator/diversity": {"n": 128, "seed": 0}}


def test_which_settings_a_figure_depends_on():
    described = {"g/fid": {}, "g/auroc_synthetic": {}, "g/niqe": {"figures": ["g/niqe"]}, "h/fid": {}}
    for key, names in {
        "g/niqe": ["g/niqe"],  # named
        "g/fid_blur": ["g/fid"],  # of one family
        "g/auroc_real/edema": ["g/auroc_synthetic"],
        "g/kid": ["g/fid", "g/auroc_synthetic"],  # of no family: all of its prefix that name nothing
        "x/loss": [],
    }.items():
        assert list(parts_of(key, {"metrics": described})) == names, key


def test_differences_are_named_by_their_paths():
    a, b = {"x": {"y": 1, "z": [1, 2]}, "same": 0}, {"x": {"y": 2, "z": [1, 2], "new": None}, "same": 0}
    assert [str(one) for one in differences(a, b)] == ["x.new: absent | None", "x.y: 1 | 2"]
    assert differences(a, a) == []


def test_another_checkpoint_is_compared_and_said(tmp_path: Path, capsys: pytest.CaptureFixture):
    better = FIGURES | {"generator/fid": 2.75, "generator/fid_low": 2.6, "generator/fid_high": 2.9}
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", better, checkpoint__sha256="2" * 64, seed=1, versions__torch="2.14", device="cuda")
    assert main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("generator/fid "))
    assert row.split("  ")[1:] != []
    assert "3.25 [3, 3.5]" in row
    assert "2.75 [2.6, 2.9]" in row
    assert row.endswith("-0.5    apart") or row.split()[-2:] == ["-0.5", "apart"]
    assert next(line for line in out.splitlines() if line.startswith("generator/kid")).endswith("no interval")
    for text in (f"checkpoint.sha256: {'1' * 64} | {'2' * 64}", "seed: 0 | 1", "versions.torch: 2.9 | 2.14"):
        assert f"differs, as it may: {text}" in out
    assert "not comparable" not in out
    wide = better | {"generator/fid_high": 3.0}
    assert main(["compare", str(a), str(write(tmp_path / "c", wide))]) == 0
    assert "overlap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data_digest", "b" * 64), ("split", "validate"), ("n", 600), ("ids_digest", "e" * 64),
        ("images__antialias", False), ("image_size", [128, 128]), ("label_policy", "zeros"),
        ("limit_test_batches", 2), ("sampling__steps", 24), ("layout_options__studies", 600),
    ],
)  # fmt: skip
def test_another_protocol_of_the_whole_test_is_refused(
    path: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture
):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", **{path: value})
    assert main(["compare", str(a), str(b)]) == 2
    captured = capsys.readouterr()
    key = path.replace("__", ".")
    assert f"  {key}: " in captured.out
    assert f"| {value}" in captured.out
    assert "nothing to compare: 4 figures in both, all under other protocols" in captured.err
    assert not any(line.startswith("generator/fid ") for line in captured.out.splitlines())


def test_a_figure_is_refused_alone(tmp_path: Path, capsys: pytest.CaptureFixture):
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", **{"metrics__generator/fid__extractor": CLASSIFIER | {"digest": "f" * 64}})
    assert main(["compare", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("not comparable: generator/fid, generator/fid_floor, generator/kid")
    assert lines[at + 1] == f"  metrics.generator/fid.extractor.digest: {'c' * 64} | {'f' * 64}"
    assert any(line.startswith("generator/diversity_real ") for line in lines)


def test_a_setting_of_a_metric_and_an_extractor_that_is_not_named(tmp_path: Path):
    a = open_run(write(tmp_path / "a"))
    b = open_run(write(tmp_path / "b", **{"metrics__generator/diversity__seed": 1}))
    refused = {one.key: [d.path for d in one.refused] for one in compare(a, b)}
    assert refused.pop("generator/diversity_real") == ["metrics.generator/diversity.seed"]
    assert not any(refused.values())
    c = open_run(write(tmp_path / "c", metrics={}))
    assert all(one.refused for one in compare(a, c))


def test_samples_are_what_is_compared_as_a_checkpoint_is(tmp_path: Path, capsys: pytest.CaptureFixture):
    utility = {
        "figures": ["generator/utility_auroc/0/1"], "n": 616, "samples": {"table": "samples.csv", "sha256": "1" * 64},
        "synthetic": {"n": 100, "sha256": "3" * 64}, "real": {"n": 100, "sha256": "4" * 64},
    }  # fmt: skip
    other = utility | {"samples": {"table": "b.csv", "sha256": "2" * 64}, "synthetic": {"n": 100, "sha256": "5" * 64}}
    figures = FIGURES | {"generator/utility_auroc/0/1": 0.8}
    a = write(tmp_path / "a", figures, **{"metrics__generator/utility_auroc": utility})
    b = write(tmp_path / "b", figures, **{"metrics__generator/utility_auroc": other})
    assert main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "not comparable" not in out
    assert f"utility_auroc.samples.sha256: {'1' * 64} | {'2' * 64}" in out
    c = write(tmp_path / "c", figures, **{"metrics__generator/utility_auroc": other | {"real": {"n": 90}}})
    assert main(["compare", str(a), str(c)]) == 0
    assert "not comparable: generator/utility_auroc/0/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("checkpoint", {"name": "b.ckpt", "sha256": "2" * 64}, True),
        ("checkpoint", None, True),
        ("precision", "bf16-mixed", True),
        ("sampling", {"steps": 24}, False),
        ("data_digest", "b" * 64, False),
        (None, "unknown", False),
    ],
)
def test_what_made_the_samples_may_differ_as_what_is_tested_may(
    path: str | None, value: Any, allowed: bool, tmp_path: Path
):
    key = "generator/utility_auroc/0/1"
    origin = {"checkpoint": {"name": "a.ckpt", "sha256": "1" * 64}, "sampling": {"steps": 12}, "precision": "32-true",
              "data_digest": "a" * 64}  # fmt: skip

    def run(name: str, generator: Any) -> Any:
        utility = {"figures": [key], "n": 616, "samples": {"table": "samples.csv", "generator": generator}}
        return open_run(write(tmp_path / name, {key: 0.8}, **{"metrics__generator/utility_auroc": utility}))

    a, b = run("a", origin), run("b", value if path is None else origin | {path: value})
    (one,) = compare(a, b)
    assert one.differences
    assert all(".samples.generator" in difference.path for difference in one.differences)
    assert (not one.refused) == allowed
    (one,) = compare(a, b, allow=["sampler"])
    assert (not one.refused) == (allowed or path == "sampling")


def test_the_sampler_may_differ_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", sampling__steps=24)
    assert main(["compare", str(a), str(b), "--allow", "sampler"]) == 0
    assert "differs, as it may: sampling.steps: 12 | 24" in capsys.readouterr().out


def test_unknown_data_is_never_equal(tmp_path: Path, capsys: pytest.CaptureFixture):
    a, b = (write(tmp_path / name, data_digest=None) for name in "ab")
    assert main(["compare", str(a), str(b)]) == 2
    assert "data_digest: unknown | unknown" in capsys.readouterr().out


def test_null_and_lonely_figures_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture):
    a = write(tmp_path / "a", {"generator/fid": 1.0, "generator/old": 1.0})
    b = write(tmp_path / "b", {"generator/fid": None, "x/new": 2.0}, undefined={"generator/fid": "too few"})
    assert main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "b: generator/fid is null: too few" in out
    assert "only in a: generator/old" in out
    assert "only in b: x/new" in out
    write(tmp_path / "c", {"y/z": 1.0})
    assert main(["compare", str(a), str(tmp_path / "c")]) == 2
    assert "nothing to compare: no figure in both" in capsys.readouterr().err


def test_chains_stages_and_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture):
    write(tmp_path / "run" / "generator")
    write(tmp_path / "run" / "codebook", {"codebook/psnr": 24.5}, data_digest="b" * 64)
    assert main([str(tmp_path / "run")]) == 0  # writes the merged file beside them
    for path in (tmp_path / "run", tmp_path / "run" / "metrics.json"):
        run = open_run(path)
        assert set(run.protocols) == {"codebook", "generator"}
        assert figures_of(run)["codebook/psnr"].settings["data_digest"] == "b" * 64
    one = open_run(tmp_path / "run" / "codebook" / "metrics.json")
    assert one == open_run(tmp_path / "run" / "codebook")
    assert one.metrics == {"codebook/psnr": 24.5}
    assert main(["compare", str(tmp_path / "none"), str(tmp_path / "run")]) == 2
    assert "no <stage>/metrics.json in it" in capsys.readouterr().err
    (tmp_path / "run" / "codebook" / "metrics.json").write_text("{")
    assert main(["card", str(tmp_path / "run" / "codebook")]) == 2
    assert "no valid JSON" in capsys.readouterr().err


def test_the_card_states_everything_and_its_rows_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture):
    write(tmp_path / "my_run", FIGURES | {"generator/x": None}, undefined={"generator/x": "a | b"})
    assert main(["card", str(tmp_path / "my_run")]) == 0
    out = capsys.readouterr().out
    for text in (
        "a" * 64, "1" * 64, "d" * 64, "phantom studies 6000", "test, 616 images", "antialias True",
        "steps 12, seed 0", "torch 2.9", "32-true on 1 × cpu", "null (a \\| b)", '"subset_size": 616',
    ):  # fmt: skip
        assert text in out, text
    lines = out.splitlines()
    assert "| generator/fid | 3.25 [3, 3.5] | 1.25 | 616 | finding-classifier cccccccc | my_run |" in lines
    cell = "3.25 [3, 3.5] (floor 1.25, N=616, finding-classifier cccccccc)"
    assert f"| my_run | {cell} | 0.01234 (N=616, finding-classifier cccccccc) |" in lines
    header = lines[lines.index("## Rows to paste") + 2]
    assert header == "| run | generator/fid | generator/kid |"
    latex = lines[lines.index("```latex") + 1 : -1]
    assert latex[0] == r"run & generator/fid & generator/kid \\"
    assert latex[2].startswith(rf"my\_run & {cell} & 0.01234 ")
    assert latex[2].endswith(r"\\")
    for table in ("| figure |", "| run |"):  # every row has as many cells as its header
        at = next(i for i, line in enumerate(lines) if line.startswith(table))
        rows = [line.replace("\\|", "") for line in lines[at:]]
        rows = rows[: rows.index("")]
        assert len({row.count("|") for row in rows}) == 1


def test_a_pasted_figure_keeps_its_chance_level(tmp_path: Path, capsys: pytest.CaptureFixture):
    ratio = {"generator/consistency_side_ratio": 0.9, "generator/consistency_side_ratio_chance": 0.51}
    write(tmp_path / "a", FIGURES | ratio)
    assert main(["card", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "| generator/fid | generator/kid | generator/consistency_side_ratio |" in out
    assert "0.9 (chance 0.51" in out


def test_the_figures_of_a_row_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture):
    write(tmp_path / "a")
    arguments = ["card", str(tmp_path / "a"), "--title", "50 % & more", "--figures", "generator/diversity_real"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "| 50 % & more | 0.4 (N=128) |" in out
    assert r"run & generator/diversity\_real \\" in out
    assert r"50 \% \& more & 0.4 (N=128) \\" in out
    assert main([*arguments, "x/y"]) == 2
    assert "not measured: x/y; there are generator/diversity_real," in capsys.readouterr().err


class Sampling(TinyStage):
    steps = 3

    def sampling_protocol(self) -> dict[str, Any]:
        return {"steps": self.steps}


def test_real_tests_write_what_the_schema_says_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture):
    def run(name: str, *, steps: int = 3, scale: float = 0.9, size: int = 16, **data: Any) -> Path:
        lightning.seed_everything(0, verbose=False)
        stage, source = Sampling(), TinyData(37, **data)
        stage.steps, stage.scale.data = steps, stage.scale.data * scale
        source.image_protocol = {"size": size, "filter": "none"}
        judges = [FidelityMetrics(RandomProjection()), DownstreamClassifier(RandomProjection(), min_positives=1)]
        trainer(tmp_path / name, [*judges, MetricsFile()]).test(stage, source, verbose=False)
        document = json.loads((tmp_path / name / "metrics.json").read_text())
        jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))
        assert document["protocol"]["sampling"] == {"steps": steps}
        assert document["protocol"]["images"] == {"size": size, "filter": "none"}
        assert len(document["protocol"]["ids_digest"]) == 64
        assert {"numpy", "pillow", "torchvision"} < set(document["protocol"]["versions"])
        return tmp_path / name

    a, b = run("a"), run("b", scale=0.5)
    capsys.readouterr()
    assert main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "not comparable" not in out
    row = next(line.split() for line in out.splitlines() if line.startswith("generator/fid "))
    figures = [json.loads((path / "metrics.json").read_text())["generator/fid"] for path in (a, b)]
    assert float(row[-2]) == pytest.approx(figures[1] - figures[0], rel=1e-3)
    # Another order of the batches is the same protocol; another resize and other sampler settings are not.
    assert main(["compare", str(a), str(run("c", batch_size=7))]) == 0
    for other, path in ((run("d", size=17), "images.size: 16 | 17"), (run("e", steps=4), "sampling.steps: 3 | 4")):
        capsys.readouterr()
        assert main(["compare", str(a), str(other)]) == 2
        assert path in capsys.readouterr().out


def test_the_schema_is_one_and_refuses_what_is_wrong(tmp_path: Path):
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads((write(tmp_path / "a") / "metrics.json").read_text())
    for change in (
        {"generator/fid": "high"},
        {"protocol": document["protocol"] | {"schema": 2}},
        {"protocol": document["protocol"] | {"data_digest": "abc"}},
        {"protocol": document["protocol"] | {"surprise": 1}},
        {"protocol": {k: v for k, v in document["protocol"].items() if k != "images"}},
        {"protocol": document["protocol"] | {"metrics": {"a/b": {"extractor": {"name": "x"}}}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document | change, schema)
