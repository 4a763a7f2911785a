"""Sizes of the multimodal Transformer, as its `config.json` keeps them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PretrainedConfig

from amodal.encoders.text.tokenizer import TokenizerConfig, TrainedTokenizerConfig
from amodal.modalities.specification import SavedEncoders
from amodal.models.image_tokenizer import TokenizerArchitecture
from amodal.projection import LinearConfig, ProjectionConfig


class TransformerArchitecture(BaseModel):
    """Sizes and parts of a multimodal Transformer, weights excluded.

    Args:
        encoders: input -> encoder of its tokens; empty for a model of text alone.
        width: D of the tokens.
        heads: of attention.
        fusion: of prompt and image. projection: the encoder reads the image alone, the decoder
            cross-attends to its tokens, and the conversations about an image share them.
            concat: image tokens and prompt are one sequence of the encoder. co_attention: image
            and prompt have streams of their own, which cross-attend to each other.
        encoder_layers: of self-attention over the image tokens (co-attention layers where the
            fusion is co_attention).
        decoder_layers: causal layers; each cross-attends to the encoder tokens.
        unimodal_layers: number of first decoder layers without cross-attention, whose output
            embeds captions for a contrastive loss; 0: every layer cross-attends.
        projection: of images and captions into the shared space, where there are unimodal layers.
        dropout: of every sub-layer.
        max_length: text tokens of a sequence.
        tokenizer: of all text.
        vocabulary: number of text tokens; set when the tokenizer is built.
        image_tokenizer: whose codes the model generates; None: no image generation.
        caption_dropout: share of training images whose caption is masked, for classifier-free
            guidance.
        answers: answer vocabulary of the classification head; empty: answers are generated.

    Examples:
        >>> TransformerArchitecture(width=32, heads=4).decoder_layers
        3
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoders: SavedEncoders = {}
    fusion: Literal["projection", "concat", "co_attention"] = "projection"
    width: int = Field(192, ge=8)
    heads: int = Field(6, ge=1)
    encoder_layers: int = Field(2, ge=0)
    decoder_layers: int = Field(3, ge=1)
    unimodal_layers: int = Field(0, ge=0)
    projection: ProjectionConfig = LinearConfig(dim=128)
    dropout: float = Field(0.0, ge=0, lt=1)
    max_length: int = Field(64, ge=4)
    tokenizer: TokenizerConfig = TrainedTokenizerConfig()
    vocabulary: int | None = None
    answers: tuple[str, ...] = ()
    image_tokenizer: TokenizerArchitecture | None = None
    caption_dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _reads_or_generates_images(self) -> TransformerArchitecture:
        if self.encoders and self.image_tokenizer is not None:
            raise ValueError(
                "a model that generates images cannot read them: leave out the image encoder or "
                "image_tokenizer"
            )
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> TransformerArchitecture:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")
        return self

    @model_validator(mode="after")
    def _some_layers_cross_attend(self) -> TransformerArchitecture:
        if not self.unimodal_layers:
            return self
        if not self.encoders:
            raise ValueError("unimodal_layers needs an image encoder, the model has none")
        if self.fusion != "projection":
            raise ValueError(f"unimodal_layers needs fusion: projection, got {self.fusion}")
        if self.unimodal_layers >= self.decoder_layers:
            raise ValueError(
                f"unimodal_layers: {self.unimodal_layers} of {self.decoder_layers} decoder_layers "
                "leave none that cross-attends to the image"
            )
        return self


class MultimodalTransformerConfig(PretrainedConfig):
    """`config.json` of a run folder: the architecture as a plain mapping.

    Example:
        >>> architecture = TransformerArchitecture(width=32, heads=4)
        >>> MultimodalTransformerConfig(architecture.model_dump(mode="json")).architecture["width"]
        32
    """

    model_type = "amodal_multimodal_transformer"

    def __init__(self, architecture: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.architecture = architecture or {}
