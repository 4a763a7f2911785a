"""Any Hugging Face vision or text model as an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PretrainedConfig

from amodal.encoders.config import EncoderConfig, PoolingName
from amodal.encoders.hub import load_named
from amodal.encoders.preprocessing import ImagePreprocessor, TextPreprocessor
from amodal.encoders.tokenizer import (
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
    # The model's config.json as a mapping with `model_type`; where given, weights are random.
    architecture: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _which(self) -> HuggingFaceConfig:
        if self.name is None and self.architecture is None:
            raise ValueError("give `name` (hub or folder) or `architecture` (random weights)")
        if self.architecture is not None and "model_type" not in self.architecture:
            raise ValueError("architecture needs `model_type`, such as bert")
        return self

    def model_config_of(self) -> PretrainedConfig:
        """The architecture as transformers knows it; reads the hub or folder where needed."""
        if self.architecture is not None:
            values = dict(self.architecture)
            return AutoConfig.for_model(values.pop("model_type"), **values)
        assert self.name is not None
        return load_named(AutoConfig.from_pretrained, self.name)


class HuggingFaceImageConfig(HuggingFaceConfig):
    """A vision model: ViT, DINOv2, ConvNeXt, ResNet, Swin, …"""

    size: int | None = Field(None, ge=16)  # pixels; None means what the model was made for

    def build(self, pretrained: bool = True) -> HuggingFaceEncoder:
        """The encoder; `pretrained=False` needs `architecture` and no network."""
        return HuggingFaceEncoder(self, self.model_config_of())

    def preprocessor(self) -> ImagePreprocessor:
        if self.architecture is None and self.name is not None:
            found = load_named(AutoImageProcessor.from_pretrained, self.name)
            mean = tuple(getattr(found, "image_mean", None) or HALF)
            std = tuple(getattr(found, "image_std", None) or HALF)
        else:
            mean, std = HALF, HALF
        size = self.size or getattr(self.model_config_of(), "image_size", None) or 224
        return ImagePreprocessor(size if isinstance(size, int) else size[0], mean, std)


class HuggingFaceTextConfig(HuggingFaceConfig):
    """A text model: BERT, RoBERTa, DistilBERT, XLM-R, T5, GPT-like, …"""

    max_length: int = Field(64, ge=4)  # tokens, special ones included
    tokenizer: TokenizerConfig | None = None  # None: the model's own, or one trained on the texts
    vocab_size: int | None = None  # filled in from a trained tokenizer

    def build(self, pretrained: bool = True) -> HuggingFaceEncoder:
        """The encoder; `pretrained=False` needs `architecture` and no network."""
        config = self.model_config_of()
        trained = isinstance(self.chosen_tokenizer(), TrainedTokenizerConfig)
        if trained and self.vocab_size is not None:
            config.vocab_size = self.vocab_size
            for special in ("pad_token_id", "bos_token_id", "eos_token_id"):
                if (getattr(config, special, None) or 0) >= self.vocab_size:
                    setattr(config, special, 0)
        return HuggingFaceEncoder(self, config)

    def chosen_tokenizer(self) -> TrainedTokenizerConfig | PretrainedTokenizerConfig:
        if self.tokenizer is not None:
            return self.tokenizer
        if self.architecture is None and self.name is not None:
            return PretrainedTokenizerConfig(name=self.name)
        return TrainedTokenizerConfig()

    def preprocessor(self, texts: Iterable[str] | None) -> TextPreprocessor:
        try:
            return TextPreprocessor(
                build_tokenizer(self.chosen_tokenizer(), texts), self.max_length
            )
        except OSError as error:
            raise ValueError(f"the tokenizer of {self.name} cannot be read: {error}") from None


class HuggingFaceEncoder(nn.Module):
    """The last hidden state of a model, as tokens.

    Args:
        config: of this encoder.
        model_config: of the model.
    """

    def __init__(
        self, config: HuggingFaceImageConfig | HuggingFaceTextConfig, model_config: PretrainedConfig
    ) -> None:
        super().__init__()
        self.text = isinstance(config, HuggingFaceTextConfig)
        if config.architecture is None and config.name is not None:
            model = load_named(AutoModel.from_pretrained, config.name)
        else:
            model = AutoModel.from_config(model_config)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        pooler = getattr(model, "pooler", None)
        if pooler is not None and any(True for _ in pooler.parameters()):
            model.pooler = None  # it would never get a gradient
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.model = model
        update: dict[str, Any] = {"architecture": model.config.to_dict()}
        if isinstance(config, HuggingFaceTextConfig):
            update["tokenizer"] = config.chosen_tokenizer()
        self.config = config.model_copy(update=update)
        self.width = int(_width(model.config))
        self.pooling: PoolingName = self._default_pooling()

    def _default_pooling(self) -> PoolingName:
        if not self.text:
            return (
                "cls" if hasattr(getattr(self.model, "embeddings", None), "cls_token") else "mean"
            )
        causal = getattr(self.model.config, "model_type", "") in CAUSAL
        return "last" if causal else "mean"

    def forward(self, **tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoder's tensors → tokens (B, N, D), keep (B, N) bool for texts."""
        hidden = self.model(**tensors).last_hidden_state
        if self.text:
            return hidden, tensors["attention_mask"].bool()
        return (hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden), None

    def layer_groups(self) -> list[list[nn.Module]]:
        """Embeddings, then the layers: what `freeze: n` counts."""
        lists = [
            module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList)
            and name.split(".")[-1] in ("layer", "layers", "h", "block", "stages")
        ]
        stem = [m for n, m in self.model.named_children() if "embed" in n or n in ("wte", "wpe")]
        return [stem, *[[layer] for layer in (lists[0] if lists else [])]]


CAUSAL = frozenset({"gpt2", "gpt_neo", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3"})


def _width(config: PretrainedConfig) -> int:
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return int(sizes[-1])
    for name in ("hidden_size", "d_model", "dim", "n_embd"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise ValueError(f"{config.model_type}: the width of its hidden state is unknown")
