"""A small Transformer encoder for text, fast on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.encoders.attention import attend
from amodal.encoders.checkpointing import checkpointed
from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import TokenizerConfig, TrainedTokenizerConfig, build_tokenizer

INIT_STD = 0.02  # of the initial token embeddings


class SmallTransformerConfig(EncoderConfig):
    """Small Transformer text encoder, trained from scratch."""

    type: Literal["text"] = "text"
    kind: Literal["small_transformer"] = "small_transformer"
    width: int = Field(256, ge=8)  # of a token
    layers: int = Field(2, ge=0)  # of the Transformer
    heads: int = Field(4, ge=1)  # of attention; they divide the width
    max_length: int = Field(64, ge=4)  # tokens, special ones included
    dropout: float = Field(0.0, ge=0, lt=1)  # of embeddings, attention and feed-forward
    # cooccurrence: token embeddings initialised from the training captions, for small data
    embedding_init: Literal["random", "cooccurrence"] = "random"
    tokenizer: TokenizerConfig = TrainedTokenizerConfig()  # texts to token ids
    vocab_size: int | None = None  # filled in from the tokenizer

    @model_validator(mode="after")
    def _heads_fit(self) -> SmallTransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}")
        return self

    def build(self, pretrained: bool = True) -> SmallTransformer:
        """The encoder with random weights; there are no pretrained ones."""
        return SmallTransformer(self)

    def for_preprocessor(self, prepare: TextPreprocessor) -> SmallTransformerConfig:
        return self.model_copy(update={"vocab_size": len(prepare.tokenizer)})

    def preprocessor(self, texts: Iterable[str] | None) -> TextPreprocessor:
        return TextPreprocessor(build_tokenizer(self.tokenizer, texts), self.max_length)


class SmallTransformer(nn.Module):
    """Pre-norm Transformer encoder with learned positions.

    References:
        Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (pre-norm).

    Examples:
        >>> from amodal.encoders import SmallTransformerConfig, train_tokenizer
        >>> tokenizer = train_tokenizer(["a red circle", "a blue square"], vocab_size=40)
        >>> config = SmallTransformerConfig(width=32, layers=1, vocab_size=len(tokenizer))
        >>> inputs = tokenizer(["a red square", "a circle"], padding=True, return_tensors="pt")
        >>> tokens, keep = config.build()(inputs["input_ids"], inputs["attention_mask"])
        >>> tokens.shape == (*keep.shape, 32)
        True
    """

    pooling: PoolingName = "mean"

    def __init__(self, config: SmallTransformerConfig) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("small_transformer: vocab_size is unknown; build it with a tokenizer")
        self.config = config
        self.width = config.width
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Parameter(torch.randn(config.max_length, config.width) * 0.02)
        self.layers = nn.ModuleList(
            TransformerLayer(config.width, config.heads, config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=INIT_STD)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) ids and mask → tokens (B, N, D), keep (B, N) bool."""
        if input_ids.shape[1] > len(self.position):
            raise ValueError(
                f"texts of {input_ids.shape[1]} tokens; max_length is {len(self.position)}"
            )
        keep = attention_mask.bool()
        x = self.dropout(self.embedding(input_ids) + self.position[: input_ids.shape[1]])
        # A row without tokens attends to its padding, as a softmax over nothing would be NaN.
        mask = (keep | ~keep.any(dim=1, keepdim=True))[:, None, None, :]  # (B, 1, 1, N)
        for layer in self.layers:
            if self.config.gradient_checkpointing and self.training:
                x = checkpointed(layer, x, mask)
            else:
                x = layer(x, mask)
        return self.norm(x), keep

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Initialise the token embeddings from (V, D) unit vectors; rows of zeros stay random."""
        known = vectors.norm(dim=1) > 0
        # As long as a random row is on average, so that positions weigh as much as before.
        self.embedding.weight[known] = vectors[known] * INIT_STD * math.sqrt(self.width)

    def layer_groups(self) -> LayerGroups:
        """Embedding, then the layers, as counted by `freeze: n`."""
        return [[self.embedding, self.position], *[[layer] for layer in self.layers]]


class TransformerLayer(nn.Module):
    """Pre-norm Transformer layer: self-attention, then a feed-forward network.

    Args:
        width: D of the tokens.
        heads: of the attention; they divide the width.
        dropout: of what either part adds.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D), (B, 1, 1, N) bool → (B, N, D)."""
        batch, count, width = x.shape
        query, key, value = (
            self.query_key_value(self.attention_norm(x))
            .view(batch, count, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        attended = attend(query, key, value, mask)
        attended = attended.transpose(1, 2).reshape(batch, count, width)
        x = x + self.dropout(self.attention_out(attended))
        return x + self.dropout(self.feed_out(F.gelu(self.feed_in(self.feed_norm(x)))))
