"""What becomes of uncertain labels, for all findings or by finding."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from datamodules.reports.labels import FINDINGS, UncertainPolicy, resolve_uncertain

LABELS = np.array([[1, 0, -1, np.nan, *[-1] * 10]], dtype=np.float32)


@pytest.mark.parametrize(("policy", "value"), [("ignore", np.nan), ("zeros", 0), ("ones", 1)])
def test_one_policy_for_all(policy, value):
    resolved = resolve_uncertain(LABELS, policy=policy)
    np.testing.assert_array_equal(resolved, np.float32([[1, 0, value, np.nan, *[value] * 10]]))
    assert resolved.dtype == np.float32
    assert LABELS[0, 2] == -1


def test_a_policy_for_each_finding_ignores_the_others():
    policy = {"Edema": "ones", "Atelectasis": "zeros", "Pneumonia": "ignore"}
    resolved = dict(zip(FINDINGS, resolve_uncertain(np.full(14, -1.0), policy=policy), strict=True))
    assert (resolved.pop("Edema"), resolved.pop("Atelectasis")) == (1, 0)
    assert np.isnan(list(resolved.values())).all()
    np.testing.assert_array_equal(resolve_uncertain(LABELS, policy={}), resolve_uncertain(LABELS, policy="ignore"))


@given(
    st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from(["ignore", "zeros", "ones"])),
    st.lists(st.lists(st.sampled_from([1.0, 0.0, -1.0, np.nan]), min_size=14, max_size=14), min_size=1, max_size=5),
)
def test_only_uncertain_labels_change_and_each_by_its_own_policy(policy, rows):
    labels = np.array(rows)
    resolved = resolve_uncertain(labels, policy=policy)
    assert not (resolved == -1).any()
    np.testing.assert_array_equal(resolved[labels != -1], labels[labels != -1].astype(np.float32))
    for column, finding in enumerate(FINDINGS):
        whole = resolve_uncertain(labels, policy=policy.get(finding, "ignore"))
        np.testing.assert_array_equal(resolved[:, column], whole[:, column])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("one", r"policy is 'one'; expected one of \['ignore', 'zeros', 'ones'\]"),
        ({"Edema": "one"}, r"policy of Edema is 'one'; expected one of \['ignore', 'zeros', 'ones'\]"),
        ({"Edema": ["ones"]}, r"policy of Edema is \['ones'\]"),
        ({"Oedema": "ones"}, r"'Oedema' is not a finding; expected some of \['No Finding', .*'Support Devices'\]"),
    ],
)
def test_wrong_names_are_listed_beside_the_right_ones(policy, message):
    with pytest.raises(ValueError, match=message):
        resolve_uncertain(LABELS, policy=policy)


def test_another_width_is_named():
    with pytest.raises(ValueError, match=r"shape \(3, 5\); expected \[\.\.\., 14\]"):
        resolve_uncertain(np.zeros((3, 5)), policy="zeros")


@dataclass
class Data:
    policy: UncertainPolicy = "ignore"


@pytest.mark.parametrize(
    ("text", "policy"),
    [("ones", "ones"), ('{"Edema": "ones", "Lung Opacity": "zeros"}', {"Edema": "ones", "Lung Opacity": "zeros"})],
)
def test_the_command_line_takes_both_forms(text, policy):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Data, "data")
    assert parser.parse_args([f"--data.policy={text}"]).data.policy == policy
