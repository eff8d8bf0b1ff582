"""Everything that the prompter's test measures, in one module: likelihoods, what the texts say, how they say it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.reports.keywords import Keywords, parse
from datamodules.reports.labels import FINDINGS
from datamodules.reports.phrases import lexicon
from lightning_modules.networks.copying import CopiedNgrams
from lightning_modules.networks.labelers import Labeler, rules_or_network
from lightning_modules.networks.language_model import Codec
from lightning_modules.networks.ngram import NgramModel
from lightning_modules.networks.text_metrics import DistinctNgrams, Lengths, Ratio, SelfBleu
from lightning_modules.networks.written import Written

ORDER = 3  # of the n-gram baseline


def stated_findings(reports: Sequence[str], *, labeler: Labeler) -> list[set[str]]:
    """The findings that each report states or suspects, "No Finding" left out."""
    rows = np.abs(labeler(reports)) == 1  # [N,14]
    return [{f for f, stated in zip(FINDINGS, row, strict=True) if stated and f != "No Finding"} for row in rows]


def asked_findings(keywords: Keywords) -> set[str]:
    """The findings that the asked pathologies belong to."""
    entities = lexicon().entities
    labels = (entities[parse(text).word].label for text in keywords.pathology)
    return {label for label in labels if label is not None}


class Baseline:
    """What the written texts are compared with: an n-gram model, the 8-grams and the 3-grams of the training reports.

    The n-gram model reads the sub-words of the prompter's own tokenizer with its end token, so that both give a
    probability to the same sequence, and perplexities a white-space word can be compared.
    """

    def __init__(self, reports: Sequence[str], *, codec: Codec) -> None:
        self.codec = codec
        self.copied = CopiedNgrams(reports)
        self.trigrams = CopiedNgrams(reports, n=3)
        self.ngram = NgramModel(
            [[*ids, codec.end] for ids in codec.encode(reports)], order=ORDER, vocabulary=len(codec)
        )

    def nll(self, reports: Sequence[str]) -> float:
        """Summed negative log-likelihood of these reports under the n-gram model."""
        return sum(self.ngram.nll([*ids, self.codec.end]) for ids in self.codec.encode(reports))


class ReportMetrics(nn.Module):
    """The metrics by the name they are logged under.

    - `coverage`: share of asked keywords stated with the right status, side and severity.
    - `contradiction`, `unasked`, `verified`, `guided` (written sentence by sentence): shares of texts.
    - `finding_f1`: micro F1 of the findings that the texts state against those asked.
    - `finding_f1_reader`: the same as a CheXbert or RadGraph reads the texts, where one is given: they are written
      until the rules find no fault in them, so that only another reader tells whether the rules are right.
    - `perplexity`: of the test reports given their keywords, a sub-word; `perplexity_word` a white-space word, beside
      `perplexity_word_without_keywords` of the same weights and `perplexity_word_ngram` of the baseline.
    - `distinct1`, `distinct2`, `distinct3`, `self_bleu`: diversity over all texts.
    - `copied`, `copied_real`, `copied_excess`: share of written and of real test reports with 8 words in a row that
      stand in a training report, and the difference.
    - `new_trigrams`, `new_trigrams_real`: share of three words in a row that no training report has, in written and in
      real test reports: far more of them are odd phrases, far fewer are stock phrases.
    - `words...`, `real_words...`, `words_wasserstein`: lengths.
    """

    def __init__(self, *, seed: int, reader: str | None = None) -> None:
        super().__init__()
        self.reader = reader
        # Metric → who reads the texts. Functions, no modules: checkpoints should not hold a reader's weights.
        self.labelers: dict[str, Labeler] = {"finding_f1": rules_or_network("rules")}
        self.coverage, self.contradiction, self.unasked = Ratio(), Ratio(), Ratio()
        self.verified, self.guided, self.finding_f1 = Ratio(), Ratio(), Ratio()
        if reader is not None:
            self.finding_f1_reader = Ratio()
        self.perplexity, self.perplexity_word = Ratio(torch.exp), Ratio(torch.exp)
        self.perplexity_word_without_keywords, self.perplexity_word_ngram = Ratio(torch.exp), Ratio(torch.exp)
        self.distinct1, self.distinct2, self.distinct3 = DistinctNgrams(1), DistinctNgrams(2), DistinctNgrams(3)
        self.self_bleu = SelfBleu(seed=seed)
        self.copied, self.copied_real, self.copied_excess = Ratio(), Ratio(), Ratio()
        self.new_trigrams, self.new_trigrams_real = Ratio(), Ratio()
        self.lengths = Lengths()

    def reset(self) -> None:
        """Forget all texts, and open the reader where there is one.

        Raises:
            FileNotFoundError: if its folder lacks a file.
            ValueError: if its weights are others.
            ImportError: if its package is not installed.
        """
        if self.reader is not None:
            self.labelers["finding_f1_reader"] = rules_or_network(self.reader, device=self.coverage.device)
        for metric in self.children():
            assert isinstance(metric, Metric)
            metric.reset()

    def update_likelihoods(
        self, reports: Sequence[str], *, given: float, without: float, tokens: int, baseline: Baseline
    ) -> None:
        """Add the summed negative log-likelihoods of some test reports.

        Args:
            reports: the reports.
            given: with their keywords.
            without: without.
            tokens: number of their sub-words.
            baseline: the n-gram model.
        """
        words = sum(len(report.split()) for report in reports)
        self.perplexity.update(given, tokens)
        self.perplexity_word.update(given, words)
        self.perplexity_word_without_keywords.update(without, words)
        self.perplexity_word_ngram.update(baseline.nll(reports), words)

    def update_texts(
        self, written: Sequence[Written], reports: Sequence[str], *, keys: Sequence[str], baseline: Baseline
    ) -> None:
        """Add written texts and the real ones whose keywords they were written from.

        Args:
            written: the texts.
            reports: the real ones.
            keys: study ids.
            baseline: the 8-grams.
        """
        texts, count = [w.report for w in written], len(written)
        asked = [w.request.keywords for w in written]
        total = sum(len(k.anatomy) + len(k.pathology) for k in asked)
        self.coverage.update(total - sum(len(w.check.missing) for w in written), total)
        self.contradiction.update(sum(bool(w.check.contradicting) for w in written), count)
        self.unasked.update(sum(bool(w.check.unasked) for w in written), count)
        self.verified.update(sum(w.verified for w in written), count)
        self.guided.update(sum(w.guided for w in written), count)
        for name, labeler in self.labelers.items():
            stated = stated_findings(texts, labeler=labeler)
            pairs = [(said, asked_findings(k)) for said, k in zip(stated, asked, strict=True)]
            getattr(self, name).update(
                2 * sum(len(said & wanted) for said, wanted in pairs),
                sum(len(said) + len(wanted) for said, wanted in pairs),
            )
        for distinct in (self.distinct1, self.distinct2, self.distinct3):
            distinct.update(texts)
        self.self_bleu.update(texts, keys)
        copied, real = (np.array([baseline.copied(text) for text in side]) for side in (texts, reports))
        self.copied.update(copied.sum(), count)
        self.copied_real.update(real.sum(), count)
        self.copied_excess.update(float(copied.sum()) - float(real.sum()), count)
        for ratio, side in ((self.new_trigrams, texts), (self.new_trigrams_real, reports)):
            for text in side:
                ratio.update(*baseline.trigrams.new(text))
        self.lengths.update(texts, reports)

    def compute(self) -> dict[str, Tensor]:
        """All values over all ranks, by name."""
        out: dict[str, Tensor] = {}
        for name, metric in self.named_children():
            assert isinstance(metric, Metric)
            value = metric.compute()
            out |= value if isinstance(value, dict) else {name: value}
        return out
