"""Pretrained encoders for the aligner: opened by id, folder or checkpoint when fitting starts.

What a model is built from travels as plain data in the aligner's checkpoint and its weights in the state dict, so that
no later stage needs the model again.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BaseImageProcessor,
    BertConfig,
    BertTokenizer,
    PreTrainedConfig,
)

from lightning_modules import stages
from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork
from lightning_modules.networks.pretrained_image import (
    IMAGENET,
    HubFeatures,
    ImageModel,
    ImageTrunk,
    build_features,
    plain_config,
)
from lightning_modules.networks.pretrained_text import PretrainedTextEncoder, TextModel, without_pooler

# A BERT under a name that transformers does not know: the repository's own code only adds a head.
BERT_BY_ANOTHER_NAME = "cxr-bert"
OPENING = (OSError, ValueError, ImportError, KeyError)  # what transformers raises at a model it cannot open


@dataclass(frozen=True)
class PretrainedOptions:
    """Which encoders the aligner takes from elsewhere; without any it trains its own small ones.

    Attributes:
        image_model: id or folder of a Hugging Face or timm vision model, read at fit.
        codebook_ckpt: checkpoint of an ImageCodebook whose encoder is taken, read at fit; not beside image_model.
        text_model: id or folder of a BERT with a WordPiece tokenizer, read at fit.
        train_image: train the image model further; frozen, it needs neither gradients nor optimiser states.
        train_text: train the text model further.
        rate: their learning rate as a share of the optimiser's.
    """

    image_model: str | None = None
    codebook_ckpt: str | None = None
    text_model: str | None = None
    train_image: bool = False
    train_text: bool = False
    rate: float = 0.05

    def check(self, *, classifier_ckpt: str | None) -> None:
        """Refuse two image encoders, and a rate that is no share.

        Raises:
            ValueError: naming them.
        """
        named = {
            "classifier_ckpt": classifier_ckpt,
            "pretrained.image_model": self.image_model,
            "pretrained.codebook_ckpt": self.codebook_ckpt,
        }
        given = [f"{name} {value}" for name, value in named.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"the aligner has one image encoder, found {' and '.join(given)}; set all but one to null")
        if not 0 < self.rate <= 1:
            raise ValueError(f"pretrained.rate is {self.rate}; expected a share of the learning rate, in (0, 1]")


@dataclass(frozen=True)
class Encoders:
    """What the aligner's encoders are built from; None is its own small one.

    Attributes:
        image: of the image trunk.
        text: of the text encoder.
        tokenizer: JSON of the text model's tokenizer, None without.
        weights: state dicts by their prefix in `AlignmentNetwork`; empty in what a checkpoint brings.
    """

    image: ImageModel | None = None
    text: TextModel | None = None
    tokenizer: str | None = None
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "Encoders":
        """From a checkpoint's stamp; one without pretrained encoders may lack both."""
        image, text = data.get("image_model"), data.get("text_model")
        return cls(stages.as_config(ImageModel, image), stages.as_config(TextModel, text))

    def plain(self) -> dict[str, dict[str, Any] | None]:
        """For a checkpoint's stamp."""
        return {
            "image_model": None if self.image is None else asdict(self.image),
            "text_model": None if self.text is None else asdict(self.text),
        }

    def build(self, config: AlignerConfig, *, vocabulary: int, options: PretrainedOptions) -> AlignmentNetwork:
        """The network, with pretrained weights where they are here and random ones elsewhere."""
        trunk = text = None
        if self.image is not None:
            trunk = ImageTrunk(
                self.image,
                features=build_features(self.image),
                resolution=config.resolution,
                train=options.train_image,
            )
        if self.text is not None:
            text = PretrainedTextEncoder(self.text, max_length=config.max_length, train=options.train_text)
        network = AlignmentNetwork(config, vocabulary=vocabulary, trunk=trunk, text=text)
        for prefix, weights in self.weights.items():
            network.get_submodule(prefix).load_state_dict(weights)
        return network


def open_encoders(options: PretrainedOptions, *, resolution: int) -> Encoders:
    """Read what `options` names; `resolution` is the side of the images in pixels.

    Raises:
        FileNotFoundError: if a model is neither on this machine nor to be fetched, saying what to fetch.
        ValueError: if it is of the wrong kind, lacks weights, or does not fit the images.
    """
    weights: dict[str, Mapping[str, Tensor]] = {}
    image = text = tokenizer = None
    if options.image_model is not None:
        image, weights["image.trunk.features"] = _open_image(options.image_model, resolution=resolution)
    if options.codebook_ckpt is not None:
        image, weights["image.trunk.features"] = _open_codebook(options.codebook_ckpt, resolution=resolution)
    if options.text_model is not None:
        text, tokenizer, weights["text.network"] = _open_text(options.text_model)
    return Encoders(image, text, tokenizer, weights)


def _open_image(name: str, *, resolution: int) -> tuple[ImageModel, dict[str, Tensor]]:
    try:
        network, missing = vision_network(name)
    except OPENING as error:
        raise _unopened("image_model", name, what="a vision model", files="", error=error) from error
    # The image half of a model that also reads texts, as CLIP.
    half = getattr(network, "vision_model", network)
    if half.main_input_name != "pixel_values":
        raise ValueError(
            f"image_model {name!r} is a {type(half).__name__}, which reads {half.main_input_name}; expected a vision "
            "model, which reads pixel_values"
        )
    mean, std = normalisation(name, half.config)
    model = ImageModel("hub", plain_config(half), name, mean, std)
    features = HubFeatures(half, mean=mean, std=std)
    trunk = ImageTrunk(model, features=features, resolution=resolution, train=True)
    lost = {key.removeprefix("vision_model.") for key in missing}
    lost &= {n.removeprefix("features.network.") for n, p in trunk.named_parameters() if p.requires_grad}
    _refuse_random("image_model", name, lost)
    return model, features.state_dict()


