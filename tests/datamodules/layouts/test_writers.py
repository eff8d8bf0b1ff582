"""The writers of phantoms on disk: what they take, and what they refuse before anything is written."""

import inspect
from importlib import import_module
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from datamodules.__main__ import main
from datamodules.phantom import disk


@pytest.mark.parametrize(
    ("layout", "option", "value", "expected"),
    [
        ("chexpert_plus", "pictures", "gif", "one of 'png', 'jpg'"),
        ("mimic_cxr", "reports", "tar", "one of 'folder', 'zip', 'sectioned'"),
        ("nih", "folders", 3, "one of 1, 12"),
        ("nih", "folders", "12", "one of 1, 12"),
        ("nih", "jpeg", "yes", "true or false"),
        ("table", "gz", 1, "true or false"),
        ("chexpert", "small", None, "true or false"),
        ("vindr", "kaggle", ["x"], "true or false"),
    ],
)
def test_a_value_that_does_not_exist_is_refused(tmp_path, layout, option, value, expected):
    with pytest.raises(ValueError, match=rf"the writer of {layout}: option {option} is .*; expected {expected}$"):
        disk.write(layout, tmp_path / "new", studies=1, **{option: value})
    assert not (tmp_path / "new").exists()


def test_on_the_command_line(tmp_path, capsys):
    given = ["phantom", "--layout", "chexpert_plus", "--studies", "1", "--size", "16", "--out", str(tmp_path / "new")]
    assert main([*given, "--option", "pictures=gif"]) == 1
    assert "option pictures is 'gif'; expected one of 'png', 'jpg'" in capsys.readouterr().err
    assert main([*given, "--option", "pictures=jpg", "--option", "labels=false"]) == 0


@pytest.mark.parametrize("layout", disk.NAMES)
def test_every_option_says_which_values_it_takes(layout):
    function = import_module(f"datamodules.phantom.disk.{layout}").write
    types = get_type_hints(function)
    options = [
        name for name in inspect.signature(function).parameters if name not in ("out", "studies", "seed", "size")
    ]
    assert options
    for name in options:
        assert types[name] is bool or (get_origin(types[name]) is Literal and get_args(types[name])), name
