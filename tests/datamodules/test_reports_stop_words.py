"""The stop list: the package's own, and what is refused in a user's."""

import json
from pathlib import Path

import pytest

from datamodules.reports.phrases import lexicon
from datamodules.reports.stop_words import FILE, StopList, read_stop_words


def test_the_packages_list_gives_a_reason_for_each_word() -> None:
    stop = read_stop_words()
    assert {"left ventricle", "osteopenia"} <= stop.words.keys()
    # What the 14 labels need stays a keyword.
    labels = {e.label for e in lexicon().entities.values() if e.label and not stop.reason(e.word)}
    assert len(labels) == 13
    devices = {e.word for e in lexicon().entities.values() if e.label == "Support Devices"} - stop.words.keys()
    assert devices <= stop.without_severity.keys()
    assert list(stop.words) == sorted(stop.words)


def test_a_word_goes_with_its_sides() -> None:
    stop = StopList({"rib": "too small"}, {})
    assert [stop.reason(word) for word in ("rib", "left rib", "bilateral rib", "heart")] == ["too small"] * 3 + [None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words", "is not JSON"),
        ('{"schema": 9}', "found schema 9, expected 1"),
        ('["heart"]', "found schema None, expected 1"),
        ('{"schema": 1, "words": ["heart"]}', "words is list, expected an object"),
        ('{"schema": 1, "words": {"hart": "typo"}}', "words names 'hart', which is no word of the lexicon"),
        ('{"schema": 1, "without_severity": {"port": " "}}', "without_severity gives no reason for 'port'"),
    ],
)
def test_a_list_with_faults_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "stop.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_stop_words(path)
    assert str(path) in str(error.value)


def test_a_users_list_takes_the_place_of_the_packages(tmp_path: Path) -> None:
    path = tmp_path / "stop.json"
    path.write_text(json.dumps({**json.loads(FILE.read_text()), "words": {"heart": "only lungs"}}))
    assert read_stop_words(path).words == {"heart": "only lungs"}
    with pytest.raises(FileNotFoundError, match=r"copy stop_words\.json of the package"):
        read_stop_words(tmp_path / "none.json")