def vision_network(name: str) -> tuple[Any, set[str]]:
    """A vision model by id or folder, and the names of the weights that its files lack; raises one of `OPENING`."""
    config = AutoConfig.from_pretrained(name)
    if config.model_type != "timm_wrapper":
        return _network(name)
    # transformers asks timm for a model without classes itself, and cannot ask twice.
    settings = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}
    network, missing = _network(name, model_args=settings)
    if "dynamic_img_size" not in inspect.signature(type(network.timm_model).__init__).parameters:
        return network, missing
    # timm's transformers take images of another size than they were trained on if they are told so beforehand.
    return _network(name, model_args={**settings, "dynamic_img_size": True})


def _network(name: str, **options: Any) -> tuple[Any, set[str]]:
    """A Hugging Face model in float32, and the names of the weights that its files lack."""
    network, told = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    return network, set(told["missing_keys"])


def normalisation(name: str, config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each colour of the model's image, as its files give them, else those of ImageNet."""
    colours, source = int(getattr(config, "num_channels", 3)), "its image processor's"
    mean, std = (list(part) for part in IMAGENET)
    timm = getattr(config, "pretrained_cfg", None)
    if timm is not None:
        mean, std = list(timm.get("mean", mean)), list(timm.get("std", std))
        colours = timm.get("input_size", [colours])[0]
    else:
        try:
            told, _ = BaseImageProcessor.get_image_processor_dict(name)
        except OSError:  # no such file
            told, source = {}, "ImageNet's, since it has no preprocessor_config.json"
        if told.get("do_normalize") is False:
            mean, std = [0.0] * 3, [1.0] * 3
        elif "image_mean" in told and "image_std" in told:
            mean, std = list(told["image_mean"]), list(told["image_std"])
    if len(mean) != colours:
        mean, std = [sum(mean) / len(mean)] * colours, [sum(std) / len(std)] * colours
    rank_zero_info(f"image model {name} sees pixels with mean {mean} and std {std}, {source}")
    return tuple(mean), tuple(std)


def _open_codebook(path: str, *, resolution: int) -> tuple[ImageModel, dict[str, Tensor]]:
    codebook = stages.open_stage(path, stage="codebook")
    config = codebook.config["network"]
    if config["resolution"] != resolution:
        raise ValueError(
            f"the codebook of pretrained.codebook_ckpt {path} was trained on images of {config['resolution']} pixels, "
            f"the aligner's have {resolution}; train one at the data's size"
        )
    model = ImageModel("codebook", json.dumps(config), path, digest=codebook.digest)
    weights = codebook.weights("network.encoder.")
    return model, {name: weights[name] for name in build_features(model).state_dict()}


def _open_text(name: str) -> tuple[TextModel, str, dict[str, Tensor]]:
    files = ", tokenizer.json or vocab.txt"
    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
        renamed = config.get("model_type") == BERT_BY_ANOTHER_NAME
        given = {"config": BertConfig.from_dict({**config, "model_type": "bert"})} if renamed else {}
        network, missing = _network(name, **given)
    except OPENING as error:
        raise _unopened("text_model", name, what="a BERT", files=files, error=error) from error
    if network.main_input_name != "input_ids" or network.config.is_encoder_decoder:
        raise ValueError(
            f"text_model {name!r} is a {type(network).__name__}, which reads {network.main_input_name}; expected a "
            "BERT, an encoder alone that reads input_ids"
        )
    try:
        tokenizer = (BertTokenizer if renamed else AutoTokenizer).from_pretrained(name)
    except OPENING as error:
        raise _unopened("text_model", name, what="a BERT", files=files, error=error) from error
    state = tokenizer.backend_tokenizer.to_str()
    kind = json.loads(state)["model"]["type"]
    ids = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    if kind != "WordPiece" or None in ids:
        raise ValueError(
            f"text_model {name!r} has a tokenizer of type {kind} with [CLS], [SEP], [PAD], [UNK] = {ids}; expected a "
            "BERT, whose tokenizer is of type WordPiece and has all four"
        )
    _refuse_random("text_model", name, {key for key in missing if not key.startswith("pooler.")})
    network = without_pooler(network)
    return TextModel(plain_config(network), name, *ids), state, network.state_dict()


def _unopened(option: str, name: str, *, what: str, files: str, error: Exception) -> FileNotFoundError:
    if isinstance(error, ImportError) and "timm" in str(error):
        files = f"{files} (timm's models need the package timm: `pip install -e '.[timm]'`)"
    return FileNotFoundError(
        f"{option} {name!r} could not be opened: give a folder with config.json and model.safetensors{files}, or the "
        f"id of {what} on huggingface.co that was fetched before with `hf download {name}`; or set pretrained.{option} "
        f"to null to train the small one ({error})"
    )


def _refuse_random(option: str, name: str, lost: set[str]) -> None:
    if lost:
        raise ValueError(
            f"{option} {name!r} lacks {len(lost)} weights that its config.json asks for, {sorted(lost)[:3]} ...; they "
            "would be random: fetch it again, or give the folder that its weights belong to"
        )
