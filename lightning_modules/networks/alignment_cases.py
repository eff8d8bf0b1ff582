"""What validation and test of the aligner collect batch by batch, and the figures over all ranks' batches."""

import torch
from torch import Tensor

from datamodules.manifest import Batch
from datamodules.reports.entailment import facts
from lightning_modules.networks.alignment import AlignmentNetwork, Queries, Words, compact, content_mask
from lightning_modules.networks.pointing import SLUGS, PointingCase, case_scores, pointing_cases
from lightning_modules.networks.prompted_pointing import prompted_cases
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.retrieval import Pair, retrieval_scores
from lightning_modules.networks.statements import queries, stated
from lightning_modules.networks.text_numbers import text_number
from lightning_modules.networks.tokenizer import Tokens
from lightning_modules.networks.zero_shot import (
    ShownFindings,
    Tokenize,
    Twins,
    finding_scores,
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
        tested: play the pointing game by prompts too, and give intervals.
    """

    def __init__(self, *, limit: int, least: int, tested: bool = False) -> None:
        self.limit, self.least, self.tested = limit, least, tested
        self.pairs: list[Pair] = []
        self.cases: list[PointingCase] = []
        self.prompted: list[PointingCase] = []
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
        patches, boxes = network.located_patches(batch["image"])
        words = network.words(tokens)
        self._add_pairs(batch, tokens, words=words, patches=patches, boxes=boxes)
        prompted = zero_shot(network, tokenize, patches, prompt_words)
        scores = finding_scores(prompted)
        rows = zip(batch["image_id"], batch["patient_id"], scores, batch["labels"].tolist(), strict=True)
        for image_id, patient_id, row, labels in rows:
            self.shown.append(ShownFindings(image_id, patient_id, tuple(row), tuple(labels)))
        self.twins += twins(network, tokenize, patches, batch["image_id"], batch["report"])
        if "masks" in batch:
            self.cases += pointing_cases(batch, tokens, words=words.vectors, patches=patches, boxes=boxes)
            if self.tested:
                self.prompted += prompted_cases(batch, prompted, patches=patches, boxes=boxes)

    def _add_pairs(self, batch: Batch, tokens: Tokens, *, words: Words, patches: Tensor, boxes: Tensor) -> None:
        kept, mask = compact(words.vectors, content_mask(tokens).to(patches.device))
        for b, (image_id, report) in enumerate(zip(batch["image_id"], batch["report"], strict=True)):
            told = queries([(b, inside) for _, inside in stated(report, tokens.spans[b])], words)
            shown = sorted(str(fact) for fact in facts(report) if fact.status == "present")
            self.pairs.append(
                Pair(
                    order=text_number(image_id),
                    image_id=image_id,
                    patches=patches[b].cpu().clone(),  # a view would keep the whole batch
                    boxes=boxes[b].cpu().clone(),
                    words=kept[b][mask[b]].cpu(),
                    statements=Queries(*(part.cpu() for part in told)),
                    text=text_number(report),
                    shown=text_number("; ".join(shown)),
                )
            )
        self.pairs = sorted(self.pairs, key=lambda pair: pair.order)[: self.limit]

    @torch.no_grad()
    def scores(self, *, network: AlignmentNetwork, resolution: int) -> dict[str, float]:
        """The figures over all ranks' cases; empty if there were none. Each rank must ask."""

        def fits(statements: Queries, patches: Tensor) -> Tensor:
            device = network.log_gain.device
            return network.fits(Queries(*(part.to(device) for part in statements)), patches.to(device)).cpu()

        pairs = sorted(gather_items(self.pairs), key=lambda pair: pair.order)[: self.limit]
        cases, prompted = (
            sorted(gather_items(some), key=lambda case: (case.image_id, case.start))
            for some in (self.cases, self.prompted)
        )
        shown = sorted(gather_items(self.shown), key=lambda one: one.image_id)
        told = gather_items(self.twins)
        if not pairs:
            return {}
        size = resolution, resolution
        pointed, by_prompt = (
            case_scores(some, pairs, size=size, least=self.least, intervals=self.tested) for some in (cases, prompted)
        )
        return (
            retrieval_scores(pairs, fits=fits)
            | pointed
            | {f"prompted_{name}": value for name, value in by_prompt.items()}
            | zero_shot_auroc(shown, names=SLUGS, least=self.least, intervals=self.tested)
            | twin_scores(told)
        )
