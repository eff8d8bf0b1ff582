"""Metrics of texts, each by a case counted by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.text import bleu_score

from datamodules.reports.keywords import Keywords
from lightning_modules.networks.labelers import rules_or_network
from lightning_modules.networks.language_model import train_codec
from lightning_modules.networks.ngram import NgramModel
from lightning_modules.networks.report_metrics import Baseline, ReportMetrics, asked_findings, stated_findings
from lightning_modules.networks.text_metrics import DistinctNgrams, Lengths, Ratio, SelfBleu
from lightning_modules.networks.written import Request, read_back


def test_ratio_and_distinct_by_hand() -> None:
    ratio = Ratio(torch.exp)
    ratio.update(1.0, 2)
    ratio.update(2.0, 2)
    assert float(ratio.compute()) == pytest.approx(np.exp(0.75))
    distinct = DistinctNgrams(2)
    distinct.update(["a b a b", "a b"])  # ab ba ab | ab
    assert float(distinct.compute()) == 0.5


def test_witten_bell_by_hand() -> None:
    # Texts 0 1 2 and 0 1 1 over a vocabulary of 4.
    model = NgramModel([[0, 1, 2], [0, 1, 1]], order=2, vocabulary=4)
    # Unigrams: counts 2 3 1 0 of 6, 3 kinds: p(w) = (c + 3 × 1/4) / 9.
    assert model.probability(3, [3]) == pytest.approx(0.75 / 9)  # 3 was never a history
    # After 1: 2 once, 1 once; 2 kinds: p(2|1) = (1 + 2 p(2)) / 4 with p(2) = 1.75/9.
    assert model.probability(2, [0, 1]) == pytest.approx((1 + 2 * 1.75 / 9) / 4)
    for history in ([], [0], [1], [3], [0, 1]):
        assert sum(model.probability(w, [-1, *history]) for w in range(4)) == pytest.approx(1)
    # The start of a text is a history too: 0 twice of 2, 1 kind.
    start = (2 + 1 * 2.75 / 9) / 3
    after_zero = (2 + 1 * 3.75 / 9) / 3
    assert model.nll([0, 1]) == pytest.approx(-math.log(start) - math.log(after_zero))
    assert NgramModel([[0, 0, 1]], order=1, vocabulary=2).probability(0, []) == pytest.approx((2 + 2 * 0.5) / 5)
    with pytest.raises(ValueError, match="order 0"):
        NgramModel([[0]], order=0, vocabulary=2)


def test_longer_histories_help_where_they_were_seen() -> None:
    texts = [[0, 1, 2, 3], [4, 1, 5, 3]] * 3
    one, three = (NgramModel(texts, order=order, vocabulary=8) for order in (1, 3))
    assert three.nll([0, 1, 2, 3]) < one.nll([0, 1, 2, 3])
    assert three.probability(2, [0, 1]) > three.probability(5, [0, 1])


def test_self_bleu_is_the_mean_against_all_others_and_does_not_depend_on_the_order() -> None:
    texts = ["the heart is normal in size", "the heart is large in size", "no pleural effusion is seen"]
    metric = SelfBleu(seed=3)
    metric.update(texts, ["a", "b", "c"])
    expected = [bleu_score([text], [[t for t in texts if t != text]], n_gram=4, smooth=True).item() for text in texts]
    assert float(metric.compute()) == pytest.approx(np.mean(expected))
    sample, other = SelfBleu(sample=2, seed=3), SelfBleu(sample=2, seed=3)
    sample.update(texts, ["a", "b", "c"])
    other.update(texts[::-1], ["c", "b", "a"])
    assert float(sample.compute()) == float(other.compute())
    same = SelfBleu()
    same.update(["the heart is normal"] * 2, ["a", "b"])
    assert float(same.compute()) == pytest.approx(1)
    one = SelfBleu()
    one.update(["the heart is normal"], ["a"])
    assert math.isnan(float(one.compute()))


def test_lengths_by_hand() -> None:
    lengths = Lengths()
    lengths.update(["a b", "a b c d"], ["a", "a b c"])
    values = {name: float(value) for name, value in lengths.compute().items()}
    assert values["words"] == 3
    assert values["real_words"] == 2
    assert values["real_words_q50"] == 2
    assert values["words_q90"] == pytest.approx(3.8)
    assert values["words_wasserstein"] == 1  # each text is one word longer


def test_findings_of_texts_and_of_keywords() -> None:
    texts = ["Small pleural effusion. Possible pneumonia. No pneumothorax.", "The lungs are clear."]
    assert stated_findings(texts, labeler=rules_or_network("rules")) == [{"Pleural Effusion", "Pneumonia"}, set()]
    assert asked_findings(Keywords(("heart",), ("small left pleural effusion", "possible pneumonia"))) == {
        "Pleural Effusion",
        "Pneumonia",
    }


def test_what_a_test_logs() -> None:
    reports = ["Small left pleural effusion. The heart is normal.", "No pneumothorax. The lungs are clear today."]
    codec = train_codec(reports, sub_words=300)
    baseline, metrics = Baseline(reports, codec=codec), ReportMetrics(seed=0)
    asked = [Keywords(("heart",), ("left pleural effusion",)), Keywords(("lung",), ("pneumothorax",))]
    written = [read_back(text, Request(k)) for text, k in zip(reports, asked, strict=True)]
    metrics.update_texts(written, reports, keys=["a", "b"], baseline=baseline)
    metrics.update_likelihoods(reports, given=3.0, without=6.0, tokens=30, baseline=baseline)
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values["coverage"] == 3 / 4
    assert values["contradiction"] == 0.5
    assert values["unasked"] == 0
    assert values["verified"] == 0.5
    assert values["guided"] == 0
    assert values["finding_f1"] == pytest.approx(2 / 3)  # one stated, two asked, one of both
    assert values["perplexity"] == pytest.approx(np.exp(0.1))
    assert values["perplexity_word"] == pytest.approx(np.exp(3 / 15))
    assert values["perplexity_word_without_keywords"] == pytest.approx(np.exp(6 / 15))
    nll = sum(baseline.ngram.nll([*ids, codec.end]) for ids in codec.encode(reports))
    assert values["perplexity_word_ngram"] == pytest.approx(np.exp(nll / 15), rel=1e-5)
    assert values["copied"] == values["copied_real"] == 0.5  # the second has seven words
    assert values["copied_excess"] == 0
    assert values["words"] == values["real_words"] == 7.5
    metrics.reset()
    assert float(metrics.coverage.denominator) == 0
