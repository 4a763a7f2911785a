"""Any Hugging Face vision or text model as an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.fine_tuning import freeze_unused
from amodal.encoders.hub import load_pretrained
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import (
    SPECIAL,
    PretrainedTokenizerConfig,
    TokenizerConfig,
    TrainedTokenizerConfig,
    build_tokenizer,
)

HALF = (0.5, 0.5, 0.5)


class HuggingFaceConfig(EncoderConfig):
    """Which model: a hub name or local folder, or an architecture with random weights."""

    kind: Literal["huggingface"] = "huggingface"
    name: str | None = None
    # The model's config.json as a mapping with `model_type`, or a folder or hub name that has
    # one; where given, weights are random.
    architecture: dict[str, Any] | str | None = None

    @model_validator(mode="after")
    def _which(self) -> HuggingFaceConfig:
        if self.name is None and self.architecture is None:
            raise ValueError("give `name` (hub or folder) or `architecture` (random weights)")
        if isinstance(self.architecture, dict) and "model_type" not in self.architecture:
            raise ValueError("architecture needs `model_type`, such as bert")
        return self

    @property
    def is_pretrained(self) -> bool:
        return self.architecture is None

    def model_config_of(self) -> PretrainedConfig:
        """The architecture as transformers knows it; reads the hub or folder where needed."""
        return architecture_of(self.name, self.architecture)


def architecture_of(name: str | None, architecture: dict[str, Any] | str | None) -> Any:
    """The configuration of a model: from the mapping, else from the folder or hub name."""
    if isinstance(architecture, dict):
        values = dict(architecture)
        return AutoConfig.for_model(values.pop("model_type"), **values)
    source = architecture if architecture is not None else name
    assert source is not None
    return load_pretrained(AutoConfig, source)


def build_model(name: str | None, random: bool, config: Any, pretrained: bool) -> Any:
    """The model in float32, whatever precision its checkpoint was stored in.

    Raises:
        ValueError: it cannot be loaded, or its weights are asked for and not wanted.
    """
    if random:
        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    if not pretrained:
        raise ValueError(
            f"{name}: without pretrained weights its `architecture` is needed; "
            "the config of an encoder that was built has it"
        )
    assert name is not None
    return load_pretrained(AutoModel, name, dtype=torch.float32, weights_only=True)


def enable_checkpointing(model: Any) -> None:
    """Compute the model's activations twice instead of keeping them.

    Raises:
        ValueError: the model cannot.
    """
    # The name changed within transformers 5.
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)()


class HuggingFaceImageConfig(HuggingFaceConfig):
    """A vision model: ViT, DINOv2, ConvNeXt, ResNet, Swin, …"""

    type: Literal["image"] = "image"
    size: int | None = Field(None, ge=16)  # pixels; None means what the model was made for

    def build(self, pretrained: bool = True) -> HuggingFaceEncoder:
        """The encoder; `pretrained=False` needs `architecture` and no network."""
        return HuggingFaceEncoder(self, self.model_config_of(), pretrained=pretrained)

    def preprocessor(self) -> ImagePreprocessor:
        if self.architecture is None and self.name is not None:
            found = load_pretrained(AutoImageProcessor, self.name)
            mean = tuple(getattr(found, "image_mean", None) or HALF)
            std = tuple(getattr(found, "image_std", None) or HALF)
        else:
            mean, std = HALF, HALF
        return ImagePreprocessor(self.side(), mean, std)

    def side(self) -> int:
        """Pixels of the square that the model sees."""
        size = self.size or getattr(self.model_config_of(), "image_size", None) or 224
        return int(size if isinstance(size, int) else size[0])


class HuggingFaceTextConfig(HuggingFaceConfig):
    """A text model: BERT, RoBERTa, DistilBERT, XLM-R, T5, GPT-like, …

    Args:
        last_layers: the hidden states of the last so many layers are joined, as Devlin et al. 2018,
            arXiv:1810.04805, section 5.3, do for a frozen BERT.
    """

    type: Literal["text"] = "text"
    max_length: int = Field(64, ge=4)  # tokens, special ones included
    last_layers: int = Field(1, ge=1)
    tokenizer: TokenizerConfig | None = None  # None: the model's own, or one trained on the texts
    vocab_size: int | None = None  # filled in from a trained tokenizer

    @model_validator(mode="after")
    def _ids_fit(self) -> HuggingFaceTextConfig:
        if self.architecture is None and isinstance(self.tokenizer, TrainedTokenizerConfig):
            raise ValueError(
                f"{self.name}: pretrained weights work only with their own tokenizer; "
                f"leave `tokenizer` out, or give `architecture: {self.name}` for random weights"
            )
        return self

    def build(self, pretrained: bool = True) -> HuggingFaceEncoder:
        """The encoder; `pretrained=False` needs `architecture` and no network.

        Raises:
            ValueError: it cannot be loaded, or its positions or vocabulary are too few.
        """
        config = self.model_config_of()
        if isinstance(self.chosen_tokenizer(), TrainedTokenizerConfig):
            if self.vocab_size is not None:
                config.vocab_size = self.vocab_size
            for name in ("pad", "bos", "cls", "eos", "sep"):
                if getattr(config, f"{name}_token_id", None) is not None or name == "pad":
                    setattr(config, f"{name}_token_id", SPECIAL.index(ROLES[name]))
        elif (self.vocab_size or 0) > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.vocab_size} tokens, the model {config.vocab_size}; "
                "choose the tokenizer that belongs to it, or a larger vocab_size in `architecture`"
            )
        check_length(config, self.max_length)
        return HuggingFaceEncoder(self, config, pretrained=pretrained)

    def chosen_tokenizer(self) -> TrainedTokenizerConfig | PretrainedTokenizerConfig:
        if self.tokenizer is not None:
            return self.tokenizer
        if self.architecture is None and self.name is not None:
            return PretrainedTokenizerConfig(name=self.name)
        return TrainedTokenizerConfig()

    def for_preprocessor(self, prepare: TextPreprocessor) -> HuggingFaceTextConfig:
        return self.model_copy(update={"vocab_size": len(prepare.tokenizer)})

    def preprocessor(self, texts: Iterable[str] | None) -> TextPreprocessor:
        return TextPreprocessor(build_tokenizer(self.chosen_tokenizer(), texts), self.max_length)


def check_length(config: Any, length: int) -> None:
    """Refuse texts that are longer than the model has positions.

    Raises:
        ValueError: says how long they may be.
    """
    positions = getattr(config, "max_position_embeddings", None)
    # RoBERTa and its like number the first position after the id of the padding.
    skipped = (config.pad_token_id or 0) + 1 if config.model_type in AFTER_PADDING else 0
    if isinstance(positions, int) and 0 < positions < length + skipped:
        raise ValueError(
            f"max_length: {length}; {config.model_type} has positions for {positions - skipped}"
        )


class HuggingFaceEncoder(nn.Module):
    """The last hidden state of a model, as tokens.

    Args:
        config: of this encoder.
        model_config: of the model.
        pretrained: False refuses to load weights.

    Examples:
        >>> import torch
        >>> from amodal.encoders import HuggingFaceImageConfig
        >>> layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> vit = {"model_type": "vit", "image_size": 32, "patch_size": 16, **layers}
        >>> encoder = HuggingFaceImageConfig(architecture=vit).build()  # random weights
        >>> tokens, _ = encoder(pixel_values=torch.zeros(2, 3, 32, 32))
        >>> tokens.shape  # the class token and four patches
        torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        config: HuggingFaceImageConfig | HuggingFaceTextConfig,
        model_config: PretrainedConfig,
        *,
        pretrained: bool,
    ) -> None:
        super().__init__()
        self.text = isinstance(config, HuggingFaceTextConfig)
        model = build_model(config.name, config.architecture is not None, model_config, pretrained)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self.last_layers = config.last_layers if isinstance(config, HuggingFaceTextConfig) else 1
        layers = getattr(model.config, "num_hidden_layers", self.last_layers)
        if self.last_layers > layers:
            raise ValueError(f"last_layers: {self.last_layers}; the model has {layers}")
        pooler = getattr(model, "pooler", None)
        if pooler is not None and any(True for _ in pooler.parameters()):
            model.pooler = None  # it would never get a gradient
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        if getattr(model.config, "use_cache", False):
            model.config.use_cache = False  # nothing is generated, so nothing is to be remembered
        self.model = model
        update: dict[str, Any] = {"architecture": model.config.to_dict()}
        if isinstance(config, HuggingFaceTextConfig):
            update["tokenizer"] = config.chosen_tokenizer()
        self.config: EncoderConfig = config.model_copy(update=update)
        self.width = hidden_width(model.config) * self.last_layers
        self.pooling: PoolingName = self._default_pooling()
        freeze_unused(self, lambda: self(**self._smallest(config))[0])

    def _smallest(
        self, config: HuggingFaceImageConfig | HuggingFaceTextConfig
    ) -> dict[str, Tensor]:
        if isinstance(config, HuggingFaceTextConfig):
            ids = torch.full((1, 2), min(5, self.model.config.vocab_size - 1))
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        side = config.side()
        channels = getattr(self.model.config, "num_channels", 3)
        return {"pixel_values": torch.zeros(1, channels, side, side)}

    def _default_pooling(self) -> PoolingName:
        if not self.text:
            return (
                "cls" if hasattr(getattr(self.model, "embeddings", None), "cls_token") else "mean"
            )
        kind = str(getattr(self.model.config, "model_type", ""))
        return "last" if kind in CAUSAL else "mean"

    def forward(self, **tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoder's tensors → tokens (B, N, D), keep (B, N) bool for texts."""
        if self.last_layers > 1:
            states = self.model(**tensors, output_hidden_states=True).hidden_states
            hidden = torch.cat(states[-self.last_layers :], dim=-1)
        else:
            hidden = self.model(**tensors).last_hidden_state
        if self.text:
            return hidden, tensors["attention_mask"].bool()
        return (hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden), None

    def layer_groups(self) -> LayerGroups:
        """Embeddings, then the layers: what `freeze: n` counts."""
        return layer_groups(self.model)


def layer_groups(model: nn.Module) -> LayerGroups:
    """Embeddings, then the layers of a model of transformers: what `freeze: n` counts."""
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.split(".")[-1] in ("layer", "layers", "h", "block", "blocks", "stages")
    ]
    layers = list(lists[0]) if lists else []
    inside = {id(m) for layer in layers for m in layer.modules()}
    stem = [
        module
        for name, module in model.named_modules()
        if id(module) not in inside and _is_stem(name.split(".")[-1])
    ]
    return [stem, *[[layer] for layer in layers]]


def _is_stem(name: str) -> bool:
    # The convolutions of audio models come before their positions.
    convolutions = ("feature_extractor", "feature_projection", "conv1", "conv2")
    return name in convolutions or any(part in name for part in ("embed", "wte", "wpe", "stem"))


# Models whose tokens see only what stands before them, so that the last one has seen all.
CAUSAL = (set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)) | {
    "clip_text_model"
}
AFTER_PADDING = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet"}
)
ROLES = {"pad": "[PAD]", "bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "sep": "[SEP]"}


def hidden_width(config: PretrainedConfig) -> int:
    """D, the width of the hidden states of a model.

    Raises:
        ValueError: its configuration does not say.
    """
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return int(sizes[-1])
    for name in ("hidden_size", "d_model", "dim", "n_embd"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise ValueError(f"{config.model_type}: the width of its hidden state is unknown")
