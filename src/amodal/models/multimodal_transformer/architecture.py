"""Sizes of the multimodal Transformer, as its `config.json` keeps them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PretrainedConfig

from amodal.encoders.specification import NamedEncoders
from amodal.encoders.text.tokenizer import TokenizerConfig, TrainedTokenizerConfig
from amodal.models.image_tokenizer import TokenizerArchitecture
from amodal.projection import LinearConfig, ProjectionConfig


class TransformerArchitecture(BaseModel):
    """Everything that is needed to build the model without its weights.

    Args:
        encoders: input -> encoder of its tokens; empty for a model of text alone.
        width: of the tokens inside.
        heads: of attention.
        fusion: how text and images meet. projection: images are mixed among themselves, the
            decoder looks at them from every token of the text, and several exchanges share them.
            concat: what is asked joins the image in one sequence of the encoder. co_attention:
            both have streams of their own in the encoder, which look at each other.
        encoder_layers: that mix the tokens of the modalities before the decoder looks at them.
        decoder_layers: that read the text so far and look at the tokens of the encoder.
        unimodal_layers: the first so many of them read the text alone, and their captions can be
            compared with images; 0: every layer looks.
        projection: of images and captions into one space, where there are unimodal layers.
        dropout: of every sub-layer.
        max_length: tokens of text.
        tokenizer: of all text.
        vocabulary: tokens of text; found when the tokenizer is built.
        image_tokenizer: whose codes the model says where it draws; None: it does not draw.
        caption_dropout: share of the images that are drawn without their caption in training, which
            guidance needs.
        answers: from which those to questions are chosen; empty: they are said token by token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoders: NamedEncoders = {}
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
    def _sees_or_draws(self) -> TransformerArchitecture:
        if self.encoders and self.image_tokenizer is not None:
            raise ValueError("a model that draws cannot look at the image: leave one of them out")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> TransformerArchitecture:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads")
        return self

    @model_validator(mode="after")
    def _some_layers_look(self) -> TransformerArchitecture:
        if not self.unimodal_layers:
            return self
        if not self.encoders:
            raise ValueError("unimodal_layers: there are no images without an image encoder")
        if self.fusion != "projection":
            raise ValueError(f"unimodal_layers needs fusion: projection, got {self.fusion}")
        if self.unimodal_layers >= self.decoder_layers:
            raise ValueError(
                f"unimodal_layers: {self.unimodal_layers} of {self.decoder_layers} decoder_layers "
                "leave none that looks at the image"
            )
        return self


class MultimodalTransformerConfig(PretrainedConfig):
    """`config.json` of a run: the architecture as a plain mapping."""

    model_type = "amodal_multimodal_transformer"

    def __init__(self, architecture: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.architecture = architecture or {}
