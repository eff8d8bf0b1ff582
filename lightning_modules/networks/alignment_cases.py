"""What validation and test of the aligner collect batch by batch, and the figures over all ranks' batches."""

from torch import Tensor

from datamodules.manifest import Batch
from lightning_modules.networks.alignment import AlignmentNetwork, compact, content_mask
from lightning_modules.networks.pointing import SLUGS, PointingCase, case_scores, pointing_cases
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.retrieval import Pair, retrieval_scores, text_number
from lightning_modules.networks.tokenizer import Tokens
from lightning_modules.networks.zero_shot import (
    ShownFindings,
    Tokenize,
    Twins,
    twin_scores,
    twins,
    zero_shot,
    zero_shot_auroc,
)


class AlignmentCases:
    """Pairs for retrieval, cases of the pointing game, zero-shot scores and flipped twins.

    Args:
        limit: pairs among which retrieval is tested, which bounds memory.
        least: cases a finding needs to count in the pointing game's means.
    """

    def __init__(self, *, limit: int, least: int) -> None:
        self.limit, self.least = limit, least
        self.pairs: list[Pair] = []
        self.cases: list[PointingCase] = []
        self.twins: list[Twins] = []
        self.shown: list[ShownFindings] = []

    def add(
        self,
        batch: Batch,
        *,
        network: AlignmentNetwork,
        tokens: Tokens,
        tokenize: Tokenize,
        prompt_words: dict[str, list[str]],
    ) -> None:
        """Take a batch; `tokens` are those of its reports, `prompt_words` as of `zero_shot.prompt_words`."""
        (patches, places), (words, _) = network.located_patches(batch["image"]), network.words(tokens)
        boxes = places if network.config.adaptive else None
        self._add_pairs(batch, tokens, words=words, patches=patches, boxes=boxes)
        scores = zero_shot(network, tokenize, patches, prompt_words)
        for image_id, row, labels in zip(batch["image_id"], scores, batch["labels"].tolist(), strict=True):
            self.shown.append(ShownFindings(image_id, tuple(row), tuple(labels)))
        self.twins += twins(network, tokenize, patches, batch["image_id"], batch["report"])
        if "masks" in batch:
            self.cases += pointing_cases(batch, tokens, words=words, patches=patches, boxes=boxes)

    def _add_pairs(self, batch: Batch, tokens: Tokens, *, words: Tensor, patches: Tensor, boxes: Tensor | None) -> None:
        kept, mask = compact(words, content_mask(tokens).to(words.device))
        for b, (image_id, report) in enumerate(zip(batch["image_id"], batch["report"], strict=True)):
            self.pairs.append(
                # A view would keep the whole batch.
                Pair(
                    text_number(image_id),
                    image_id,
                    patches[b].cpu().clone(),
                    None if boxes is None else boxes[b].cpu().clone(),
                    kept[b][mask[b]].cpu(),
                    text_number(report),
                )
            )
        self.pairs = sorted(self.pairs, key=lambda pair: pair.order)[: self.limit]

    def scores(self, *, resolution: int) -> dict[str, float]:
        """The figures over all ranks' cases; empty if there were none. Each rank must ask."""
        pairs = sorted(gather_items(self.pairs), key=lambda pair: pair.order)[: self.limit]
        cases = sorted(gather_items(self.cases), key=lambda case: (case.image_id, case.start))
        shown, told = gather_items(self.shown), gather_items(self.twins)
        if not pairs:
            return {}
        pointed = case_scores(cases, pairs, size=(resolution, resolution), least=self.least)
        return (
            retrieval_scores(pairs)
            | pointed
            | zero_shot_auroc(shown, names=SLUGS, least=self.least)
            | twin_scores(told)
        )
