"""The rules, a CheXbert and a RadGraph behind one interface."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.reports.labels import FINDINGS
from lightning_modules.networks.labelers import rules_or_network
from tests.lightning_modules import tiny_readers


@pytest.mark.parametrize("kind", ["rules", "chexbert", "radgraph"])
def test_each_gives_labels_in_one_form(kind: str, tmp_path: Path) -> None:
    backend = "rules"
    if kind == "chexbert":
        backend = str(tiny_readers.chexbert(tmp_path))
    elif kind == "radgraph":
        pytest.importorskip("radgraph", reason="a RadGraph needs the extra radgraph: pip install 'cxr-synth[radgraph]'")
        backend = str(tiny_readers.radgraph(tmp_path / "one"))
    labeler = rules_or_network(backend)
    found = labeler(["Small left effusion. No edema.", " ", "Edema."])
    assert found.shape == (3, 14)
    assert found.dtype == np.float32
    assert np.isnan(found[1]).all()
    assert set(found[~np.isnan(found)]) <= {1.0, 0.0, -1.0}
    if kind != "chexbert":  # whose tiny weights are drawn
        assert found[0, [FINDINGS.index("Pleural Effusion"), FINDINGS.index("Edema")]].tolist() == [1, 0]
    assert labeler([]).shape == (0, 14)


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere/config.json is missing; expected \"rules\", a folder of CheX"
    ):
        rules_or_network(str(tmp_path / "nowhere"))
    tiny_readers.radgraph(tmp_path / "one")
    (tmp_path / "one" / "weights.th").unlink()
    with pytest.raises(FileNotFoundError, match=r"one/weights.th is missing; expected a RadGraph's"):
        rules_or_network(str(tmp_path / "one"))
