"""Options against annotations: which values fit, and what is said of those that do not."""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

from datamodules import layouts
from datamodules.__main__ import main
from datamodules.signatures import check_options, fits


def function(
    root: str,
    *,
    images: bool = True,
    split: Literal["lists", "hashed"] = "lists",
    keep: Literal["drop", "keep"] | None = None,
    seed: int = 0,
    share: float = 0.1,
    file: str | None = None,
    reports: str | Path | None = None,
    columns: dict[str, str] | None = None,
    sets: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Takes one option of each kind that layouts have."""


@pytest.mark.parametrize(
    "options",
    [
        {"images": False, "split": "hashed", "keep": None, "seed": -3, "share": 1, "file": None, "columns": None},
        {"keep": "drop", "share": 0.5, "file": "t.csv", "reports": Path("r"), "columns": {"Edema": "oedema"}},
        {"reports": "r", "columns": {}, "sets": [{"layout": "nih"}]},
    ],
)
def test_values_that_fit(options):
    check_options(function, options, of="f")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("images", "False", "true or false"),
        ("images", 0, "true or false"),
        ("split", "Lists", "one of 'lists', 'hashed'"),
        ("split", ["lists"], "one of 'lists', 'hashed'"),
        ("keep", "Drop", "one of 'drop', 'keep' or null"),
        ("seed", "abc", "a whole number"),
        ("seed", 1.5, "a whole number"),
        ("seed", True, "a whole number"),
        ("share", "a", "a number"),
        ("share", False, "a number"),
        ("share", None, "a number"),
        ("file", 7, 'a text, as in "7" or null'),
        ("file", ["a"], "a text or null"),
        ("reports", 7, 'a text, as in "7" or null'),
        ("columns", ["Edema"], r"\{name: value, ...\} with a text as value or null"),
        ("columns", {"Edema": 3}, r"\{name: value, ...\} with a text as value or null"),
    ],
)
def test_values_that_do_not(name, value, expected):
    with pytest.raises(ValueError, match=rf"^f: option {name} is .*; expected {expected}$"):
        check_options(function, {name: value}, of="f")


def test_names_and_options_that_must_be_given():
    with pytest.raises(ValueError, match=r"f has no option 'root'; its options are \['images', 'split'"):
        check_options(function, {"root": "x"}, of="f")
    with pytest.raises(ValueError, match=r"layout phantom needs the option 'studies'; its options are \['studies'"):
        layouts.read("phantom", None)
    with pytest.raises(ValueError, match="layout joined needs the option 'sets'"):
        layouts.read("joined", None)


@pytest.mark.parametrize("layout", layouts.NAMES)
def test_each_default_of_a_layout_fits_and_a_list_does_not(layout, tmp_path):
    read = import_module(f"datamodules.layouts.{layout}").read
    types = get_type_hints(read)
    for name, parameter in inspect.signature(read).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name != "sets":
            assert parameter.default is parameter.empty or fits(parameter.default, types[name]), name
            with pytest.raises(ValueError, match=rf"layout {layout}: option {name} is \['a'\]; expected "):
                layouts.read(layout, tmp_path, **{name: ["a"]})
    for name in ("root", "layout"):
        with pytest.raises(ValueError, match=f"layout {layout} has no option '{name}'"):
            layouts.read(layout, tmp_path, **{name: "x"})


def test_on_the_command_line(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("image,report,patient\na.png,x,1\n")
    for command in ("doctor {}", "vocabulary --out v --layout table --root {}", "prepare --out o --root {}"):
        given = [*command.format(tmp_path).split(), "--option", "without_report=Drop"]
        assert main(given) == 1, command
        said = capsys.readouterr()
        # The doctor breaks lines and sets the mend apart.
        words = " ".join((said.out + said.err).replace("mend: ", "; ").split()).replace(" ;", ";")
        assert "layout table: option without_report is 'Drop'; expected one of 'drop', 'keep' or null" in words
