"""A CheXbert and a RadGraph of a few weights, in folders as the published ones."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from lightning_modules.networks.chexbert import HEADS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CHEXBERT_WORDS = [*SPECIAL, "no", "effusion", "edema", "nodule", "."]


def chexbert(folder: Path) -> Path:
    """A CheXbert of two layers and nine words."""
    torch.manual_seed(0)
    words = {word: n for n, word in enumerate(CHEXBERT_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    config.save_pretrained(folder)
    weights = {f"bert.{name}": tensor.clone() for name, tensor in BertModel(config).state_dict().items()}
    for n, name in enumerate(HEADS):
        classes = 2 if name == "No Finding" else 4
        weights[f"linear_heads.{n}.weight"] = torch.randn(classes, 8)
        weights[f"linear_heads.{n}.bias"] = torch.zeros(classes)
    save_file(weights, folder / "model.safetensors")
    return folder


# What the RadGraph below says of a word, wherever it stands.
PRESENT, ABSENT, UNCERTAIN = (
    "Observation::definitely present",
    "Observation::definitely absent",
    "Observation::uncertain",
)
PLACE = "Anatomy::definitely present"
LABEL_OF = {
    "small": PRESENT, "effusion": PRESENT, "normal": PRESENT, "edema": ABSENT, "nodule": UNCERTAIN,
    "pleural": PLACE, "left": PLACE, "heart": PLACE, "size": PLACE,
}  # fmt: skip
RELATIONS = [
    ("small", "modify", "effusion"), ("effusion", "located_at", "pleural"), ("left", "modify", "pleural"),
    ("normal", "located_at", "heart"), ("size", "modify", "heart"), ("nodule", "suggestive_of", "edema"),
]  # fmt: skip
# The package asks the tokenizer for "a" and "b".
RADGRAPH_WORDS = [*SPECIAL, "a", "b", ".", "no", "is", *LABEL_OF]
LABELS, KINDS = [PRESENT, ABSENT, UNCERTAIN, PLACE], ["modify", "located_at", "suggestive_of"]
WIDTH, LONGEST = 24, 16  # of the BERT; it reads a longer report in parts
BERT = "_embedder.token_embedder_bert._matched_embedder.transformer_model."


def radgraph(folder: Path, *, name: str = "radgraph-xl", bert: BertModel | None = None) -> Path:
    """A RadGraph that says LABEL_OF and RELATIONS of any text; with another `bert` it says anything."""
    config = tiny_bert_config()
    (folder / "vocabulary").mkdir(parents=True)
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*tags\n*labels\n")
    (folder / "vocabulary" / f"{name}__ner_labels.txt").write_text("\n".join(["", *LABELS]) + "\n")
    (folder / "vocabulary" / f"{name}__relation_labels.txt").write_text("\n".join(KINDS) + "\n")
    words = {"type": "pretrained_transformer_mismatched", "model_name": "nobody/tiny-bert", "max_length": LONGEST}
    described = {
        "dataset_reader": {"type": "dygie", "max_span_width": 1, "token_indexers": {"bert": words}},
        "model": {
            "type": "dygie",
            "embedder": {"token_embedders": {"bert": words}},
            "initializer": {"regexes": []},
            "module_initializer": {"regexes": []},
            "feature_size": 2,
            "max_span_width": 1,
            "target_task": "relation",
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
            "feedforward_params": {"num_layers": 1, "hidden_dims": WIDTH, "dropout": 0.4},
            "modules": {
                "ner": {},
                "relation": {"spans_per_word": 1.0},
                "coref": {"spans_per_word": 0.3, "max_antecedents": 2, "coref_prop": 0},
                "events": {"trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.8, "loss_weights": {}},
            },
        },
    }
    (folder / "config.json").write_text(json.dumps(described))
    config.save_pretrained(folder / "encoder")
    (folder / "encoder" / "vocab.txt").write_text("\n".join(RADGRAPH_WORDS) + "\n")
    encoder = {BERT + key: value for key, value in (bert or _one_hot_bert(config)).state_dict().items()}
    torch.save(encoder | _heads(name), folder / "weights.th")
    return folder


def tiny_bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(RADGRAPH_WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=LONGEST,
    )


def _one_hot_bert(config: BertConfig) -> BertModel:
    """Each word in a dimension of its own, whatever stands beside it."""
    bert = BertModel(config)
    with torch.no_grad():
        bert.embeddings.word_embeddings.weight.copy_(torch.eye(len(RADGRAPH_WORDS), WIDTH))
        bert.embeddings.position_embeddings.weight.zero_()
        bert.embeddings.token_type_embeddings.weight.zero_()
        for part in (bert.encoder.layer[0].attention.output.dense, bert.encoder.layer[0].output.dense):
            part.weight.zero_()
            part.bias.zero_()
    return bert


def _heads(name: str) -> dict[str, Tensor]:
    """DyGIE's heads. A span is two words, its first and last, which are one here, and two numbers of its width."""
    hot = math.sqrt(WIDTH - 1)  # what LayerNorm makes of the one; of a nought it makes less than 0
    span = 2 * WIDTH + 2
    weights = {
        "_endpoint_span_extractor._span_width_embedding.weight": torch.zeros(1, 2),
        "_coref._distance_embedding.weight": torch.zeros(10, 2),
        "_events._distance_embedding.weight": torch.zeros(10, 2),
    }

    def linear(key: str, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        weight, bias = torch.zeros(outputs, inputs), torch.zeros(outputs)
        weights[f"{key}.weight"], weights[f"{key}.bias"] = weight, bias
        return weight, bias

    scorer = f"_ner._ner_scorers.{name}__ner_labels"
    linear(f"{scorer}.0._module._linear_layers.0", WIDTH, span)[0].copy_(torch.eye(WIDTH, span))
    weight, bias = linear(f"{scorer}.1._module", len(LABELS), WIDTH)
    bias.fill_(-1)
    for word, label in LABEL_OF.items():
        weight[LABELS.index(label), RADGRAPH_WORDS.index(word)] = 1
    pruner = f"_relation._mention_pruners.{name}__relation_labels._scorer"
    linear(f"{pruner}.0._module._linear_layers.0", WIDTH, span)
    linear(f"{pruner}.1._module", 1, WIDTH)
    # A unit for each relation, above 0 where both of its words are there.
    pairs, threshold = linear(
        f"_relation._relation_feedforwards.{name}__relation_labels._linear_layers.0", WIDTH, 3 * span
    )
    weight, bias = linear(f"_relation._relation_scorers.{name}__relation_labels", len(KINDS), WIDTH)
    bias.fill_(-0.1)
    threshold.fill_(-1.5 * hot)
    for n, (one, kind, other) in enumerate(RELATIONS):
        pairs[n, RADGRAPH_WORDS.index(one)] = pairs[n, span + RADGRAPH_WORDS.index(other)] = 1
        weight[KINDS.index(kind), n] = 1
    linear("_coref._antecedent_feedforward._module._linear_layers.0", WIDTH, 3 * span + 2)
    linear("_coref._mention_pruner._scorer.0._module._linear_layers.0", WIDTH, span)
    linear("_coref._mention_pruner._scorer.1._module", 1, WIDTH)
    linear("_coref._antecedent_scorer._module", 1, WIDTH)
    linear("_coref._f_network._linear_layers.0", span, 2 * span)
    return weights
