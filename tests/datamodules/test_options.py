"""Options out of their range are refused by name, with what was found and what was expected."""

import math

import pytest

from datamodules.cxr import CXRDataModule
from datamodules.options import RANGES, check_names, check_numbers


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"size": 0}, "data.init_args.size is 0; expected at least 1"),
        ({"batch_size": 0}, "data.init_args.batch_size is 0; expected at least 1"),
        ({"limit": 0}, "data.init_args.limit is 0; expected at least 1"),
        ({"num_workers": -1}, "data.init_args.num_workers is -1; expected at least 0"),
        ({"balance": -0.1}, "data.init_args.balance is -0.1; expected 0 to 1"),
        ({"balance": 2.0}, "data.init_args.balance is 2.0; expected 0 to 1"),
        ({"augment": -1.0}, "data.init_args.augment is -1.0; expected 0 to 6"),
        ({"augment": 10.0}, "data.init_args.augment is 10.0; expected 0 to 6"),
        ({"mirror": 50.0}, "data.init_args.mirror is 50.0; expected 0 to 1"),
        ({"mirror": math.nan}, "data.init_args.mirror is nan; expected 0 to 1"),
        ({"views": ["frontal"]}, r"data.init_args.views: 'frontal' does not exist; expected of \['PA', 'AP'"),
        ({"predict_splits": ["val"]}, r"data.init_args.predict_splits: 'val' does not exist; expected of \['train'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(option, message):
    with pytest.raises(ValueError, match=message):
        CXRDataModule(**option, root="/does/not/exist")


def test_bounds_and_none_are_allowed():
    for name, bounds in RANGES.items():
        for value in (*bounds, None):
            check_numbers(**{name: value})
    check_names(views=None, predict_splits=["test", "train"])
