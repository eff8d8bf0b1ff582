"""CheXbert: the 14 labels of a report by a trained network (Smit et al., EMNLP 2020), where its weights are at hand.

A BERT whose first token goes into 14 linear heads: blank, present, absent and uncertain for 13 findings, blank and
present for "No Finding". The weights are not free to hand on: a user fetches them and names their folder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertModel

from datamodules.reports.labels import FINDINGS

# The heads in the order of the published weights; ours begins with "No Finding", theirs ends with it.
HEADS: tuple[str, ...] = (*FINDINGS[1:], FINDINGS[0])
CLASSES = (float("nan"), 1.0, 0.0, -1.0)  # blank, present, absent, uncertain
LONGEST = 512  # tokens that BERT has positions for
SAFE, PICKLED = "model.safetensors", "chexbert.pth"


class CheXbert(nn.Module):
    """The network of a folder with config.json, a tokenizer and model.safetensors (or the published chexbert.pth)."""

    def __init__(self, folder: str | Path) -> None:
        """Load configuration, tokenizer and weights.

        Raises:
            FileNotFoundError: naming what is missing and what to do.
            ValueError: if the weights are not those of this network, naming the first keys that differ.
        """
        super().__init__()
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder}/config.json is missing; expected a folder with config.json and tokenizer of "
                f"bert-base-uncased and CheXbert's {SAFE} or {PICKLED}"
            )
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.bert = BertModel(BertConfig.from_pretrained(str(folder)))
        width = self.bert.config.hidden_size
        self.linear_heads = nn.ModuleList(
            nn.Linear(width, 2 if name == "No Finding" else len(CLASSES)) for name in HEADS
        )
        weights = _read(folder)
        wrong = self.load_state_dict(weights, strict=False)
        if wrong.missing_keys or wrong.unexpected_keys:
            raise ValueError(
                f"{folder}: the weights are not CheXbert's: missing {wrong.missing_keys[:3]}, "
                f"unexpected {wrong.unexpected_keys[:3]}; expected bert.* and linear_heads.0 to linear_heads.13"
            )
        self.requires_grad_(False)
        self.eval()

    def forward(self, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """int64 [B,T] tokens and their mask to the 14 heads' logits, [B,4] each and [B,2] for the last."""
        first = self.bert(tokens, attention_mask=mask).last_hidden_state[:, 0]  # [B,C]
        return [head(first) for head in self.linear_heads]

    @torch.inference_mode()
    def labels(self, reports: Sequence[str], *, batch_size: int = 16) -> np.ndarray:
        """The labels of texts, float32 [N,14] in the order of FINDINGS; an empty text gives NaN throughout."""
        out = np.full((len(reports), len(FINDINGS)), np.nan, dtype=np.float32)
        device = self.bert.embeddings.word_embeddings.weight.device
        written = [n for n, report in enumerate(reports) if report.strip()]
        columns = [FINDINGS.index(name) for name in HEADS]
        for start in range(0, len(written), batch_size):
            rows = written[start : start + batch_size]
            texts = [" ".join(reports[n].split()) for n in rows]
            batch = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            logits = self(batch["input_ids"].to(device), batch["attention_mask"].to(device))
            classes = torch.stack([one.argmax(dim=1) for one in logits], dim=1).cpu().numpy()  # [B,14]
            out[np.ix_(rows, columns)] = np.array(CLASSES, dtype=np.float32)[classes]
        return out


def _read(folder: Path) -> dict[str, Tensor]:
    """The weights by the names of this network."""
    if (folder / SAFE).is_file():
        weights = load_file(folder / SAFE)
    elif (folder / PICKLED).is_file():
        # The published file holds tensors alone, written by a network that was spread over cards ("module.").
        saved = torch.load(folder / PICKLED, map_location="cpu", weights_only=True)
        weights = saved["model_state_dict"]
    else:
        raise FileNotFoundError(f"{folder} has neither {SAFE} nor {PICKLED}; fetch CheXbert's weights into it")
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    weights.pop("bert.embeddings.position_ids", None)  # 0, 1, 2, ... in files of older versions
    return weights
