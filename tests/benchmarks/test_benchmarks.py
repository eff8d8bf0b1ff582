"""The benchmarks reach what the README says of them. Ratios only: seconds differ from machine to machine."""

import pytest

from tests.benchmarks import batches, prepare_rate, workers_memory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_prepare_is_faster_than_full_decoding_and_agrees_with_it():
    figures = prepare_rate.measure()
    assert figures["ratio"] >= 2.3
    assert figures["agreement_db_min"] >= 54


def test_batches_cost_little_more_than_the_bare_store():
    pytest.importorskip("torchxrayvision")
    figures = batches.measure()
    assert figures["ratio_to_jpegs"] >= 50
    assert figures["ratio_to_torchxrayvision"] >= 3
    assert figures["ratio_gather_to_bare"] <= 1.5


def test_memory_of_workers_does_not_grow_with_the_data():
    figures = workers_memory.measure()
    assert figures["many_first_start_s"] <= 10
    assert figures["many_first_pss_gb"] <= 1.5
    assert figures["uss_growth_a_worker_mb"] <= 20
