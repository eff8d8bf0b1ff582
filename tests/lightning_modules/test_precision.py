"""The precision where the config leaves it open."""

import time

import pytest
import torch

from lightning_modules.precision import fastest_precision

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


def milliseconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(384, 384, dtype=dtype)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - begun)
    return min(times) * 1000


def test_what_is_chosen_for_this_processor_is_not_the_slow_one() -> None:
    times = {name: milliseconds(dtype) for name, dtype in PRECISIONS.items()}
    # Emulated bf16 takes a hundred times as long; real one at most a little longer on so small a matrix.
    assert times[fastest_precision("cpu")] < 4 * min(times.values())


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_a_gpu_is_asked_itself(monkeypatch: pytest.MonkeyPatch, accelerator: str, *, supported: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert fastest_precision(accelerator) == ("bf16-mixed" if supported else "32-true")
